package netif

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// attr is one netlink attribute, built by hand: the decoder under test uses a library, and a mistake there must show.
func attr(typ uint16, data ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(data)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func u32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func routeMessage(family, bits, table, typ byte, attrs ...[]byte) []byte {
	head := []byte{family, bits, 0, 0, table, 0, 0, typ, 0, 0, 0, 0}
	return slices.Concat(append([][]byte{head}, attrs...)...)
}

func nextHop(flags byte, index uint32, attrs ...[]byte) []byte {
	body := slices.Concat(attrs...)
	b := binary.NativeEndian.AppendUint16(nil, uint16(8+len(body)))
	b = append(b, flags, 0)
	return append(append(b, u32(index)...), body...)
}

// via is RTA_VIA with an IPv6 gateway.
func via(t *testing.T, gateway string) []byte {
	t.Helper()
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET6)
	return attr(unix.RTA_VIA, append(b, netip.MustParseAddr(gateway).AsSlice()...)...)
}

func TestDecodeRoute(t *testing.T) {
	oif := attr(unix.RTA_OIF, u32(7)...)
	gw := attr(unix.RTA_GATEWAY, 10, 0, 0, 1)
	tests := map[string]struct {
		message []byte
		dst     string
		skip    bool
		hops    []hop
	}{
		"default": {
			routeMessage(unix.AF_INET, 0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, oif, gw),
			"0.0.0.0/0", false, []hop{{index: 7, gateway: netip.MustParseAddr("10.0.0.1")}},
		},
		"gateway of the other family": {
			routeMessage(unix.AF_INET, 0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, oif, via(t, "fe80::1")),
			"0.0.0.0/0", false, []hop{{index: 7, gateway: netip.MustParseAddr("fe80::1")}},
		},
		"several ways": {
			routeMessage(unix.AF_INET, 0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, attr(unix.RTA_MULTIPATH, slices.Concat(
				nextHop(0, 7, gw), nextHop(unix.RTNH_F_DEAD, 8), nextHop(0, 9, via(t, "fe80::2")),
			)...)),
			"0.0.0.0/0", false, []hop{
				{index: 7, gateway: netip.MustParseAddr("10.0.0.1")},
				{index: 8, flags: unix.RTNH_F_DEAD},
				{index: 9, gateway: netip.MustParseAddr("fe80::2")},
			},
		},
		"other table": {
			routeMessage(unix.AF_INET, 0, unix.RT_TABLE_UNSPEC, unix.RTN_UNICAST, oif, attr(unix.RTA_TABLE, u32(51820)...)),
			"0.0.0.0/0", true, []hop{{index: 7}},
		},
		"blackhole": {
			routeMessage(unix.AF_INET6, 0, unix.RT_TABLE_MAIN, unix.RTN_BLACKHOLE),
			"::/0", true, nil,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := decodeRoute(tt.message)
			if err != nil {
				t.Fatal(err)
			}
			if r.dst.String() != tt.dst || r.skip() != tt.skip || !slices.Equal(r.hops, tt.hops) {
				t.Errorf("got %v, skip %v, %+v; want %s, %v, %+v", r.dst, r.skip(), r.hops, tt.dst, tt.skip, tt.hops)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	tests := map[string][]byte{
		"route short":            make([]byte, unix.SizeofRtMsg-1),
		"route prefix too long":  routeMessage(unix.AF_INET, 33, unix.RT_TABLE_MAIN, unix.RTN_UNICAST),
		"route address length":   routeMessage(unix.AF_INET, 8, 254, 1, attr(unix.RTA_DST, 10, 0)),
		"route via short":        routeMessage(unix.AF_INET, 0, 254, 1, attr(unix.RTA_VIA, 2)),
		"next hop size too big":  routeMessage(unix.AF_INET, 0, 254, 1, attr(unix.RTA_MULTIPATH, 99, 0, 0, 0, 1, 0, 0, 0)),
		"next hop size too low":  routeMessage(unix.AF_INET, 0, 254, 1, attr(unix.RTA_MULTIPATH, 0, 0, 0, 0, 1, 0, 0, 0)),
		"next hop bad attribute": routeMessage(unix.AF_INET, 0, 254, 1, attr(unix.RTA_MULTIPATH, nextHop(0, 1, attr(unix.RTA_GATEWAY, 1))...)),
	}
	for name, b := range tests {
		if r, err := decodeRoute(b); err == nil {
			t.Errorf("%s: got %+v; want an error", name, r)
		}
	}
	addrHead := []byte{unix.AF_INET, 24, 0, 0, 2, 0, 0, 0}
	for name, b := range map[string][]byte{
		"address short":    addrHead[:7],
		"address missing":  addrHead,
		"address family":   append(slices.Clone(addrHead), attr(unix.IFA_LOCAL, make([]byte, 16)...)...),
		"attribute broken": append(slices.Clone(addrHead), 99, 0, 0, 0),
	} {
		if _, a, err := decodeAddr(b); err == nil {
			t.Errorf("%s: got %+v; want an error", name, a)
		}
	}
	if l, err := decodeLink(make([]byte, unix.SizeofIfInfomsg-1)); err == nil {
		t.Errorf("link short: got %+v; want an error", l)
	}
}

func TestConcerns(t *testing.T) {
	oif := attr(unix.RTA_OIF, u32(7)...)
	dst := attr(unix.RTA_DST, 10, 0, 0, 0)
	gw := attr(unix.RTA_GATEWAY, 10, 0, 0, 1)
	tests := map[string]struct {
		message []byte
		want    bool
	}{
		"default":                {routeMessage(unix.AF_INET, 0, 254, unix.RTN_UNICAST, oif, gw), true},
		"attached":               {routeMessage(unix.AF_INET, 8, 254, unix.RTN_UNICAST, oif, dst), true},
		"by gateway":             {routeMessage(unix.AF_INET, 8, 254, unix.RTN_UNICAST, oif, dst, gw), false},
		"other table":            {routeMessage(unix.AF_INET, 0, 100, unix.RTN_UNICAST, oif, gw), false},
		"not to be read, so yes": {nil, true},
	}
	for name, tt := range tests {
		m := netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWROUTE}, Data: tt.message}
		if got := concerns(m); got != tt.want {
			t.Errorf("%s: got %v; want %v", name, got, tt.want)
		}
	}
	if !concerns(netlink.Message{Header: netlink.Header{Type: unix.RTM_DELLINK}}) {
		t.Error("link: got false; want true")
	}
}

func TestKind(t *testing.T) {
	const ethernet = unix.ARPHRD_ETHER
	tests := []struct {
		link link
		want Kind
	}{
		{link{flags: unix.IFF_LOOPBACK, hwType: unix.ARPHRD_LOOPBACK}, KindLoopback},
		{link{hwType: ethernet, hasParent: true}, KindPhysical},
		{link{hwType: ethernet}, KindPhysical},
		{link{hwType: unix.ARPHRD_NONE, driver: "tun"}, KindTunnel},
		{link{hwType: ethernet, driver: "tun"}, KindTunnel}, // a tap
		{link{hwType: unix.ARPHRD_NONE, driver: "wireguard"}, KindTunnel},
		{link{hwType: unix.ARPHRD_PPP, driver: "ppp"}, KindTunnel},
		{link{hwType: unix.ARPHRD_PPP}, KindTunnel},
		{link{hwType: unix.ARPHRD_NONE}, KindTunnel},
		{link{hwType: unix.ARPHRD_NONE, driver: "newvpn"}, KindTunnel},
		{link{hwType: ethernet, driver: "newthing"}, KindVirtual},
		{link{hwType: unix.ARPHRD_NONE, hasParent: true}, KindPhysical}, // a modem
		{link{hwType: unix.ARPHRD_RAWIP, driver: "rmnet"}, KindPhysical},
		{link{hwType: ethernet, driver: "bridge"}, KindBridge},
		{link{hwType: ethernet, driver: "veth"}, KindVirtual},
		{link{hwType: ethernet, driver: "bond"}, KindVirtual},
	}
	for _, tt := range tests {
		if got := tt.link.kind(); got != tt.want {
			t.Errorf("%+v: got %v; want %v", tt.link, got, tt.want)
		}
	}
}

func TestAddrFlags(t *testing.T) {
	tests := []struct {
		family uint8
		kernel uint32
		want   AddrFlags
	}{
		{unix.AF_INET, unix.IFA_F_PERMANENT, 0},
		{unix.AF_INET, unix.IFA_F_SECONDARY, AddrSecondary},
		{unix.AF_INET6, unix.IFA_F_TEMPORARY, AddrTemporary},
		{unix.AF_INET6, unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED, AddrTemporary | AddrDeprecated},
		{unix.AF_INET6, unix.IFA_F_TENTATIVE, AddrTentative},
		{unix.AF_INET6, unix.IFA_F_TENTATIVE | unix.IFA_F_OPTIMISTIC, 0},
		{unix.AF_INET6, unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED, AddrTentative | AddrDuplicate},
	}
	for _, tt := range tests {
		if got := addrFlags(tt.family, tt.kernel); got != tt.want {
			t.Errorf("family %d, flags %#x: got %q; want %q", tt.family, tt.kernel, got, tt.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(routeMessage(unix.AF_INET, 0, 254, 1, attr(unix.RTA_OIF, u32(7)...), attr(unix.RTA_GATEWAY, 10, 0, 0, 1)))
	f.Add(routeMessage(unix.AF_INET, 0, 254, 1, attr(unix.RTA_MULTIPATH, nextHop(0, 7, attr(unix.RTA_GATEWAY, 1, 2, 3, 4))...)))
	f.Add(append([]byte{unix.AF_INET, 24, 0, 0, 2, 0, 0, 0}, attr(unix.IFA_LOCAL, 10, 0, 0, 1)...))
	f.Add(append(make([]byte, unix.SizeofIfInfomsg), attr(unix.IFLA_LINKINFO, attr(unix.IFLA_INFO_KIND, 't', 'u', 'n', 0)...)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a assembly
		for _, typ := range []netlink.HeaderType{unix.RTM_NEWLINK, unix.RTM_NEWADDR, unix.RTM_NEWROUTE} {
			m := netlink.Message{Header: netlink.Header{Type: typ}, Data: b}
			concerns(m)
			// Errors are fine; panics, and snapshots of what was not refused that fail in a lookup, are not.
			_ = a.addLink(m)
			_ = a.addAddr(m)
			_ = a.addRoute(m, unix.AF_INET)
			_ = a.addRoute(m, unix.AF_INET6)
		}
		if r, err := decodeRoute(b); err == nil && !r.skip() && !r.dst.IsValid() {
			t.Errorf("route without a network: %+v", r)
		}
		if _, addr, err := decodeAddr(b); err == nil && !addr.Prefix.IsValid() {
			t.Errorf("address without a network: %+v", addr)
		}
		if s, err := a.snapshot(); err == nil {
			s.Attached(netip.MustParseAddr("10.0.0.1"))
			s.IsBroadcast(netip.MustParseAddr("10.0.0.255"))
		}
	})
}
