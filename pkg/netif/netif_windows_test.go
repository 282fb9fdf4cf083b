package netif

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/internal/winerig"
)

// anySocket has room for what at makes of it.
func anySocket() *windows.RawSockaddrInet {
	return (*windows.RawSockaddrInet)(unsafe.Pointer(new(syscall.RawSockaddrAny)))
}

func socket4(t *testing.T, addr string) *windows.RawSockaddrInet {
	t.Helper()
	raw := anySocket()
	*(*windows.RawSockaddrInet4)(unsafe.Pointer(raw)) = windows.RawSockaddrInet4{Family: windows.AF_INET, Addr: netip.MustParseAddr(addr).As4()}
	return raw
}

func socket6(t *testing.T, addr string) *windows.RawSockaddrInet {
	t.Helper()
	raw := anySocket()
	*(*windows.RawSockaddrInet6)(unsafe.Pointer(raw)) = windows.RawSockaddrInet6{Family: windows.AF_INET6, Addr: netip.MustParseAddr(addr).As16()}
	return raw
}

func at(raw *windows.RawSockaddrInet) windows.SocketAddress {
	return windows.SocketAddress{Sockaddr: (*syscall.RawSockaddrAny)(unsafe.Pointer(raw)), SockaddrLength: int32(unsafe.Sizeof(*raw))}
}

func TestKinds(t *testing.T) {
	hardware := &windows.MibIfRow2{InterfaceAndOperStatusFlags: hardwareInterface | connectorPresent}
	software := &windows.MibIfRow2{}
	for _, c := range []struct {
		what   string
		ifType uint32
		text   string
		row    *windows.MibIfRow2
		want   Kind
	}{
		{"loopback", 24, "Software Loopback Interface 1", software, KindLoopback},
		{"card", 6, "Intel(R) Ethernet Connection", hardware, KindPhysical},
		{"Wi-Fi", 71, "Intel(R) Wi-Fi 6", hardware, KindPhysical},
		{"mobile", 243, "Mobile Broadband", software, KindPhysical},
		{"switch", 6, "Hyper-V Virtual Ethernet Adapter", software, KindVirtual},
		{"bridge", 209, "Network Bridge", software, KindBridge},
		{"wintun", 53, "Wintun Userspace Tunnel", software, KindTunnel},
		{"tap", 6, "TAP-Windows Adapter V9", hardware, KindTunnel},
		{"ppp", 23, "WAN Miniport (PPPOE)", software, KindTunnel},
		{"teredo", 131, "Teredo", software, KindTunnel},
		{"gone", 6, "USB card", nil, KindUnknown},
	} {
		if got := kindOf(c.ifType, c.text, c.row); got != c.want {
			t.Errorf("%s: got %v; want %v", c.what, got, c.want)
		}
	}
}

func text(t *testing.T, s string) *uint16 {
	t.Helper()
	p, err := windows.UTF16PtrFromString(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// card is an adapter with one address of each family.
func card(t *testing.T) *windows.IpAdapterAddresses {
	second := &windows.IpAdapterUnicastAddress{
		Address: at(socket6(t, "2001:db8::7")), OnLinkPrefixLength: 64, SuffixOrigin: windows.IpSuffixOriginRandom,
		DadState: windows.IpDadStateDeprecated,
	}
	return &windows.IpAdapterAddresses{
		IfIndex: 7, FriendlyName: text(t, "Wi-Fi 2"), Description: text(t, "Card"), IfType: windows.IF_TYPE_IEEE80211,
		OperStatus: windows.IfOperStatusUp, Mtu: 1500, Ipv4Metric: 25, Ipv6Metric: 35,
		PhysicalAddress: [8]byte{2, 0, 0, 0, 0, 1}, PhysicalAddressLength: 6,
		FirstUnicastAddress: &windows.IpAdapterUnicastAddress{
			Next: second, Address: at(socket4(t, "192.0.2.7")), OnLinkPrefixLength: 24, DadState: windows.IpDadStatePreferred,
		},
		FirstGatewayAddress: &windows.IpAdapterGatewayAddress{
			Address: at(socket4(t, "192.0.2.1")),
			Next:    &windows.IpAdapterGatewayAddress{Address: at(socket6(t, "fe80::1"))},
		},
	}
}

func route(dst netip.Prefix, raw, next *windows.RawSockaddrInet, metric uint32) *windows.MibIpForwardRow2 {
	return &windows.MibIpForwardRow2{
		InterfaceIndex: 7, Metric: metric, NextHop: *next,
		DestinationPrefix: windows.IpAddressPrefix{Prefix: *raw, PrefixLength: uint8(dst.Bits())},
	}
}

func TestAssembly(t *testing.T) {
	var a assembly
	a.addAdapter(card(t), &windows.MibIfRow2{InterfaceAndOperStatusFlags: connectorPresent, AdminStatus: adminUp})
	add := func(dst string, next *windows.RawSockaddrInet, metric uint32) {
		p := netip.MustParsePrefix(dst)
		raw, family := socket4, IPv4
		if p.Addr().Is6() {
			raw, family = socket6, IPv6
		}
		a.addRoute(route(p, raw(t, p.Addr().String()), next, metric), family)
	}
	add("0.0.0.0/0", socket4(t, "192.0.2.1"), 10)
	add("192.0.2.0/24", socket4(t, "0.0.0.0"), 0)
	add("192.0.2.7/32", socket4(t, "0.0.0.0"), 0)
	add("224.0.0.0/4", socket4(t, "0.0.0.0"), 0)
	add("255.255.255.255/32", socket4(t, "0.0.0.0"), 0)
	add("198.51.100.0/24", socket4(t, "0.0.0.0"), 0)  // attached by a route
	add("203.0.113.0/24", socket4(t, "192.0.2.9"), 0) // behind a router
	add("2001:db8::/64", socket6(t, "::"), 0)
	s, err := a.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	i, ok := s.ByName("Wi-Fi 2")
	want := Interface{
		Index: 7, Name: "Wi-Fi 2", Kind: KindPhysical, Driver: "Card", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, MTU: 1500,
		Flags: net.FlagUp | net.FlagRunning | net.FlagBroadcast | net.FlagMulticast,
		Addrs: []Address{
			{Prefix: netip.MustParsePrefix("192.0.2.7/24")},
			{Prefix: netip.MustParsePrefix("2001:db8::7/64"), Flags: AddrTemporary | AddrDeprecated},
		},
		Networks: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/64"),
		},
	}
	if !ok || !i.equal(want) {
		t.Errorf("got %+v; want %+v", i, want)
	}
	// The IPv6 table has no default route: the adapter's gateway counts.
	for f, want := range map[Family]DefaultRoute{
		IPv4: {Family: IPv4, Index: 7, Gateway: netip.MustParseAddr("192.0.2.1"), Metric: 35},
		IPv6: {Family: IPv6, Index: 7, Gateway: netip.MustParseAddr("fe80::1"), Metric: 35},
	} {
		var got []DefaultRoute
		for d := range s.Defaults(f) {
			got = append(got, d)
		}
		if len(got) != 1 || got[0] != want {
			t.Errorf("%v: got %+v; want %+v", f, got, want)
		}
	}
}

func TestDownAndStrange(t *testing.T) {
	var a assembly
	c := card(t)
	c.OperStatus, c.PhysicalAddress, c.Mtu, c.IfIndex, c.Ipv6IfIndex = windows.IfOperStatusDown, [8]byte{}, ^uint32(0), 0, 9
	c.FirstUnicastAddress.OnLinkPrefixLength = 33
	c.FirstUnicastAddress.Next.DadState = windows.IpDadStateDuplicate
	a.addAdapter(c, nil)
	i := a.ifaces[0]
	if i.Usable() || i.MAC != nil || i.MTU != 0 || i.Index != 9 || i.Kind != KindUnknown || len(i.Addrs) != 1 || i.Addrs[0].Usable() {
		t.Errorf("got %+v; want index 9, not usable, without MAC and MTU, with one duplicate address", i)
	}
}

// TestLab reads the interfaces of the namespace that the rig runs in.
func TestLab(t *testing.T) {
	told := os.Getenv(winerig.UplinkVar)
	if told == "" {
		t.Skip("runs in the Wine rig as root only: make test-windows")
	}
	var u winerig.Uplinks
	if err := json.Unmarshal([]byte(told), &u); err != nil {
		t.Fatal(err)
	}
	s, err := Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, up := range []winerig.Uplink{u.Default, u.Other} {
		i, ok := s.ByIndex(up.Index)
		if !ok || !i.Usable() || i.Kind == KindLoopback {
			t.Errorf("%s: got %+v; want a usable interface", up.Name, i)
		}
		// Wine's description of an adapter is its name: the one called vpn0 counts as a tunnel, which has no MAC.
		if (i.Kind == KindTunnel) != (up == u.Default) || (len(i.MAC) == 6) != (up == u.Other) {
			t.Errorf("%s: got %v with MAC %v; want a tunnel without if it is called VPN", up.Name, i.Kind, i.MAC)
		}
		for f, want := range map[Family]string{IPv4: up.Addr4, IPv6: up.Addr6} {
			if got, ok := i.Addr(f); !ok || got.String() != want {
				t.Errorf("%s: got address %v; want %s", up.Name, got, want)
			}
		}
		found := false
		for d := range s.Defaults(IPv4) {
			found = found || d.Index == up.Index && d.Gateway.String() == up.Gateway4
		}
		if !found {
			t.Errorf("%s: no default route by %s; there is %+v", up.Name, up.Gateway4, s.defaults)
		}
	}
	index, _ := s.Owner(netip.MustParseAddr("127.0.0.1"))
	if lo, ok := s.ByIndex(index); !ok || lo.Kind != KindLoopback {
		t.Errorf("127.0.0.1: got %+v; want the loopback interface", lo)
	}
}

func TestWatcherOfWindows(t *testing.T) {
	testutil.NoLeaks(t)
	w, err := New(Config{Poll: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // notifications are registered, and given back
		ready, done := make(chan struct{}), make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- w.Run(ctx, func() { close(ready) }) }()
		select {
		case <-ready:
		case err := <-done:
			t.Fatalf("Run: got %v; want it to be ready", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v; want nil", err)
		}
	}
}

// TestNotified calls the callback as Windows does.
func TestNotified(t *testing.T) {
	opened, err := openMonitor()
	if err != nil {
		t.Fatal(err)
	}
	m, ok := opened.(*windowsMonitor)
	if !ok {
		t.Fatalf("got a %T", opened)
	}
	for range 3 { // more than there is room for
		if _, _, errno := syscall.SyscallN(notified(), uintptr(unsafe.Pointer(m)), 0, 0); errno != 0 {
			t.Fatal(errno)
		}
	}
	if err := m.receive(); err != nil {
		t.Errorf("receive: got %v; want a change", err)
	}
	m.poll = time.Millisecond
	if err := m.receive(); err != nil {
		t.Errorf("receive without notifications: got %v; want the time to read", err)
	}
	m.poll = 0
	for range 2 {
		if err := m.close(); err != nil {
			t.Errorf("close: got %v; want nil", err)
		}
	}
	if err := m.receive(); err == nil {
		t.Error("receive after close: got nil; want an error")
	}
}
