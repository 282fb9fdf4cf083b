package netif_test

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/netif/netiftest"
)

// laptop is a machine with a VPN that owns the default route.
func laptop() *netif.Snapshot {
	s, err := netif.NewSnapshot(
		[]netif.Interface{
			netiftest.Loopback(),
			netiftest.Ether(2, "eth0", "192.168.1.5/24", "2001:db8:1::5/64"),
			netiftest.Ether(3, "wlan0", "192.168.7.9/24"),
			netiftest.Tunnel(4, "wg0", "10.8.0.2/24"),
		},
		[]netif.DefaultRoute{
			netiftest.Default(4, "10.8.0.1", 0),
			netiftest.Default(2, "192.168.1.1", 100),
			netiftest.Default(2, "fe80::1", 100),
			netiftest.Default(3, "192.168.7.1", 600),
		})
	if err != nil {
		panic(err)
	}
	return s
}

// The empty selector goes around the VPN.
func ExampleSnapshot_Pick() {
	s := laptop()
	for _, selector := range []string{"", "wlan0", "192.168.7.9", "4"} {
		c, err := s.Pick(selector, netif.IPv4)
		fmt.Printf("%q: %s from %s by %s, %v\n", selector, c.Interface.Name, c.Source, c.Default.Gateway, err)
	}
	// Output:
	// "": eth0 from 192.168.1.5 by 192.168.1.1, <nil>
	// "wlan0": wlan0 from 192.168.7.9 by 192.168.7.1, <nil>
	// "192.168.7.9": wlan0 from 192.168.7.9 by 192.168.7.1, <nil>
	// "4": wg0 from 10.8.0.2 by 10.8.0.1, <nil>
}

func ExampleSnapshot_Pick_errors() {
	s := laptop()
	_, err := s.Pick("wlan0", netif.IPv6)
	fmt.Println(errors.Is(err, netif.ErrNoAddress))
	fmt.Println(err)
	_, err = s.Pick("eth7", netif.IPv4)
	fmt.Println(err)
	_, err = s.Pick(" ", netif.IPv4)
	fmt.Println(err)
	// Output:
	// true
	// select interface "wlan0" for IPv6: netif: interface has no address of this family; give wlan0 an address, or do not use IPv6 there
	// select interface "eth7" for IPv4: netif: no such interface; connect it, or use one of: lo, eth0, wlan0, wg0
	// select interface " ": netif: bad interface selector; remove the white space, or leave the selector empty for the best physical default
}

func ExampleSnapshot_Attached() {
	s := laptop()
	for _, text := range []string{"192.168.1.77", "192.168.2.77", "10.8.0.9"} {
		index, ok := s.Attached(netip.MustParseAddr(text))
		fmt.Println(text, index, ok)
	}
	// Output:
	// 192.168.1.77 2 true
	// 192.168.2.77 0 false
	// 10.8.0.9 4 true
}

func ExampleSnapshot_Owner() {
	index, ok := laptop().Owner(netip.MustParseAddr("::ffff:192.168.1.5"))
	fmt.Println(index, ok)
	// Output: 2 true
}

func ExampleParseSelector() {
	_, err := netif.ParseSelector("eth0 ")
	fmt.Println(errors.Is(err, netif.ErrBadSelector))
	sel, err := netif.ParseSelector("usb0")
	fmt.Println(sel, err) // fine, connected or not
	// Output:
	// true
	// usb0 <nil>
}
