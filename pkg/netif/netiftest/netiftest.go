// Package netiftest feeds made-up network interfaces to tests of code that uses package netif.
//
// [Source] stands in for a [netif.Watcher]: it has the same methods, and Set instead of a kernel. [Ether], [Tunnel] and
// [Loopback] build interfaces that look like real ones.
package netiftest

import (
	"net"
	"net/netip"

	"github.com/weirfw/weir/pkg/netif"
)

// Source is a [netif.Feed] with a method for tests. The zero value is ready and has no interfaces. As with a Watcher,
// subscribers are called only while Run is active.
type Source struct {
	netif.Feed
}

// TB is what Set needs of *testing.T and its relatives.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Set replaces all interfaces and default routes, as if the machine had changed. It is as strict as the kernel: what
// [netif.NewSnapshot] refuses ends the test.
func (s *Source) Set(t TB, ifaces []netif.Interface, defaults ...netif.DefaultRoute) {
	t.Helper()
	s.Publish(Snapshot(t, ifaces, defaults...))
}

// Snapshot returns a snapshot of the interfaces and default routes; what [netif.NewSnapshot] refuses ends the test.
func Snapshot(t TB, ifaces []netif.Interface, defaults ...netif.DefaultRoute) *netif.Snapshot {
	t.Helper()
	s, err := netif.NewSnapshot(ifaces, defaults)
	if err != nil {
		t.Fatalf("netiftest: %v", err)
	}
	return s
}

// Ether returns a connected Ethernet card with an MTU of 1500, the hardware address 00:00:5e:00:53:index (RFC 7042), and
// these addresses ("192.168.1.5/24"); their networks are attached. It panics if the text is no prefix.
func Ether(index int, name string, prefixes ...string) netif.Interface {
	i := netif.Interface{
		Index: index,
		Name:  name,
		Kind:  netif.KindPhysical,
		MAC:   net.HardwareAddr{0x00, 0x00, 0x5e, 0x00, 0x53, byte(index)},
		MTU:   1500,
		Flags: net.FlagUp | net.FlagRunning | net.FlagBroadcast | net.FlagMulticast,
	}
	return withAddrs(i, prefixes)
}

// Tunnel returns a connected WireGuard interface with an MTU of 1420 and these addresses. It panics if the text is no
// prefix.
func Tunnel(index int, name string, prefixes ...string) netif.Interface {
	i := netif.Interface{
		Index:  index,
		Name:   name,
		Kind:   netif.KindTunnel,
		Driver: "wireguard",
		MTU:    1420,
		Flags:  net.FlagUp | net.FlagRunning | net.FlagPointToPoint,
	}
	return withAddrs(i, prefixes)
}

// Loopback returns the loopback interface: index 1, "lo", 127.0.0.1/8 and ::1/128.
func Loopback() netif.Interface {
	return netif.Interface{
		Index: 1,
		Name:  "lo",
		Kind:  netif.KindLoopback,
		MTU:   65536,
		Flags: net.FlagUp | net.FlagRunning | net.FlagLoopback,
		Addrs: []netif.Address{
			{Prefix: netip.MustParsePrefix("127.0.0.1/8")},
			{Prefix: netip.MustParsePrefix("::1/128")},
		},
	}
}

// Default returns a default route by the interface; the gateway's family is the route's. It panics if the gateway is no
// address.
func Default(index int, gateway string, metric uint32) netif.DefaultRoute {
	gw := netip.MustParseAddr(gateway)
	return netif.DefaultRoute{Family: netif.FamilyOf(gw), Index: index, Gateway: gw, Metric: metric}
}

// Down returns a copy of i that is switched off: its networks are gone, its addresses stay.
func Down(i netif.Interface) netif.Interface {
	i.Flags &^= net.FlagUp | net.FlagRunning
	i.Networks = nil
	return i
}

func withAddrs(i netif.Interface, prefixes []string) netif.Interface {
	for _, text := range prefixes {
		p := netip.MustParsePrefix(text)
		i.Addrs = append(i.Addrs, netif.Address{Prefix: p})
		// The kernel has no route to the network of a single address.
		if !p.IsSingleIP() {
			i.Networks = append(i.Networks, p.Masked())
		}
	}
	return i
}
