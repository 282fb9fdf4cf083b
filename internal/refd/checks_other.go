//go:build !windows

package refd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/weirfw/weir/internal/varlink"
)

// Texts of the self-check.
const (
	monitoredResolver = "systemd-resolved"
	monitorRemedy     = "Start it again (systemctl restart systemd-resolved); what it does not tell is read in packets."
	useNameserver     = "write refd's address into /etc/resolv.conf"
)

// askResolver asks the system's resolver for a name, and wants to be told that.
func (d *Daemon) askResolver(ctx context.Context) error {
	name := checkName()
	heard, forget := d.check.heard.expect(name)
	defer forget()
	socket := filepath.Join(filepath.Dir(d.opt.Config.DNS.ResolvedSocket), "io.systemd.Resolve")
	c, err := varlink.Dial(ctx, socket)
	if err != nil {
		return fmt.Errorf("ask systemd-resolved: %w", err)
	}
	defer c.Close() //nolint:errcheck // nothing is lost with it
	if err := c.Send(varlink.Call{Method: "io.systemd.Resolve.ResolveHostname", Parameters: map[string]any{"name": name}}); err != nil {
		return fmt.Errorf("ask systemd-resolved: %w", err)
	}
	select {
	case <-heard:
		return nil
	case <-ctx.Done():
		return errors.New("it was asked for a name, and did not tell")
	}
}
