//go:build !windows

package proxy

import (
	"fmt"
	"net/netip"
)

// DefaultListen returns the addresses listened on unless the configuration says otherwise.
func DefaultListen() []netip.AddrPort {
	return []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 17}), 719),
		netip.AddrPortFrom(netip.IPv6Loopback(), 719),
	}
}

func checkListen(a netip.AddrPort) error {
	switch addr := a.Addr(); {
	case !addr.IsValid() || a.Port() == 0:
		return fmt.Errorf("proxy: config: listen address %v: an address and a port are needed", a)
	case addr.IsUnspecified() || addr.IsMulticast() || addr.Is4In6() || addr.Zone() != "":
		return fmt.Errorf("proxy: config: listen address %v: it must be one exact address of this host, such as 127.0.0.17:719", a)
	}
	return nil
}

// checkDirector wants nothing more of it here.
func (*Config) checkDirector() error { return nil }
