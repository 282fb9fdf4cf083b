package netscope_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"testing"

	"github.com/weirfw/weir/pkg/netscope"
)

// edges has the first and the last address of each range and their outer neighbours.
func edges() map[string]netscope.Scope {
	return map[string]netscope.Scope{
		"0.0.0.0":         netscope.Unknown,
		"::":              netscope.Unknown,
		"0.0.0.1":         netscope.Global,
		"9.255.255.255":   netscope.Global,
		"10.0.0.0":        netscope.Site,
		"10.255.255.255":  netscope.Site,
		"11.0.0.0":        netscope.Global,
		"100.63.255.255":  netscope.Global,
		"100.64.0.0":      netscope.Site,
		"100.127.255.255": netscope.Site,
		"100.128.0.0":     netscope.Global,
		"126.255.255.255": netscope.Global,
		"127.0.0.0":       netscope.Host,
		"127.0.0.17":      netscope.Host,
		"127.255.255.255": netscope.Host,
		"128.0.0.0":       netscope.Global,
		"169.253.255.255": netscope.Global,
		"169.254.0.0":     netscope.Link,
		"169.254.169.254": netscope.Link,
		"169.254.255.255": netscope.Link,
		"169.255.0.0":     netscope.Global,
		"172.15.255.255":  netscope.Global,
		"172.16.0.0":      netscope.Site,
		"172.31.255.255":  netscope.Site,
		"172.32.0.0":      netscope.Global,
		"192.0.2.1":       netscope.Global,
		"192.167.255.255": netscope.Global,
		"192.168.0.0":     netscope.Site,
		"192.168.255.255": netscope.Site,
		"192.169.0.0":     netscope.Global,
		"223.255.255.255": netscope.Global,
		"224.0.0.0":       netscope.LocalMulticast,
		"224.0.0.251":     netscope.LocalMulticast,
		"224.0.0.255":     netscope.LocalMulticast,
		"224.0.1.0":       netscope.GlobalMulticast,
		"232.1.2.3":       netscope.GlobalMulticast,
		"238.255.255.255": netscope.GlobalMulticast,
		"239.0.0.0":       netscope.LocalMulticast,
		"239.255.255.250": netscope.LocalMulticast,
		"240.0.0.0":       netscope.Global,
		"255.255.255.254": netscope.Global,
		"255.255.255.255": netscope.Broadcast,

		"::1":                  netscope.Host,
		"::2":                  netscope.Global,
		"::127.0.0.1":          netscope.Global, // IPv4-compatible, not mapped: deprecated, and not loopback
		"::ffff:127.0.0.1":     netscope.Host,
		"::ffff:192.168.1.1":   netscope.Site,
		"::ffff:0.0.0.0":       netscope.Unknown,
		"64:ff9b::a00:1":       netscope.Global, // NAT64 of 10.0.0.1
		"2001:db8::1":          netscope.Global,
		"2002:a00:1::":         netscope.Global,
		"fbff::":               netscope.Global,
		"fc00::":               netscope.Site,
		"fdff:ffff::1":         netscope.Site,
		"fe00::":               netscope.Global,
		"fe7f::":               netscope.Global,
		"fe80::":               netscope.Link,
		"fe80::1%eth0":         netscope.Link,
		"febf:ffff::1":         netscope.Link,
		"fec0::":               netscope.Site,
		"feff:ffff::":          netscope.Site,
		"ff00::1":              netscope.LocalMulticast,
		"ff01::1":              netscope.LocalMulticast,
		"ff02::fb":             netscope.LocalMulticast,
		"ff05::2":              netscope.LocalMulticast,
		"ff08::1":              netscope.LocalMulticast,
		"ff09::1":              netscope.GlobalMulticast,
		"ff0e::1":              netscope.GlobalMulticast,
		"ff0f::1":              netscope.GlobalMulticast,
		"ff32::1":              netscope.LocalMulticast, // the flag nibble does not matter
		"ff3e::8000:1":         netscope.GlobalMulticast,
		"2606:4700:4700::1111": netscope.Global,
	}
}

func TestOf(t *testing.T) {
	for text, want := range edges() {
		t.Run(text, func(t *testing.T) {
			if got := netscope.Of(netip.MustParseAddr(text)); got != want {
				t.Errorf("Of(%s): got %v; want %v", text, got, want)
			}
		})
	}
	if got := netscope.Of(netip.Addr{}); got != netscope.Unknown {
		t.Errorf("Of(zero): got %v; want %v", got, netscope.Unknown)
	}
}

func TestOfDoesNotAllocate(t *testing.T) {
	addrs := []netip.Addr{
		netip.MustParseAddr("192.168.1.1"),
		netip.MustParseAddr("::ffff:8.8.8.8"),
		netip.MustParseAddr("fe80::1%eth0"),
		netip.MustParseAddr("2001:db8::1"),
	}
	var sum netscope.Scope
	allocs := testing.AllocsPerRun(1000, func() {
		for _, a := range addrs {
			sum += netscope.Of(a)
		}
	})
	if allocs != 0 {
		t.Errorf("allocations: got %v; want 0 (sum %d)", allocs, sum)
	}
}

func TestHelpers(t *testing.T) {
	type row struct{ valid, local, lan, group bool }
	tests := map[netscope.Scope]row{
		netscope.Unknown:         {},
		netscope.Host:            {valid: true, local: true},
		netscope.Link:            {valid: true, local: true, lan: true},
		netscope.Site:            {valid: true, local: true, lan: true},
		netscope.Global:          {valid: true},
		netscope.LocalMulticast:  {valid: true, local: true, lan: true, group: true},
		netscope.GlobalMulticast: {valid: true, group: true},
		netscope.Broadcast:       {valid: true, local: true, lan: true, group: true},
		netscope.Scope(8):        {},
		netscope.Scope(255):      {},
	}
	for s, want := range tests {
		got := row{s.IsValid(), s.IsLocal(), s.IsLAN(), s.IsGroup()}
		if got != want {
			t.Errorf("%v: got %+v; want %+v", s, got, want)
		}
	}
}

func TestText(t *testing.T) {
	seen := map[string]bool{}
	for s := netscope.Unknown; s <= netscope.Broadcast; s++ {
		text, err := s.MarshalText()
		if err != nil {
			t.Fatalf("MarshalText(%d): %v", s, err)
		}
		if string(text) != s.String() || seen[string(text)] || len(text) == 0 {
			t.Errorf("name of %d: got %q; want a unique name equal to String %q", s, text, s)
		}
		seen[string(text)] = true
		var back netscope.Scope
		if err := back.UnmarshalText(text); err != nil || back != s {
			t.Errorf("UnmarshalText(%q): got %v, %v; want %v", text, back, err, s)
		}
	}
}

func TestTextErrors(t *testing.T) {
	if _, err := netscope.Scope(8).MarshalText(); !errors.Is(err, netscope.ErrUnknownName) {
		t.Errorf("MarshalText(8): got %v; want %v", err, netscope.ErrUnknownName)
	}
	if got, want := netscope.Scope(8).String(), "scope(8)"; got != want {
		t.Errorf("String(8): got %q; want %q", got, want)
	}
	for _, text := range []string{"", " ", "Host", "host ", "lan", "scope(1)"} {
		s := netscope.Link
		if err := s.UnmarshalText([]byte(text)); !errors.Is(err, netscope.ErrUnknownName) || s != netscope.Link {
			t.Errorf("UnmarshalText(%q): got %v, %v; want unchanged, %v", text, s, err, netscope.ErrUnknownName)
		}
	}
}

func TestJSON(t *testing.T) {
	in := map[netscope.Scope]netscope.Scope{netscope.Site: netscope.LocalMulticast}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(b), `{"site":"local-multicast"}`; got != want {
		t.Errorf("JSON: got %s; want %s", got, want)
	}
}

func FuzzOf(f *testing.F) {
	for text := range edges() {
		f.Add(netip.MustParseAddr(text).AsSlice())
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, _ := netip.AddrFromSlice(b) // a wrong length gives the zero Addr, which is a case too
		s := netscope.Of(a)
		if s > netscope.Broadcast {
			t.Errorf("Of(%v): got %v; want one of the constants", a, s)
		}
		if a.Is4() {
			if m := netscope.Of(netip.AddrFrom16(a.As16())); m != s {
				t.Errorf("%v: got %v as IPv4 and %v as mapped IPv6; want the same", a, s, m)
			}
		}
		// The standard library's predicates are an independent reading of the same RFCs.
		u := a.Unmap()
		if got, want := s == netscope.Host, u.IsLoopback(); got != want {
			t.Errorf("%v: host is %v; want %v", a, got, want)
		}
		if got, want := s == netscope.Link, u.IsLinkLocalUnicast(); got != want {
			t.Errorf("%v: link is %v; want %v", a, got, want)
		}
		if got, want := s == netscope.LocalMulticast || s == netscope.GlobalMulticast, u.IsMulticast(); got != want {
			t.Errorf("%v: multicast is %v; want %v", a, got, want)
		}
		if u.IsPrivate() && s != netscope.Site {
			t.Errorf("%v: got %v; want site", a, s)
		}
	})
}

func FuzzUnmarshalText(f *testing.F) {
	f.Add("host")
	f.Add("Site")
	f.Fuzz(func(t *testing.T, text string) {
		var s netscope.Scope
		if err := s.UnmarshalText([]byte(text)); err == nil && s.String() != text {
			t.Errorf("%q read as %q", text, s)
		}
	})
}

func BenchmarkOf(b *testing.B) {
	addrs := [...]netip.Addr{
		netip.MustParseAddr("192.168.1.1"),
		netip.MustParseAddr("::ffff:8.8.8.8"),
		netip.MustParseAddr("ff02::fb"),
		netip.MustParseAddr("2001:db8::1"),
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		netscope.Of(addrs[i%len(addrs)])
	}
}
