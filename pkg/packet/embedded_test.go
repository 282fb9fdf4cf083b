package packet_test

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/google/gopacket"
	gplayers "github.com/google/gopacket/layers"

	"github.com/weirfw/weir/pkg/packet"
)

// icmpError wraps quote into an error from router to whom, with a wrong
// checksum, which nobody here looks at.
func icmpError(tb testing.TB, router, whom net.IP, typ uint8, quote []byte) []byte {
	tb.Helper()
	header := gopacket.Payload{typ, 0, 0, 0, 0, 0, 0, 0}
	if whom.To4() != nil {
		return build(tb, &gplayers.IPv4{Version: 4, TTL: 60, Protocol: gplayers.IPProtocolICMPv4, SrcIP: router.To4(), DstIP: whom.To4()},
			header, gopacket.Payload(quote))
	}
	return build(tb, &gplayers.IPv6{Version: 6, HopLimit: 60, NextHeader: gplayers.IPProtocolICMPv6, SrcIP: router, DstIP: whom},
		header, gopacket.Payload(quote))
}

func embedded(tb testing.TB, b []byte, dir packet.Direction) (packet.Tuple, bool) {
	tb.Helper()
	var i packet.Info
	if err := packet.Decode(b, dir, &i); err != nil {
		tb.Fatalf("% x: %v", b, err)
	}
	return packet.DecodeEmbedded(b, dir, &i)
}

// quotable reports whether an ICMP error about b leads to b's connection.
func quotable(b []byte, i *packet.Info) bool {
	if v4 := i.Version == 4; i.Fragment || i.Local.Addr().Is4() != v4 || i.Remote.Addr().Is4() != v4 {
		return false
	}
	switch i.Protocol {
	case packet.ICMPv6:
		return i.ICMPType >= 128
	case packet.ICMP:
		return !slices.Contains([]uint8{3, 4, 5, 11, 12}, i.ICMPType)
	}
	return i.Protocol.HasPorts() || min(len(b), i.Length) >= i.HeaderLength+8
}

// checkQuoted checks that an ICMP error about b, which Decode took, is about
// b's connection, in both directions and for every quote that is long enough.
func checkQuoted(t *testing.T, b []byte, i packet.Info) {
	t.Helper()
	if !quotable(b, &i) {
		return
	}
	router, typ := net.ParseIP("192.0.2.1"), uint8(3)
	if i.Version == 6 {
		router, typ = net.ParseIP("2001:db8::1"), 1
	}
	quote := b[:min(len(b), i.Length, 60000)]
	back := packet.Inbound
	if i.Direction == packet.Inbound {
		back = packet.Outbound
	}
	if whom := net.IP(i.Source().Addr().AsSlice()); !whom.Equal(router) {
		got, ok := embedded(t, icmpError(t, router, whom, typ, quote), back)
		if !ok || got != i.Tuple {
			t.Fatalf("error about %v (%v): got %v, %v", i.Tuple, i.Direction, got, ok)
		}
	}
}

// checkEmbedded checks what must hold of every answer of DecodeEmbedded.
func checkEmbedded(t *testing.T, i *packet.Info, got packet.Tuple) {
	t.Helper()
	if !i.Protocol.IsICMP() || i.Fragment {
		t.Fatalf("%+v is no ICMP error, got %v", i, got)
	}
	if self := i.Local.Addr(); got.Local.Addr() != self && got.Remote.Addr() != i.Remote.Addr() {
		t.Fatalf("got %v, which concerns neither end of %v", got, i.Tuple)
	}
	if i.Is4() != got.Is4() && i.Version == 4 {
		t.Fatalf("got %v of another family than %v", got, i.Tuple)
	}
}

func TestDecodeEmbedded(t *testing.T) {
	tested := 0
	for _, s := range samples(t) {
		for _, dir := range []packet.Direction{packet.Outbound, packet.Inbound} {
			i, err := decode(s.b, dir)
			if err != nil {
				t.Fatal(err)
			}
			if quotable(s.b, &i) {
				tested++
			}
			checkQuoted(t, s.b, i)
		}
	}
	if tested < 40 {
		t.Errorf("tested %d quotes; want at least 40", tested)
	}
}

func TestDecodeEmbeddedShortQuote(t *testing.T) {
	for _, s := range samples(t) {
		if s.name != "tcp4-syn" && s.name != "udp6" && s.name != "icmp4-echo-request" {
			continue
		}
		router, typ, header := net.ParseIP(peer4), uint8(11), 20
		whom := net.ParseIP(host4)
		if s.want.Version == 6 {
			router, whom, typ, header = net.ParseIP(peer6), net.ParseIP(host6), 3, 40
		}
		for n := range len(s.b) {
			got, ok := embedded(t, icmpError(t, router, whom, typ, s.b[:n]), packet.Inbound)
			if want := n >= header+8; ok != want || ok && got != s.want.Tuple {
				t.Errorf("%s, quote of %d: got %v, %v; want %v", s.name, n, got, ok, want)
			}
		}
	}
}

func TestDecodeEmbeddedNot(t *testing.T) {
	byName := map[string]sample{}
	for _, s := range samples(t) {
		byName[s.name] = s
	}
	peer, host, other := net.ParseIP(peer4), net.ParseIP(host4), net.ParseIP("192.0.2.99")
	syn := byName["tcp4-syn"].b
	short := slices.Clone(syn)
	short[3] = 27
	mismatch := slices.Clone(byName["icmp4-echo-request"].b)
	mismatch[9] = 58
	later := icmpError(t, peer, host, 3, syn)
	later[6], later[7] = 0, 1
	padded := append(icmpError(t, peer, host, 3, syn[:20]), syn[20:]...)
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"TCP", syn},
		{"echo request", byName["icmp4-echo-request"].b},
		{"timestamp with a packet in it", icmpError(t, peer, host, 13, syn)},
		{"ICMP type 40", icmpError(t, peer, host, 40, syn)},
		{"informational ICMPv6", icmpError(t, net.ParseIP(peer6), net.ParseIP(host6), 137, byName["udp6"].b)},
		{"nothing quoted", icmpError(t, peer, host, 3, nil)},
		{"no packet quoted", icmpError(t, peer, host, 3, make([]byte, 40))},
		{"other family quoted", icmpError(t, peer, host, 3, byName["udp6"].b)},
		{"later fragment quoted", icmpError(t, peer, host, 3, byName["udp4-later-fragment"].b)},
		{"error quoted", icmpError(t, peer, host, 3, byName["icmp4-unreachable"].b)},
		{"ICMPv6 in IPv4 quoted", icmpError(t, peer, host, 3, mismatch)},
		{"quote that says it is too short", icmpError(t, peer, host, 3, short)},
		{"quote behind the packet", padded},
		{"sent to somebody else", icmpError(t, peer, other, 3, syn)},
		{"later fragment", later},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := embedded(t, tt.b, packet.Inbound); ok {
				t.Errorf("got %v; want nothing", got)
			}
		})
	}
}

// REJECT tells the local program: the error goes from the host to itself.
func TestDecodeEmbeddedToOneself(t *testing.T) {
	for _, s := range samples(t) {
		if s.name != "tcp4-syn" && s.name != "udp6" {
			continue
		}
		self := net.IP(s.want.Local.Addr().AsSlice())
		for _, dir := range []packet.Direction{packet.Outbound, packet.Inbound} {
			got, ok := embedded(t, icmpError(t, self, self, map[uint8]uint8{4: 3, 6: 1}[s.want.Version], s.b), dir)
			if !ok || got != s.want.Tuple {
				t.Errorf("%v: got %v, %v; want %v", dir, got, ok, s.want.Tuple)
			}
		}
	}
}

// DecodeEmbedded must not trust an Info that belongs to other bytes.
func TestDecodeEmbeddedForeignInfo(t *testing.T) {
	i := packet.Info{Tuple: packet.Tuple{Protocol: packet.ICMP}, Version: 4, ICMPType: 3}
	for _, header := range []int{-1, 0, 7, 8, 28, 29, 1 << 40} {
		i.HeaderLength, i.Length = header, 1<<41
		if got, ok := packet.DecodeEmbedded(make([]byte, 28), packet.Inbound, &i); ok {
			t.Errorf("header length %d: got %v; want nothing", header, got)
		}
	}
}

func ExampleDecodeEmbedded() {
	unreachable := []byte("\x45\x00\x00\x38\x00\x00\x40\x00\x40\x01\x00\x00\xc6\x33\x64\x07\xc0\x00\x02\x0a" + // peer to host
		"\x03\x03\x00\x00\x00\x00\x00\x00" + // ICMP port unreachable
		"\x45\x00\x00\x28\x1c\x46\x40\x00\x40\x11\x00\x00\xc0\x00\x02\x0a\xc6\x33\x64\x07" + // host to peer
		"\x9c\x40\x00\x35\x00\x14\x00\x00")
	var i packet.Info
	if err := packet.Decode(unreachable, packet.Inbound, &i); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(i.Tuple)
	fmt.Println(packet.DecodeEmbedded(unreachable, packet.Inbound, &i))
	// Output:
	// icmp 192.0.2.10:0 198.51.100.7:0
	// udp 192.0.2.10:40000 198.51.100.7:53 true
}
