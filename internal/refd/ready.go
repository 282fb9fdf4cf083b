package refd

import (
	"context"
	"fmt"
	"net"
)

// Intercepting waits until packets are intercepted as the configuration says. It may be called before Run, and beside it. Its error
// is that of ctx: a Run that does not get there returns why.
func (d *Daemon) Intercepting(ctx context.Context) error {
	if err := d.interception.Settled(ctx); err != nil {
		return fmt.Errorf("wait for interception: %w", err)
	}
	return nil
}

// Notify tells the service manager that listens on a socket, which it names in NOTIFY_SOCKET, how the service is, such as
// "READY=1" (sd_notify(3)). Without a socket there is nobody to tell.
func Notify(ctx context.Context, socket, state string) error {
	if socket == "" {
		return nil
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixgram", socket) // "@" begins an abstract name here as it does there
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	defer c.Close() //nolint:errcheck // what was written is with the kernel
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}
