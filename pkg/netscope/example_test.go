package netscope_test

import (
	"fmt"
	"net/netip"

	"github.com/weirfw/weir/pkg/netscope"
)

func ExampleOf() {
	for _, text := range []string{"127.0.0.1", "::ffff:192.168.1.7", "fe80::1", "224.0.0.251", "9.9.9.9"} {
		s := netscope.Of(netip.MustParseAddr(text))
		fmt.Println(text, s, s.IsLocal())
	}
	// Output:
	// 127.0.0.1 host true
	// ::ffff:192.168.1.7 site true
	// fe80::1 link true
	// 224.0.0.251 local-multicast true
	// 9.9.9.9 global false
}

// A rule for "the local network" leaves loopback to other rules.
func ExampleScope_IsLAN() {
	fmt.Println(netscope.Of(netip.MustParseAddr("10.1.2.3")).IsLAN())
	fmt.Println(netscope.Of(netip.MustParseAddr("::1")).IsLAN())
	// Output:
	// true
	// false
}

func ExampleScope_UnmarshalText() {
	var s netscope.Scope
	fmt.Println(s.UnmarshalText([]byte("site")), s)
	// Output:
	// <nil> site
}
