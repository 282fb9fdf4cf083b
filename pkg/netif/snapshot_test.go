package netif_test

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/netif/netiftest"
)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func TestZeroSnapshot(t *testing.T) {
	s := new(netif.Snapshot)
	for range s.All() {
		t.Error("All: got an interface; want none")
	}
	for range s.Defaults(netif.IPv4) {
		t.Error("Defaults: got a route; want none")
	}
	if _, ok := s.ByName("lo"); ok {
		t.Error("ByName: got one; want none")
	}
	if _, ok := s.Attached(addr("10.0.0.1")); ok {
		t.Error("Attached: got true; want false")
	}
	if index, ok := s.Owner(addr("127.0.0.1")); !ok || index != 0 {
		t.Errorf("Owner of loopback: got %d, %v; want 0, true", index, ok)
	}
	if _, ok := s.Owner(netip.Addr{}); ok {
		t.Error("Owner of the zero Addr: got true; want false")
	}
	if !s.IsBroadcast(addr("255.255.255.255")) {
		t.Error("IsBroadcast of 255.255.255.255: got false; want true")
	}
	if _, err := s.Pick("", netif.IPv4); !errors.Is(err, netif.ErrNotFound) {
		t.Errorf("Pick: got %v; want %v", err, netif.ErrNotFound)
	}
	if !s.Equal(netiftest.Snapshot(t, nil)) {
		t.Error("Equal to a snapshot of nothing: got false; want true")
	}
}

func TestNewSnapshotRefuses(t *testing.T) {
	ok := netiftest.Ether(2, "eth0")
	tests := map[string]struct {
		ifaces   []netif.Interface
		defaults []netif.DefaultRoute
	}{
		"same index":      {[]netif.Interface{ok, netiftest.Ether(2, "eth1")}, nil},
		"same name":       {[]netif.Interface{ok, netiftest.Ether(3, "eth0")}, nil},
		"no index":        {[]netif.Interface{netiftest.Ether(0, "eth0")}, nil},
		"negative index":  {[]netif.Interface{netiftest.Ether(-1, "eth0")}, nil},
		"no name":         {[]netif.Interface{netiftest.Ether(2, "")}, nil},
		"default nowhere": {[]netif.Interface{ok}, []netif.DefaultRoute{netiftest.Default(3, "10.0.0.1", 0)}},
		"no family":       {[]netif.Interface{ok}, []netif.DefaultRoute{{Index: 2}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if s, err := netif.NewSnapshot(tt.ifaces, tt.defaults); !errors.Is(err, netif.ErrBadSnapshot) || s != nil {
				t.Errorf("got %v, %v; want nil, %v", s, err, netif.ErrBadSnapshot)
			}
		})
	}
}

func TestNewSnapshotCopiesAndSorts(t *testing.T) {
	in := []netif.Interface{
		netiftest.Ether(3, "b", "2001:db8::3/64", "10.3.0.3/16"),
		netiftest.Ether(2, "a", "10.2.0.2/16"),
	}
	in[0].Networks = append(in[0].Networks, in[0].Networks[0]) // a duplicate, as two routes with two metrics are
	defaults := []netif.DefaultRoute{
		netiftest.Default(3, "10.3.0.1", 5), netiftest.Default(2, "10.2.0.1", 5), netiftest.Default(3, "10.3.0.9", 1),
	}
	s := netiftest.Snapshot(t, in, defaults...)
	same := netiftest.Snapshot(t, []netif.Interface{in[1], in[0]}, defaults[2], defaults[1], defaults[0])
	if !s.Equal(same) || !same.Equal(s) {
		t.Error("the order of the parts changes the snapshot")
	}

	in[0].Name = "changed"
	in[0].Addrs[0] = netif.Address{}
	in[0].MAC[0] = 99
	in[0].Networks[0] = netip.Prefix{}
	defaults[0].Metric = 0

	got := slices.Collect(s.All())
	if len(got) != 2 || got[0].Name != "a" || got[1].Name != "b" || got[1].MAC[0] != 0 {
		t.Fatalf("interfaces: got %+v; want a, b, unchanged", got)
	}
	wantAddrs := []netif.Address{
		{Prefix: netip.MustParsePrefix("10.3.0.3/16")}, {Prefix: netip.MustParsePrefix("2001:db8::3/64")},
	}
	if !slices.Equal(got[1].Addrs, wantAddrs) {
		t.Errorf("addresses: got %v; want %v", got[1].Addrs, wantAddrs)
	}
	wantNets := []netip.Prefix{netip.MustParsePrefix("10.3.0.0/16"), netip.MustParsePrefix("2001:db8::/64")}
	if !slices.Equal(got[1].Networks, wantNets) {
		t.Errorf("networks: got %v; want %v", got[1].Networks, wantNets)
	}
	wantDefaults := []netif.DefaultRoute{
		netiftest.Default(3, "10.3.0.9", 1), netiftest.Default(2, "10.2.0.1", 5), netiftest.Default(3, "10.3.0.1", 5),
	}
	if d := slices.Collect(s.Defaults(netif.IPv4)); !slices.Equal(d, wantDefaults) {
		t.Errorf("defaults: got %v; want %v", d, wantDefaults)
	}
}

func TestEqual(t *testing.T) {
	base := func() netif.Interface { return netiftest.Ether(2, "eth0", "10.0.0.2/24") }
	s := netiftest.Snapshot(t, []netif.Interface{base()}, netiftest.Default(2, "10.0.0.1", 0))
	changes := map[string]func(*netif.Interface){
		"name":     func(i *netif.Interface) { i.Name = "eth1" },
		"kind":     func(i *netif.Interface) { i.Kind = netif.KindBridge },
		"driver":   func(i *netif.Interface) { i.Driver = "veth" },
		"mac":      func(i *netif.Interface) { i.MAC[5]++ },
		"mtu":      func(i *netif.Interface) { i.MTU = 1400 },
		"flags":    func(i *netif.Interface) { i.Flags &^= net.FlagRunning },
		"address":  func(i *netif.Interface) { i.Addrs[0].Flags |= netif.AddrDeprecated },
		"networks": func(i *netif.Interface) { i.Networks = nil },
	}
	for name, change := range changes {
		i := base()
		change(&i)
		if s.Equal(netiftest.Snapshot(t, []netif.Interface{i}, netiftest.Default(2, "10.0.0.1", 0))) {
			t.Errorf("another %s: got equal; want different", name)
		}
	}
	if s.Equal(netiftest.Snapshot(t, []netif.Interface{base()}, netiftest.Default(2, "10.0.0.1", 1))) {
		t.Error("another default route: got equal; want different")
	}
}

// busy has each special case of the lookups.
func busy(t *testing.T) *netif.Snapshot {
	t.Helper()
	down := netiftest.Down(netiftest.Ether(5, "eth9", "172.20.0.5/16"))
	ptp := netiftest.Tunnel(6, "ppp0")
	ptp.Addrs = []netif.Address{{Prefix: netip.MustParsePrefix("10.64.0.2/32"), Peer: addr("10.64.0.1")}}
	ptp.Networks = []netip.Prefix{netip.MustParsePrefix("10.64.0.1/32")}
	odd := netiftest.Ether(7, "eth7", "10.7.0.7/24", "fe80::1/64")
	odd.Addrs[0].Broadcast = addr("10.7.0.128")
	odd.Addrs = append(odd.Addrs, netif.Address{
		Prefix: netip.MustParsePrefix("2001:db8:7::7/64"), Flags: netif.AddrTentative | netif.AddrDuplicate,
	})
	odd.Networks = append(odd.Networks, netip.MustParsePrefix("2001:db8:7::/64"))
	return netiftest.Snapshot(t, []netif.Interface{
		netiftest.Loopback(),
		netiftest.Ether(2, "eth0", "192.168.1.5/24", "192.168.1.6/24", "fe80::1/64", "2001:db8:1::5/64"),
		netiftest.Ether(3, "eth1", "192.168.0.9/16", "10.0.0.0/31", "10.1.1.1/32"),
		down, ptp, odd,
	})
}

func TestLookups(t *testing.T) {
	s := busy(t)
	const no = -1
	tests := []struct {
		addr      string
		owner     int
		attached  int
		broadcast bool
	}{
		{"192.168.1.5", 2, 2, false},
		{"::ffff:192.168.1.6", 2, 2, false},
		{"192.168.1.77", no, 2, false},
		{"192.168.77.1", no, 3, false},
		{"192.168.1.0", no, 2, false},
		{"192.168.1.255", no, 2, true},
		{"192.168.255.255", no, 3, true},
		{"255.255.255.255", no, no, true},
		{"::ffff:255.255.255.255", no, no, true},
		{"10.0.0.0", 3, 3, false},
		{"10.0.0.1", no, 3, false}, // the other end of a /31, no broadcast address
		{"10.1.1.1", 3, no, false},
		{"172.20.0.5", 5, no, false}, // ours although down
		{"172.20.255.255", no, no, false},
		{"10.64.0.2", 6, no, false},
		{"10.64.0.1", no, 6, false},
		{"10.7.0.128", no, 7, true}, // as configured
		{"10.7.0.255", no, 7, true}, // as computed: the kernel has both
		{"127.0.0.1", 1, no, false},
		{"127.9.9.9", 1, no, false},
		{"127.255.255.255", 1, no, true},
		{"::1", 1, no, false},
		{"fe80::1", 2, 2, false},
		{"fe80::1%eth7", 7, 7, false},
		{"fe80::1%7", 7, 7, false},
		{"fe80::1%eth1", no, no, false},
		{"fe80::1%gone", no, no, false},
		{"fe80::2%eth7", no, 7, false},
		{"2001:db8:7::7", no, 7, false}, // a duplicate: somebody else's
		{"2001:db8:1::6", no, 2, false},
		{"2001:db8:2::6", no, no, false},
		{"8.8.8.8", no, no, false},
		{"::", no, no, false},
		{"0.0.0.0", no, no, false},
	}
	index := func(i int, ok bool) int {
		if !ok {
			return no
		}
		return i
	}
	for _, tt := range tests {
		t.Run(tt.addr, func(t *testing.T) {
			a := addr(tt.addr)
			if got := index(s.Owner(a)); got != tt.owner {
				t.Errorf("Owner: got %d; want %d", got, tt.owner)
			}
			if got := index(s.Attached(a)); got != tt.attached {
				t.Errorf("Attached: got %d; want %d", got, tt.attached)
			}
			if got := s.IsBroadcast(a); got != tt.broadcast {
				t.Errorf("IsBroadcast: got %v; want %v", got, tt.broadcast)
			}
			allocs := testing.AllocsPerRun(100, func() {
				s.Owner(a)
				s.Attached(a)
				s.IsBroadcast(a)
			})
			if allocs != 0 {
				t.Errorf("allocations: got %v; want 0", allocs)
			}
		})
	}
}

// slowAttached is Attached as one would explain it.
func slowAttached(s *netif.Snapshot, a netip.Addr) (index int, ok bool) {
	bits := -1
	for i := range s.All() {
		for _, n := range i.Networks {
			if n.Contains(a.Unmap()) && n.Bits() > bits {
				index, bits = i.Index, n.Bits()
			}
		}
	}
	return index, bits >= 0
}

func TestAttachedRandom(t *testing.T) {
	const seed = 719
	r := rand.New(rand.NewPCG(seed, seed))
	random := func() netip.Addr {
		if r.IntN(2) == 0 { // few bits differ, so that prefixes overlap
			return netip.AddrFrom4([4]byte{10, byte(r.IntN(2)), byte(r.IntN(4)), byte(r.IntN(256))})
		}
		return netip.AddrFrom16([16]byte{0: 0x20, 1: byte(r.IntN(2)), 7: byte(r.IntN(4)), 15: byte(r.IntN(256))})
	}
	for range 200 {
		var ifaces []netif.Interface
		for n := range r.IntN(6) {
			i := netiftest.Ether(n+1, "eth"+string(rune('0'+n)))
			for range r.IntN(5) {
				a := random()
				i.Networks = append(i.Networks, netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked())
			}
			ifaces = append(ifaces, i)
		}
		s := netiftest.Snapshot(t, ifaces)
		for range 50 {
			a := random()
			got, gotOK := s.Attached(a)
			want, wantOK := slowAttached(s, a)
			if got != want || gotOK != wantOK {
				t.Fatalf("seed %d: Attached(%v) in %v: got %d, %v; want %d, %v", seed, a, ifaces, got, gotOK, want, wantOK)
			}
		}
	}
}

func TestStrings(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{netif.IPv4.String(), "IPv4"},
		{netif.IPv6.String(), "IPv6"},
		{netif.Family(0).String(), "family(0)"},
		{netif.KindUnknown.String(), "unknown"},
		{netif.KindTunnel.String(), "tunnel"},
		{netif.KindVirtual.String(), "virtual"},
		{netif.Kind(6).String(), "kind(6)"},
		{netif.AddrFlags(0).String(), ""},
		{(netif.AddrTemporary | netif.AddrDeprecated).String(), "temporary|deprecated"},
		{(netif.AddrTentative | netif.AddrDuplicate | netif.AddrSecondary).String(), "tentative|duplicate|secondary"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q; want %q", tt.got, tt.want)
		}
	}
	for text, want := range map[string]netif.Family{"1.2.3.4": netif.IPv4, "::ffff:1.2.3.4": netif.IPv4, "::1": netif.IPv6} {
		if got := netif.FamilyOf(addr(text)); got != want {
			t.Errorf("FamilyOf(%s): got %v; want %v", text, got, want)
		}
	}
}

func BenchmarkLookups(b *testing.B) {
	var ifaces []netif.Interface
	for n := range 50 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 17, byte(n), 1}), 24)
		ifaces = append(ifaces, netiftest.Ether(n+1, "br"+string(rune('0'+n)), p.String()))
	}
	s, err := netif.NewSnapshot(ifaces, nil)
	if err != nil {
		b.Fatal(err)
	}
	near, far := addr("172.17.33.7"), addr("8.8.8.8")
	b.ReportAllocs()
	for b.Loop() {
		s.Owner(near)
		s.Attached(far)
		s.Attached(near)
		s.IsBroadcast(far)
	}
}
