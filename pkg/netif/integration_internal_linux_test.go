package netif

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testutil"
)

// client is a namespace like a laptop's with a VPN: two uplinks, a bridge with a port, and a tun that owns the default.
func client(t testing.TB) *namespace {
	t.Helper()
	ns := newNamespace(t)
	ns.ip(
		"link add eth0 index 100 address 00:00:5e:00:53:01 type veth peer name peer0 index 101",
		"link add eth1 index 102 type veth peer name peer1 index 103",
		"link add br0 index 104 type bridge",
		"link set peer1 master br0",
		// No addresses that the kernel makes up, and changes once duplicate address detection is through.
		"link set eth0 addrgenmode none", "link set peer0 addrgenmode none", "link set eth1 addrgenmode none",
		"link set peer1 addrgenmode none", "link set br0 addrgenmode none",
		"link set eth0 mtu 1400 up", "link set peer0 up", "link set eth1 up", "link set peer1 up", "link set br0 up",
		"addr add 192.168.1.5/24 brd + dev eth0",
		"addr add 192.168.1.6/24 dev eth0",
		"addr add 2001:db8:1::5/64 dev eth0 nodad",
		"addr add 10.1.0.5/16 dev eth1",
		"addr add 10.9.9.9/32 dev br0",
	)
	ns.tun("tun0")
	ns.ip(
		"link set tun0 addrgenmode none", "link set tun0 up",
		"addr add 10.8.0.2/24 dev tun0",
		"addr add 10.64.0.2 peer 10.64.0.1/32 dev tun0",
		"route add default dev tun0",
		"route add 203.0.113.0/24 dev tun0", // routed into the tunnel, not attached
		"route add default via 192.168.1.1 dev eth0 metric 100",
		"route append default via 10.1.0.1 dev eth1 metric 100",
		"route add default via 192.168.1.2 dev eth0 metric 50 tos 0x10",  // for one type of service only
		"route add unreachable default metric 4000000",                   // no way out
		"route add default via 10.1.0.9 dev eth1 table 719",              // somebody else's table
		"route add 198.51.100.0/24 dev eth0",                             // attached without an address
		"route add 198.18.0.0/15 via 192.168.1.1 dev eth0",               // not attached
		"-6 route add default via fe80::1 dev eth0 metric 1024",          //
		"-6 route add default from 2001:db8:1::/64 via fe80::2 dev eth0", // for one source only
	)
	ns.settle()
	return ns
}

// settle waits until the kernel has noticed that all cables are in, which it does in its own time.
func (ns *namespace) settle() {
	ns.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		missing := ""
		for i := range ns.read().All() {
			if i.Flags&net.FlagUp != 0 && !i.Usable() {
				missing = i.Name
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			ns.t.Fatalf("%s is still not connected", missing)
		}
	}
}

func TestIntegrationRead(t *testing.T) {
	testutil.NoLeaks(t)
	ns := client(t)
	s := ns.read()
	type row struct {
		name   string
		index  int
		kind   Kind
		driver string
		usable bool
		nets   string
	}
	var got []row
	for i := range s.All() {
		var nets []string
		for _, n := range i.Networks {
			nets = append(nets, n.String())
		}
		got = append(got, row{i.Name, i.Index, i.Kind, i.Driver, i.Usable(), strings.Join(nets, " ")})
	}
	// Some kernels make fallback tunnels in each namespace; they are not ours to judge.
	got = slices.DeleteFunc(got, func(r row) bool { return r.index > 1 && r.index < 100 && r.name != "tun0" })
	tun, _ := s.ByName("tun0")
	want := []row{
		{"lo", 1, KindLoopback, "", true, ""},
		{"eth0", 100, KindVirtual, "veth", true, "192.168.1.0/24 198.51.100.0/24 2001:db8:1::/64"},
		{"peer0", 101, KindVirtual, "veth", true, ""},
		{"eth1", 102, KindVirtual, "veth", true, "10.1.0.0/16"},
		{"peer1", 103, KindVirtual, "veth", true, ""},
		{"br0", 104, KindBridge, "bridge", true, ""},
		{"tun0", tun.Index, KindTunnel, "tun", true, "10.8.0.0/24 10.64.0.1/32"},
	}
	slices.SortFunc(want, func(a, b row) int { return a.index - b.index })
	if !slices.Equal(got, want) {
		t.Errorf("interfaces:\ngot  %+v\nwant %+v", got, want)
	}
	eth0, _ := s.ByName("eth0")
	if eth0.MAC.String() != "00:00:5e:00:53:01" || eth0.MTU != 1400 || eth0.Flags&net.FlagBroadcast == 0 {
		t.Errorf("eth0: got %v, MTU %d, %v; want 00:00:5e:00:53:01, 1400, broadcast", eth0.MAC, eth0.MTU, eth0.Flags)
	}
	wantAddrs := []Address{
		{Prefix: netip.MustParsePrefix("192.168.1.5/24"), Broadcast: netip.MustParseAddr("192.168.1.255")},
		{Prefix: netip.MustParsePrefix("192.168.1.6/24"), Flags: AddrSecondary},
		{Prefix: netip.MustParsePrefix("2001:db8:1::5/64")},
	}
	for _, a := range wantAddrs {
		if !slices.Contains(eth0.Addrs, a) {
			t.Errorf("eth0: got addresses %+v; want %+v among them", eth0.Addrs, a)
		}
	}
	peer := Address{Prefix: netip.MustParsePrefix("10.64.0.2/32"), Peer: netip.MustParseAddr("10.64.0.1")}
	if tun.MAC != nil || !slices.Contains(tun.Addrs, peer) {
		t.Errorf("tun0: got %v, %+v; want no MAC, %+v", tun.MAC, tun.Addrs, peer)
	}
}

func TestIntegrationDefaults(t *testing.T) {
	testutil.NoLeaks(t)
	ns := client(t)
	s := ns.read()
	tun, _ := s.ByName("tun0")
	for f, want := range map[Family][]DefaultRoute{
		IPv4: {
			{Family: IPv4, Index: tun.Index},
			{Family: IPv4, Index: 100, Gateway: netip.MustParseAddr("192.168.1.1"), Metric: 100},
			{Family: IPv4, Index: 102, Gateway: netip.MustParseAddr("10.1.0.1"), Metric: 100},
		},
		IPv6: {{Family: IPv6, Index: 100, Gateway: netip.MustParseAddr("fe80::1"), Metric: 1024}},
	} {
		if got := slices.Collect(s.Defaults(f)); !slices.Equal(got, want) {
			t.Errorf("%v defaults: got %+v; want %+v", f, got, want)
		}
	}
	c, err := s.Pick("", IPv4)
	if err != nil || c.Interface.Name != "eth0" || c.Source.String() != "192.168.1.5" {
		t.Errorf("pick: got %s, %v, %v; want eth0, 192.168.1.5", c.Interface.Name, c.Source, err)
	}

	// Several ways at once, and an IPv6 gateway.
	ns.ip(
		"route replace default metric 100 nexthop via 192.168.1.1 dev eth0 nexthop via 10.1.0.1 dev eth1",
		"-4 route add default src 10.1.0.5 via inet6 fe80::7 dev eth1 metric 7",
	)
	eth1 := DefaultRoute{
		Family: IPv4, Index: 102, Gateway: netip.MustParseAddr("fe80::7"), Metric: 7, Source: netip.MustParseAddr("10.1.0.5"),
	}
	want := []DefaultRoute{
		{Family: IPv4, Index: tun.Index}, eth1,
		{Family: IPv4, Index: 100, Gateway: netip.MustParseAddr("192.168.1.1"), Metric: 100},
		{Family: IPv4, Index: 102, Gateway: netip.MustParseAddr("10.1.0.1"), Metric: 100},
	}
	s = ns.read()
	if got := slices.Collect(s.Defaults(IPv4)); !slices.Equal(got, want) {
		t.Errorf("several ways: got %+v; want %+v", got, want)
	}
	if c, err := s.Pick("", IPv4); err != nil || c.Default != eth1 {
		t.Errorf("pick: got %+v, %v; want %+v", c.Default, err, eth1)
	}
}

// Kernels before 4.20 do not filter: we have to come to the same answer.
func TestIntegrationOldKernel(t *testing.T) {
	testutil.NoLeaks(t)
	ns := client(t)
	want := ns.read()
	ns.do(func() error {
		conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
		if err != nil {
			return fmt.Errorf("dial: %w", err)
		}
		q := &queries{conn: conn}
		got, err := q.read(t.Context())
		if err == nil && !got.Equal(want) {
			t.Errorf("got %+v; want %+v", got.ifaces, want.ifaces)
		}
		return errors.Join(err, q.close())
	})
}

// The kernel's own table of local addresses is the reference for the lookups.
func TestIntegrationLookupsAgreeWithKernel(t *testing.T) {
	testutil.NoLeaks(t)
	ns := client(t)
	table := ns.ip("route show table local", "-6 route show table local")
	s := ns.read()
	seen := map[string]int{}
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		p, err := netip.ParsePrefix(f[1])
		if err != nil {
			a, err := netip.ParseAddr(f[1])
			if err != nil {
				continue
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		switch f[0] {
		case "local":
			if _, ok := s.Owner(p.Addr()); !ok {
				t.Errorf("%s: got no owner", line)
			}
		case "broadcast":
			if !s.IsBroadcast(p.Addr()) {
				t.Errorf("%s: got no broadcast", line)
			}
		}
		seen[f[0]]++
	}
	if seen["local"] < 8 || seen["broadcast"] < 4 {
		t.Errorf("the kernel's table has %v; the test needs more to compare\n%s", seen, table)
	}
}

func TestIntegrationEmptyNamespace(t *testing.T) {
	testutil.NoLeaks(t)
	s := newNamespace(t).read()
	lo, ok := s.ByName("lo")
	if !ok || !lo.Usable() || lo.Kind != KindLoopback || lo.MAC != nil {
		t.Errorf("lo: got %+v, %v; want it up, loopback, without a MAC", lo, ok)
	}
	if _, err := s.Pick("", IPv4); !errors.Is(err, ErrNotFound) {
		t.Errorf("pick: got %v; want %v", err, ErrNotFound)
	}
}

// following runs a Watcher in a namespace.
type following struct {
	*Watcher
	t testing.TB
}

func follow(ns *namespace, w *Watcher) *following {
	ns.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	done := ns.start(func() error { return w.Run(ctx, func() { close(ready) }) })
	select {
	case <-ready:
	case err := <-done:
		cancel()
		ns.t.Fatalf("Run: %v", err)
	}
	ns.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			ns.t.Errorf("Run: got %v; want nil", err)
		}
	})
	return &following{Watcher: w, t: ns.t}
}

// until waits for a snapshot that satisfies ok. The time is generous, but less than Config.Poll: only events help.
func (w *following) until(what string, ok func(*Snapshot) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	s := w.Snapshot()
	for !ok(s) {
		var err error
		if s, err = w.Wait(ctx, s); err != nil {
			w.t.Fatalf("%s: not seen: %v", what, err)
		}
	}
}

func TestIntegrationWatch(t *testing.T) {
	testutil.NoLeaks(t)
	ns := client(t)
	var w *Watcher
	ns.do(func() (err error) {
		w, err = New(Config{})
		return err
	})
	if _, ok := w.Snapshot().ByName("eth0"); !ok {
		t.Fatal("before Run: got no eth0")
	}
	f := follow(ns, w)
	picks := func(selector string, family Family, want string) func(*Snapshot) bool {
		return func(s *Snapshot) bool {
			c, err := s.Pick(selector, family)
			return err == nil && c.Interface.Name == want
		}
	}
	fails := func(selector string, family Family, want error) func(*Snapshot) bool {
		return func(s *Snapshot) bool {
			_, err := s.Pick(selector, family)
			return errors.Is(err, want)
		}
	}
	steps := []struct {
		command string
		ok      func(*Snapshot) bool
	}{
		{"addr add 10.1.0.77/16 dev eth1", picks("10.1.0.77", IPv4, "eth1")},
		{"addr add 2001:db8:2::5/64 dev eth1 nodad", picks("eth1", IPv6, "eth1")},
		{"addr del 2001:db8:2::5/64 dev eth1", fails("eth1", IPv6, ErrNoAddress)},
		{"route add default via 10.1.0.1 dev eth1 metric 1", picks("", IPv4, "eth1")},
		{"route del default via 10.1.0.1 dev eth1 metric 1", picks("", IPv4, "eth0")},
		{"-6 route add default via fe80::1 dev eth0 metric 5", func(s *Snapshot) bool {
			c, err := s.Pick("", IPv6)
			return err == nil && c.Default.Metric == 5
		}},
		{"link set eth0 mtu 1300", func(s *Snapshot) bool {
			i, ok := s.ByName("eth0")
			return ok && i.MTU == 1300
		}},
		{"link set peer0 down", fails("eth0", IPv4, ErrDown)}, // the cable, so to speak
		{"link set peer0 up", picks("eth0", IPv4, "eth0")},
		{"link set eth0 down", picks("", IPv4, "eth1")}, // the kernel drops the routes without an event
		{"link set eth0 name wan0", fails("eth0", IPv4, ErrNotFound)},
		{"link set wan0 up", picks("192.168.1.5", IPv4, "wan0")},
		{"link del wan0", fails("100", IPv4, ErrNotFound)},
		{"link add eth9 type veth peer name peer9", func(s *Snapshot) bool {
			_, ok := s.ByName("eth9")
			return ok
		}},
	}
	for _, step := range steps {
		ns.ip(step.command)
		f.until(step.command, step.ok)
	}
}

func TestIntegrationSubscribe(t *testing.T) {
	testutil.NoLeaks(t)
	ns := client(t)
	w := newWatcher(Config{}, openMonitor)
	got := make(chan struct{}, 100)
	defer w.Subscribe(func(s *Snapshot) {
		if _, ok := s.Owner(netip.MustParseAddr("10.1.2.3")); ok {
			got <- struct{}{}
		}
	})()
	follow(ns, w)
	ns.ip("addr add 10.1.2.3/16 dev eth1")
	select {
	case <-got:
	case <-time.After(10 * time.Second):
		t.Error("the subscriber was not called")
	}
}

// Events that do not fit into the socket's buffer are lost; what they told is not.
func TestIntegrationLostEvents(t *testing.T) {
	testutil.NoLeaks(t)
	ns := client(t)
	var m *linuxMonitor
	ns.do(func() (err error) {
		m, err = openLinuxMonitor(1) // the kernel makes a few KiB of it
		return err
	})
	batch := t.TempDir() + "/batch"
	var b strings.Builder
	for n := range 500 {
		fmt.Fprintf(&b, "addr add 10.77.%d.%d/32 dev eth1\n", n/250, n%250)
	}
	if err := os.WriteFile(batch, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	ns.ip("-batch " + batch)
	lost := false
	for n := 0; n < 500 && !lost; n++ {
		err := m.receive()
		if lost = errors.Is(err, errLost); !lost && err != nil {
			t.Fatalf("receive: %v", err)
		}
	}
	if !lost {
		t.Fatal("500 events fitted into the smallest buffer")
	}
	if err := m.close(); err != nil {
		t.Fatal(err)
	}

	// The same with a Watcher: whether or not the small buffer overflows while it reads, the end must be right.
	f := follow(ns, newWatcher(Config{}, func() (monitor, error) { return openLinuxMonitor(1) }))
	if err := os.WriteFile(batch, []byte(strings.ReplaceAll(b.String(), "addr add", "addr del")), 0o600); err != nil {
		t.Fatal(err)
	}
	ns.ip("-batch " + batch)
	f.until("deletion of 500 addresses", func(s *Snapshot) bool {
		i, _ := s.ByName("eth1")
		return !slices.ContainsFunc(i.Addrs, func(a Address) bool { return strings.HasPrefix(a.Addr().String(), "10.77.") })
	})
}

// Reading the machine's own state changes nothing and needs no privileges.
func TestIntegrationNamespacesAreApart(t *testing.T) {
	testutil.NoLeaks(t)
	ns := newNamespace(t)
	ns.ip("link add weirapart0 type bridge")
	if _, ok := ns.read().ByName("weirapart0"); !ok {
		t.Error("in the namespace: got no weirapart0")
	}
	s, err := Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.ByName("weirapart0"); ok {
		t.Error("outside: got weirapart0; want none")
	}
}

func TestReadStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := Read(ctx); !errors.Is(err, context.Canceled) || s != nil {
		t.Errorf("got %v, %v; want nil, %v", s, err, context.Canceled)
	}
}

// BenchmarkChange measures the time from the start of the command that changes an address to the snapshot that shows it,
// so the start of a process is part of it. The promise is 100 ms; the worst time is reported.
func BenchmarkChange(b *testing.B) {
	ns := client(b)
	f := follow(ns, newWatcher(Config{}, openMonitor))
	var worst time.Duration
	change := func(verb string, want bool) {
		time.Sleep(2 * minGap) // each change by itself
		b.StartTimer()
		start := time.Now()
		ns.ip("addr " + verb + " 10.1.0.78/16 dev eth1")
		f.until(verb, func(s *Snapshot) bool {
			_, ok := s.Owner(netip.MustParseAddr("10.1.0.78"))
			return ok == want
		})
		worst = max(worst, time.Since(start))
		b.StopTimer()
	}
	for b.Loop() {
		b.StopTimer()
		change("add", true)
		change("del", false)
		b.StartTimer()
	}
	b.ReportMetric(float64(worst.Microseconds()), "worst-µs")
}

func BenchmarkRead(b *testing.B) {
	ns := client(b)
	b.ReportAllocs()
	ns.do(func() error {
		for b.Loop() {
			if _, err := Read(b.Context()); err != nil {
				return err
			}
		}
		return nil
	})
}
