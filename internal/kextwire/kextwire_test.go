package kextwire_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/weirfw/weir/internal/kextwire"
	"github.com/weirfw/weir/pkg/packet"
)

func TestCodeVersion(t *testing.T) {
	if got := kextwire.CodeVersion; got != 0x9c40e000 {
		t.Errorf("got %#x; want 0x9c40e000", got)
	}
}

func TestVersion(t *testing.T) {
	v, err := kextwire.DecodeVersion([]byte{0x02, 0x01, 0x00, 0x05})
	if want := (kextwire.Version{Major: 2, Minor: 1, Build: 5}); err != nil || v != want {
		t.Errorf("got %v, %v; want %v", v, err, want)
	}
	if got := v.String(); got != "2.1.0.5" {
		t.Errorf("got %q; want 2.1.0.5", got)
	}
	if got := kextwire.AppendVersion(nil, v); string(got) != "\x02\x01\x00\x05" {
		t.Errorf("got % x; want 02 01 00 05", got)
	}
	for _, b := range [][]byte{nil, {2}, {2, 1, 0}, {2, 1, 0, 5, 0}} {
		if v, err := kextwire.DecodeVersion(b); !errors.Is(err, kextwire.ErrSize) || v != (kextwire.Version{}) {
			t.Errorf("% x: got %v, %v; want ErrSize", b, v, err)
		}
	}
}

func TestVersionOrder(t *testing.T) {
	for _, tt := range []struct {
		v                     kextwire.Version
		streams, is210, is211 bool
	}{
		{v: kextwire.Version{Major: 1, Minor: 9, Revision: 9}},
		{v: kextwire.Version{Major: 1, Minor: 255, Revision: 255, Build: 255}},
		{v: kextwire.Version{Major: 2}, streams: true},
		{v: kextwire.Version{Major: 2, Minor: 0, Revision: 11, Build: 5}, streams: true},
		{v: kextwire.Version{Major: 2, Minor: 1}, streams: true, is210: true},
		{v: kextwire.Version{Major: 2, Minor: 1, Build: 9}, streams: true, is210: true},
		{v: kextwire.Version{Major: 2, Minor: 1, Revision: 1}, streams: true, is210: true, is211: true},
		{v: kextwire.Version{Major: 2, Minor: 2}, streams: true, is210: true, is211: true},
		{v: kextwire.Version{Major: 3}, streams: true, is210: true, is211: true},
	} {
		if s, a, b := tt.v.Streams(), tt.v.AtLeast(2, 1, 0), tt.v.AtLeast(2, 1, 1); s != tt.streams || a != tt.is210 || b != tt.is211 {
			t.Errorf("%v: got %v, %v, %v; want %v, %v, %v", tt.v, s, a, b, tt.streams, tt.is210, tt.is211)
		}
	}
}

func tuple(p packet.Protocol, local, remote string) packet.Tuple {
	return packet.Tuple{Protocol: p, Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote)}
}

func TestForProxy(t *testing.T) {
	for _, tt := range []struct {
		t    packet.Tuple
		want bool
	}{
		{tuple(packet.TCP, "10.0.0.1:719", "10.0.0.1:50000"), true},
		{tuple(packet.UDP, "[fd00::1]:719", "[fd00::1]:50000"), true},
		{tuple(packet.TCP, "10.0.0.1:50000", "10.0.0.1:719"), false},
		{tuple(packet.TCP, "10.0.0.1:719", "10.0.0.2:50000"), false},
		{tuple(packet.TCP, "10.0.0.1:717", "10.0.0.1:50000"), false},
		{tuple(packet.ICMP, "10.0.0.1:719", "10.0.0.1:0"), false},
	} {
		if got := kextwire.ForProxy(&tt.t); got != tt.want {
			t.Errorf("%v: got %v; want %v", tt.t, got, tt.want)
		}
	}
}

func TestIPVersion(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("[fd00::1]:1")
	for _, tt := range []struct {
		local, remote netip.AddrPort
		want          uint8
	}{
		{v4, v4, 4}, {v6, v6, 6}, {v4, v6, 0}, {v6, v4, 0}, {netip.AddrPort{}, v4, 0}, {v6, netip.AddrPort{}, 0}, {},
	} {
		got, err := kextwire.IPVersion(&packet.Tuple{Local: tt.local, Remote: tt.remote})
		if got != tt.want || (tt.want == 0) != errors.Is(err, kextwire.ErrAddress) {
			t.Errorf("%v, %v: got %d, %v; want %d", tt.local, tt.remote, got, err, tt.want)
		}
	}
}

func TestAddr(t *testing.T) {
	mapped := netip.MustParseAddr("::ffff:1.2.3.4")
	for _, tt := range []struct {
		in      netip.Addr
		version uint8
		want    netip.Addr
	}{
		{netip.MustParseAddr("1.2.3.4"), 4, netip.MustParseAddr("1.2.3.4")},
		{netip.MustParseAddr("fd00::1234"), 6, netip.MustParseAddr("fd00::1234")},
		{mapped, 6, netip.MustParseAddr("1.2.3.4")},
		{netip.MustParseAddr("1.2.3.4"), 6, netip.MustParseAddr("1.2.3.4")},
		{netip.Addr{}, 4, netip.MustParseAddr("0.0.0.0")},
		{netip.Addr{}, 6, netip.MustParseAddr("::")},
	} {
		if got := kextwire.Addr(kextwire.AppendAddr(nil, tt.in, tt.version)); got != tt.want {
			t.Errorf("%v as version %d: got %v; want %v", tt.in, tt.version, got, tt.want)
		}
	}
}

func FuzzVersion(f *testing.F) {
	f.Add([]byte{2, 1, 0, 5})
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := kextwire.DecodeVersion(b)
		if (err == nil) != (len(b) == 4) {
			t.Fatalf("% x: got %v, %v", b, v, err)
		}
		if err == nil && string(kextwire.AppendVersion(nil, v)) != string(b) {
			t.Fatalf("% x: got %v, which is % x", b, v, kextwire.AppendVersion(nil, v))
		}
	})
}
