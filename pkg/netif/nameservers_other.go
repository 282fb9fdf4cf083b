//go:build !windows

package netif

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
)

// Nameservers returns an error that wraps errors.ErrUnsupported: files tell that here (resolv.conf(5)). On Windows it returns the servers
// that the adapters have for the system's DNS client.
func Nameservers() ([]netip.Addr, error) {
	return nil, fmt.Errorf("netif: nameservers of interfaces on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}
