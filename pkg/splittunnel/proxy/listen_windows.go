package proxy

import (
	"errors"
	"fmt"
	"net/netip"
)

// Port is where the driver of Windows redirects connections to be split to.
const Port = 719

// DefaultListen returns the addresses listened on unless the configuration says otherwise: the unspecified ones, because connections
// arrive at whichever address they come from.
func DefaultListen() []netip.AddrPort {
	return []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), Port), netip.AddrPortFrom(netip.IPv6Unspecified(), Port)}
}

func checkListen(a netip.AddrPort) error {
	if !a.Addr().IsValid() || !a.Addr().IsUnspecified() || a.Addr().Is4In6() || a.Port() == 0 {
		return fmt.Errorf("proxy: config: listen address %v: it must be an unspecified one with a port, such as 0.0.0.0:719", a)
	}
	return nil
}

func (c *Config) checkDirector() error {
	if _, ok := c.Director.(Finder); !ok {
		return errors.New("proxy: config: Director must be a Finder: redirected connections arrive without their destination")
	}
	return nil
}
