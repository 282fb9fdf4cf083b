package splittunnel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/splittunnel"
)

// engine remembers what it is told, and gives routes by interface index.
type engine struct {
	mu      sync.Mutex // guards all below
	used    []string
	stopped []packet.Tuple
	broken  error
	useErr  error
}

func (*engine) Name() string                   { return "fake" }
func (*engine) Carries(p packet.Protocol) bool { return p == packet.TCP || p == packet.UDP }
func (*engine) Figures() any                   { return nil }

func (e *engine) Run(ctx context.Context, ready func()) error {
	if e.broken != nil {
		return e.broken
	}
	ready()
	<-ctx.Done()
	return nil
}

func (e *engine) Use(_ context.Context, paths []splittunnel.Path) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used = nil
	for _, p := range paths {
		e.used = append(e.used, fmt.Sprint(p.Interface.Name, p.Family))
	}
	return e.useErr
}

func (e *engine) Take(_ packet.Tuple, p splittunnel.Path) (uint8, error) {
	return uint8(p.Interface.Index), nil
}

func (e *engine) Stop(t packet.Tuple) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopped = append(e.stopped, t)
}

func (e *engine) paths() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.used)
}

// policy splits what goes to a port by the interface that the port stands for.
type policy map[uint16]string

func (p policy) Wish(s *conn.Snapshot) splittunnel.Wish {
	text, ok := p[s.Tuple.Remote.Port()]
	sel, err := netif.ParseSelector(text)
	if err != nil {
		panic(err)
	}
	return splittunnel.Wish{Use: ok, Interface: sel}
}

func (p policy) Interfaces() []netif.Selector {
	var list []netif.Selector
	for port := range p {
		if port != portUnplanned {
			list = append(list, p.Wish(&conn.Snapshot{Tuple: packet.Tuple{Remote: netip.AddrPortFrom(netip.IPv4Unspecified(), port)}}).Interface)
		}
	}
	return list
}

const (
	portDefault = 1 + iota
	portEth1
	portAbsent
	portDown
	portAddress
	portNowhere
	portUnplanned
)

//nolint:gochecknoglobals // a table that nobody writes
var wishes = policy{
	portDefault: "", portEth1: "eth1", portAbsent: "usb0", portDown: "eth2", portAddress: "198.51.100.3", portNowhere: "eth3",
	portUnplanned: "lo",
}

const up = net.FlagUp | net.FlagRunning

func iface(index int, name string, flags net.Flags, addrs ...string) netif.Interface {
	i := netif.Interface{Index: index, Name: name, Kind: netif.KindPhysical, Flags: flags}
	for _, a := range addrs {
		p := netip.MustParsePrefix(a)
		i.Addrs = append(i.Addrs, netif.Address{Prefix: p})
		i.Networks = append(i.Networks, p.Masked())
	}
	return i
}

func route(f netif.Family, index int, gateway string, metric uint32) netif.DefaultRoute {
	return netif.DefaultRoute{Family: f, Index: index, Gateway: netip.MustParseAddr(gateway), Metric: metric}
}

// host has a VPN that owns the default route, two ways out behind it, and some that do not work.
func host(t *testing.T, change func(ifaces []netif.Interface, defaults []netif.DefaultRoute) ([]netif.Interface, []netif.DefaultRoute)) *netif.Snapshot {
	t.Helper()
	vpn := iface(2, "vpn0", up, "10.8.0.2/24", "2001:db8:8::2/64")
	vpn.Kind = netif.KindTunnel
	ifaces := []netif.Interface{
		iface(1, "lo", up|net.FlagLoopback), vpn,
		iface(3, "eth0", up, "192.0.2.2/24"),
		iface(4, "eth1", up, "198.51.100.2/24", "198.51.100.3/24", "2001:db8:1::2/64"),
		iface(5, "eth2", net.FlagUp, "203.0.113.2/24"),
		iface(6, "eth3", up, "203.0.113.130/25"),
	}
	defaults := []netif.DefaultRoute{
		route(netif.IPv4, 2, "10.8.0.1", 1), route(netif.IPv6, 2, "2001:db8:8::1", 1),
		route(netif.IPv4, 3, "192.0.2.1", 100), route(netif.IPv4, 4, "198.51.100.1", 200), route(netif.IPv6, 4, "2001:db8:1::1", 200),
	}
	if change != nil {
		ifaces, defaults = change(ifaces, defaults)
	}
	s, err := netif.NewSnapshot(ifaces, defaults)
	require.NoError(t, err)
	return s
}

func to(remote string, protocol packet.Protocol) *conn.Snapshot {
	r := netip.MustParseAddrPort(remote)
	local := netip.MustParseAddr("10.8.0.2")
	if r.Addr().Is6() {
		local = netip.MustParseAddr("2001:db8:8::2")
	}
	return &conn.Snapshot{Tuple: packet.Tuple{Local: netip.AddrPortFrom(local, 9), Remote: r, Protocol: protocol}}
}

func TestSplitTun(t *testing.T) {
	for _, tt := range []struct {
		name     string
		remote   string
		protocol packet.Protocol
		want     string // interface and source, or ""
		err      error
	}{
		{"best default", "9.9.9.9:1", packet.TCP, "eth0 192.0.2.2", nil},
		{"best default, UDP", "9.9.9.9:1", packet.UDP, "eth0 192.0.2.2", nil},
		{"best default, IPv6", "[2620:fe::fe]:1", packet.TCP, "eth1 2001:db8:1::2", nil},
		{"named", "9.9.9.9:2", packet.TCP, "eth1 198.51.100.2", nil},
		{"not wished", "9.9.9.9:99", packet.TCP, "", nil},
		{"a protocol that the engine does not carry", "9.9.9.9:2", packet.SCTP, "", nil},
		{"absent", "9.9.9.9:3", packet.TCP, "", netif.ErrNotFound},
		{"down", "9.9.9.9:4", packet.TCP, "", netif.ErrDown},
		{"by address", "9.9.9.9:5", packet.TCP, "eth1 198.51.100.3", nil},
		{"without IPv6", "[2620:fe::fe]:4", packet.TCP, "", netif.ErrDown},
		{"by an address of the other family", "[2620:fe::fe]:5", packet.TCP, "eth1 2001:db8:1::2", nil},
		{"no IPv6 there", "[2620:fe::fe]:6", packet.TCP, "", netif.ErrNoAddress},
		{"no route there", "9.9.9.9:6", packet.TCP, "", splittunnel.ErrNotReady},
		{"its own neighbour", "203.0.113.200:6", packet.TCP, "eth3 203.0.113.130", nil},
		{"a neighbour on another interface", "192.0.2.77:2", packet.TCP, "", nil},
		{"a neighbour in the VPN", "10.8.0.9:1", packet.TCP, "", nil},
		{"a neighbour, and the interface is absent", "192.0.2.77:3", packet.TCP, "", nil},
		{"not named beforehand", "9.9.9.9:7", packet.TCP, "", errAny},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var links netif.Feed
			links.Publish(host(t, nil))
			s, err := splittunnel.New(splittunnel.Config{Engine: &engine{}, Links: &links, Policy: wishes})
			require.NoError(t, err)
			require.NoError(t, s.Refresh(t.Context()))
			c, ok, err := s.SplitTun(t.Context(), to(tt.remote, tt.protocol))
			switch {
			case tt.err != nil:
				if ok || err == nil || !errors.Is(tt.err, errAny) && !errors.Is(err, tt.err) {
					t.Errorf("got %v, %v, %v; want %v", c, ok, err, tt.err)
				}
			case err != nil || ok != (tt.want != ""):
				t.Errorf("got %v, %v, %v; want %q", c, ok, err, tt.want)
			case ok:
				if got := c.Interface + " " + c.Source.String(); got != tt.want || c.Engine != "fake" || c.Route == 0 {
					t.Errorf("got %+v; want %s, the engine's name and its route", c, tt.want)
				}
				again, _, _ := s.SplitTun(t.Context(), to(tt.remote, tt.protocol))
				if again != c {
					t.Error("got another context for the same way; want the same, without allocation")
				}
			}
		})
	}
}

var errAny = errors.New("any")

func TestSwitch(t *testing.T) {
	var links netif.Feed
	links.Publish(host(t, nil))
	s, err := splittunnel.New(splittunnel.Config{Engine: &engine{}, Links: &links, Policy: wishes})
	require.NoError(t, err)
	require.NoError(t, s.Refresh(t.Context()))
	for _, p := range []splittunnel.Position{splittunnel.On, splittunnel.Off, splittunnel.Off, splittunnel.On} {
		s.Switch(p)
		if _, ok, err := s.SplitTun(t.Context(), to("9.9.9.9:2", packet.TCP)); err != nil || ok != (p == splittunnel.On) || s.Position() != p {
			t.Errorf("position %v: got split %v, %v, position %v", p, ok, err, s.Position())
		}
	}
}

// What the interfaces do is followed: the engine knows first, then connections, then who re-evaluates. What changes nothing for
// connections tells nobody.
func TestFollowsInterfaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var links netif.Feed
		links.Publish(host(t, nil))
		ctx, cancel := context.WithCancel(t.Context())
		e, changes := &engine{}, 0
		s, err := splittunnel.New(splittunnel.Config{
			Engine: e, Links: &links, Policy: policy{portEth1: "eth1"}, OnChange: func(context.Context) { changes++ },
		})
		require.NoError(t, err)
		var running sync.WaitGroup
		running.Go(func() { require.NoError(t, links.Run(ctx, nil)) })
		isReady := make(chan struct{})
		running.Go(func() { require.NoError(t, s.Run(ctx, func() { close(isReady) })) })
		<-isReady
		synctest.Wait()
		require.Equal(t, []string{"eth1IPv4", "eth1IPv6"}, e.paths())
		require.Equal(t, 0, changes)
		before, _, err := s.SplitTun(ctx, to("9.9.9.9:2", packet.TCP))
		require.NoError(t, err)

		links.Publish(host(t, func(i []netif.Interface, d []netif.DefaultRoute) ([]netif.Interface, []netif.DefaultRoute) {
			i[2].Addrs = nil // eth0 does not matter
			return i, d
		}))
		synctest.Wait()
		require.Equal(t, 0, changes)
		same, _, _ := s.SplitTun(ctx, to("9.9.9.9:2", packet.TCP))
		require.Same(t, before, same)

		links.Publish(host(t, func(i []netif.Interface, d []netif.DefaultRoute) ([]netif.Interface, []netif.DefaultRoute) {
			return i, d[:4] // eth1 has no IPv6 route any more
		}))
		synctest.Wait()
		require.Equal(t, 1, changes)
		_, ok, err := s.SplitTun(ctx, to("[2620:fe::fe]:2", packet.TCP))
		require.False(t, ok)
		require.ErrorIs(t, err, splittunnel.ErrNotReady)
		same, _, _ = s.SplitTun(ctx, to("9.9.9.9:2", packet.TCP))
		require.Same(t, before, same)

		links.Publish(nil)
		synctest.Wait()
		require.Empty(t, e.paths())
		require.Equal(t, 2, changes)
		require.NotEmpty(t, s.Status().Selections[0].Problem)
		cancel()
		running.Wait()
	})
}

// Whoever re-evaluates may take its time: new connections go by the newest interfaces all the same, and what changed meanwhile is
// told once, afterwards.
func TestSlowOnChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var links netif.Feed
		links.Publish(host(t, nil))
		ctx, cancel := context.WithCancel(t.Context())
		began, goOn := make(chan struct{}, 8), make(chan struct{})
		s, err := splittunnel.New(splittunnel.Config{
			Engine: &engine{}, Links: &links, Policy: policy{portEth1: "eth1"},
			OnChange: func(context.Context) { began <- struct{}{}; <-goOn },
		})
		require.NoError(t, err)
		var running sync.WaitGroup
		running.Go(func() { require.NoError(t, links.Run(ctx, nil)) })
		running.Go(func() { require.NoError(t, s.Run(ctx, nil)) })
		synctest.Wait()
		split := func() error {
			_, _, err := s.SplitTun(ctx, to("9.9.9.9:2", packet.TCP))
			return err
		}
		for range 3 {
			links.Publish(nil)
			synctest.Wait()
			require.Error(t, split())
			links.Publish(host(t, nil))
			synctest.Wait()
			require.NoError(t, split())
		}
		require.Len(t, began, 1)
		close(goOn)
		synctest.Wait()
		require.Len(t, began, 2)
		cancel()
		running.Wait()
	})
}

func TestEngineError(t *testing.T) {
	broken := errors.New("no policy routing")
	s, err := splittunnel.New(splittunnel.Config{Engine: &engine{broken: broken}, Links: &netif.Feed{}, Policy: policy{}})
	require.NoError(t, err)
	require.ErrorIs(t, s.Run(t.Context(), func() { t.Error("got ready; want the engine's error") }), broken)
	_, err = splittunnel.New(splittunnel.Config{})
	require.ErrorIs(t, err, splittunnel.ErrConfig)
}

func TestSplitTunAllocs(t *testing.T) {
	var links netif.Feed
	links.Publish(host(t, nil))
	sel, err := netif.ParseSelector("eth1")
	require.NoError(t, err)
	s, err := splittunnel.New(splittunnel.Config{Engine: &engine{}, Links: &links, Policy: constant{sel}})
	require.NoError(t, err)
	require.NoError(t, s.Refresh(t.Context()))
	c := to("9.9.9.9:2", packet.TCP)
	if n := testing.AllocsPerRun(100, func() { _, _, _ = s.SplitTun(t.Context(), c) }); n != 0 {
		t.Errorf("got %v allocations a connection; want 0", n)
	}
}

type constant struct{ sel netif.Selector }

func (c constant) Wish(*conn.Snapshot) splittunnel.Wish {
	return splittunnel.Wish{Use: true, Interface: c.sel}
}
func (c constant) Interfaces() []netif.Selector { return []netif.Selector{c.sel} }
