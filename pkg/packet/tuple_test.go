package packet_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/weirfw/weir/pkg/packet"
)

func TestProtocolText(t *testing.T) {
	names := map[packet.Protocol]string{1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp", 136: "udplite"}
	for n := range 256 {
		p := packet.Protocol(n)
		want, named := names[p]
		if !named {
			want = fmt.Sprint(n)
		}
		b, err := p.MarshalText()
		if err != nil || string(b) != want || p.String() != want {
			t.Errorf("%d: got %q, %v, %v; want %q", n, b, err, p, want)
		}
		for _, in := range []string{want, fmt.Sprint(n)} {
			var got packet.Protocol
			if err := got.UnmarshalText([]byte(in)); err != nil || got != p {
				t.Errorf("%q: got %v, %v; want %v", in, got, err, p)
			}
		}
	}
	for _, in := range []string{"", "TCP", "256", "-1", "quic"} {
		p := packet.SCTP
		if err := p.UnmarshalText([]byte(in)); !errors.Is(err, packet.ErrUnknownProtocol) || p != packet.SCTP {
			t.Errorf("%q: got %v, %v; want %v", in, p, err, packet.ErrUnknownProtocol)
		}
	}
}

func TestProtocolKinds(t *testing.T) {
	for n := range 256 {
		p := packet.Protocol(n)
		if got, want := p.HasPorts(), n == 6 || n == 17 || n == 132 || n == 136; got != want {
			t.Errorf("%v: HasPorts is %t", p, got)
		}
		if got, want := p.IsICMP(), n == 1 || n == 58; got != want {
			t.Errorf("%v: IsICMP is %t", p, got)
		}
	}
}

func TestDirectionText(t *testing.T) {
	for d, want := range map[packet.Direction]string{packet.Outbound: "out", packet.Inbound: "in"} {
		b, err := d.MarshalText()
		if err != nil || string(b) != want {
			t.Errorf("got %q, %v; want %q", b, err, want)
		}
		got := packet.Direction(9)
		if err := got.UnmarshalText(b); err != nil || got != d {
			t.Errorf("%q: got %v, %v; want %v", b, got, err, d)
		}
	}
	var d packet.Direction
	if err := d.UnmarshalText([]byte("both")); !errors.Is(err, packet.ErrUnknownDirection) {
		t.Errorf("got %v; want %v", err, packet.ErrUnknownDirection)
	}
}

func TestTuple(t *testing.T) {
	out := packet.Tuple{Local: addrPort(host4, 1234), Remote: addrPort(peer4, 80), Protocol: packet.TCP}
	if got, want := out.String(), "tcp 192.0.2.10:1234 198.51.100.7:80"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
	back := out.Reverse()
	if back.Local != out.Remote || back.Remote != out.Local || back.Protocol != packet.TCP || back.Reverse() != out {
		t.Errorf("got %v; want the ends of %v exchanged", back, out)
	}
	six := packet.Tuple{Local: addrPort(host6, 1), Remote: addrPort(peer6, 2)}
	if !out.Is4() || six.Is4() {
		t.Errorf("Is4 of %v is %t, of %v %t", out, out.Is4(), six, six.Is4())
	}
	b, err := json.Marshal(out)
	if want := `{"local":"192.0.2.10:1234","remote":"198.51.100.7:80","protocol":"tcp"}`; err != nil || string(b) != want {
		t.Fatalf("got %s, %v; want %s", b, err, want)
	}
	var got packet.Tuple
	if err := json.Unmarshal(b, &got); err != nil || got != out {
		t.Errorf("got %v, %v; want %v", got, err, out)
	}
}

func TestInfoEnds(t *testing.T) {
	i := packet.Info{Tuple: packet.Tuple{Local: addrPort(host4, 1), Remote: addrPort(peer4, 2)}}
	if i.Source() != i.Local || i.Destination() != i.Remote {
		t.Errorf("outbound: from %v to %v; want local to remote", i.Source(), i.Destination())
	}
	i.Direction = packet.Inbound
	if i.Source() != i.Remote || i.Destination() != i.Local {
		t.Errorf("inbound: from %v to %v; want remote to local", i.Source(), i.Destination())
	}
}

func TestInfoEcho(t *testing.T) {
	for _, tt := range []struct {
		p              packet.Protocol
		typ            uint8
		fragment       bool
		request, reply bool
	}{
		{p: packet.ICMP, typ: 8, request: true},
		{p: packet.ICMP, typ: 0, reply: true},
		{p: packet.ICMP, typ: 3},
		{p: packet.ICMP, typ: 128},
		{p: packet.ICMPv6, typ: 128, request: true},
		{p: packet.ICMPv6, typ: 129, reply: true},
		{p: packet.ICMPv6, typ: 8},
		{p: packet.ICMPv6, typ: 0},
		{p: packet.TCP, typ: 8},
		{p: packet.TCP, typ: 0},
		// a later fragment has no type, and 0 is one
		{p: packet.ICMP, typ: 0, fragment: true},
		{p: packet.ICMP, typ: 8, fragment: true},
	} {
		i := packet.Info{Tuple: packet.Tuple{Protocol: tt.p}, ICMPType: tt.typ, Fragment: tt.fragment}
		if i.IsEchoRequest() != tt.request || i.IsEchoReply() != tt.reply || i.IsEcho() != (tt.request || tt.reply) {
			t.Errorf("%+v: got request %t, reply %t, echo %t", tt, i.IsEchoRequest(), i.IsEchoReply(), i.IsEcho())
		}
	}
}

// A tuple is a key: the packets of both directions find the same connection.
func ExampleTuple() {
	conns := map[packet.Tuple]string{}
	out := packet.Tuple{
		Local:    netip.MustParseAddrPort("192.0.2.10:50000"),
		Remote:   netip.MustParseAddrPort("198.51.100.7:443"),
		Protocol: packet.TCP,
	}
	conns[out] = "curl"
	theirs := out.Reverse()
	fmt.Println(out, conns[out])
	fmt.Println(theirs, conns[theirs.Reverse()])
	// Output:
	// tcp 192.0.2.10:50000 198.51.100.7:443 curl
	// tcp 198.51.100.7:443 192.0.2.10:50000 curl
}
