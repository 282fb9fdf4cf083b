package proxy_test

import (
	"encoding/json"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/splittunnel"
	"github.com/weirfw/weir/pkg/splittunnel/proxy"
)

func (r *rig) path(f family) splittunnel.Path {
	return splittunnel.Path{
		Family: netif.FamilyOf(f.service),
		Choice: netif.Choice{Interface: netif.Interface{Index: r.ethIndex, Name: "eth0"}, Source: f.eth},
	}
}

func (r *rig) paths() (all []splittunnel.Path) {
	for _, f := range families {
		all = append(all, r.path(f))
	}
	return all
}

func tuple(p packet.Protocol, local, remote netip.AddrPort) packet.Tuple {
	return packet.Tuple{Protocol: p, Local: local, Remote: remote}
}

func (r *rig) engine(cfg proxy.EngineConfig) *proxy.Engine {
	r.t.Helper()
	cfg.Mark = ownMark
	if cfg.Server.Drain == 0 {
		cfg.Server.Drain = -1
	}
	e, err := proxy.NewEngine(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.proxy = e.Server()
	return e
}

func figures(e *proxy.Engine) proxy.EngineFigures { return e.Figures().(proxy.EngineFigures) }

func TestIntegrationEngine(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	testutil.NoLeaks(t)
	r := newRig(t)
	r.redirect()
	r.server.TCPEcho(t, "[::]:7")
	var known atomic.Pointer[splittunnel.Path]
	e := r.engine(proxy.EngineConfig{Known: func(packet.Tuple) (splittunnel.Path, bool) {
		p := known.Load()
		if p == nil {
			return splittunnel.Path{}, false
		}
		return *p, true
	}})
	f := families[0]
	t.Run("before Run", func(t *testing.T) {
		_, err := e.Take(tuple(packet.TCP, netip.AddrPortFrom(f.vpn, 1), f.at(7)), r.path(f))
		wantErr(t, err, splittunnel.ErrNotReady)
		if err := e.Use(t.Context(), r.paths()); err != nil {
			t.Errorf("Use: %v", err)
		}
		if e.Name() != "proxy" || !e.Carries(packet.TCP) || !e.Carries(packet.UDP) || e.Carries(packet.ICMP) {
			t.Error("wrong name or protocols")
		}
	})
	r.running(e.Run)
	for _, f := range families {
		r.server.UDPEcho(t, f.at(7000).String())
		r.server.UDPEcho(t, f.at(7001).String())
		t.Run(f.name, func(t *testing.T) {
			r.t = t
			c := r.capture(f, unix.IPPROTO_TCP)
			t.Run("TCP", func(t *testing.T) { r.testEngineTCP(t, e, f) })
			c.check(t)
			c = r.capture(f, unix.IPPROTO_UDP)
			t.Run("UDP", func(t *testing.T) { r.testEngineUDP(t, e, f) })
			c.check(t)
			t.Run("refused", func(t *testing.T) { r.testEngineRefused(t, e, f) })
		})
	}
	t.Run("known", func(t *testing.T) {
		p := r.path(f)
		known.Store(&p)
		defer known.Store(nil)
		echoTCP(t, dialTCP(t, f.tcp, f.at(7)), 10)
	})
	t.Run("figures", func(t *testing.T) {
		r.eventually("no session", func() bool { return figures(e).TCP.Open == 0 })
		b, err := json.Marshal(e.Figures())
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil || m["paths"] != 2.0 || m["pending"] == nil || m["tcp"] == nil || m["listen"] == nil {
			t.Errorf("got %s, %v", b, err)
		}
	})
	r.testEngineUse(t, e, f)
}

// taken dials TCP from a port that Take was told of.
func (r *rig) taken(t *testing.T, e *proxy.Engine, f family, port uint16) *net.TCPConn {
	t.Helper()
	local := netip.AddrPortFrom(f.vpn, port)
	if route, err := e.Take(tuple(packet.TCP, local, f.at(7)), r.path(f)); route != 0 || err != nil {
		t.Fatalf("Take: %d, %v", route, err)
	}
	d := net.Dialer{Timeout: limit, LocalAddr: net.TCPAddrFromAddrPort(local)}
	c, err := d.Dial(f.tcp, f.at(7).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(limit))
	echoTCP(t, c, 100)
	return c.(*net.TCPConn)
}

func (r *rig) testEngineTCP(t *testing.T, e *proxy.Engine, f family) {
	wantReset(t, f.tcp, f.at(7)) // nobody announced it
	c := r.taken(t, e, f, 4001)
	if got := figures(e); got.Pending != 0 || got.TCP.Open != 1 {
		t.Errorf("got %+v; want nothing pending, one session", got)
	}
	e.Stop(tuple(packet.TCP, netip.AddrPortFrom(f.vpn, 4001), f.at(7)))
	_, err := c.Read(make([]byte, 1))
	wantErr(t, err, unix.ECONNRESET)
	// Stop before the connection arrives: it is not expected any more.
	local := netip.AddrPortFrom(f.vpn, 4002)
	if _, err := e.Take(tuple(packet.TCP, local, f.at(7)), r.path(f)); err != nil {
		t.Fatal(err)
	}
	e.Stop(tuple(packet.TCP, local, f.at(7)))
	d := net.Dialer{Timeout: limit, LocalAddr: net.TCPAddrFromAddrPort(local)}
	if c, err := d.Dial(f.tcp, f.at(7).String()); err == nil {
		c.SetDeadline(time.Now().Add(limit))
		_, err = c.Read(make([]byte, 1))
		wantErr(t, err, unix.ECONNRESET)
		c.Close()
	}
}

func (r *rig) testEngineUDP(t *testing.T, e *proxy.Engine, f family) {
	s := listenUDP(t, netip.AddrPortFrom(f.vpn, 0))
	one, two := tuple(packet.UDP, addrOf(s), f.at(7000)), tuple(packet.UDP, addrOf(s), f.at(7001))
	take := func(tu packet.Tuple) {
		t.Helper()
		if _, err := e.Take(tu, r.path(f)); err != nil {
			t.Fatal(err)
		}
	}
	take(one)
	exchange(t, s, f.at(7000), []byte("x"))
	// The client's port begins another connection, after conntrack forgot the first.
	r.run("conntrack", "-D", "-p", "udp", "-d", f.service.String())
	take(two)
	exchange(t, s, f.at(7001), []byte("y"))
	// Announced again: the same session goes on, and nothing stays pending.
	opened := figures(e).UDP.Opened
	take(two)
	exchange(t, s, f.at(7001), []byte("z"))
	if got := figures(e); got.UDP.Opened != opened || got.UDP.Open != 1 {
		t.Errorf("got %+v; want the same session", got.UDP)
	}
	e.Stop(two)
	r.eventually("stopped", func() bool { return figures(e).UDP.Open == 0 })
	refused := figures(e).UDP.Refused
	s.WriteToUDPAddrPort([]byte("x"), f.at(7001))
	r.eventually("refused", func() bool { return figures(e).UDP.Refused == refused+1 })
	// Stop and a new announcement right after it: the new one counts.
	take(two)
	e.Stop(two)
	take(two)
	exchange(t, s, f.at(7001), []byte("again"))
	e.Stop(two)
	take(two)
	exchange(t, s, f.at(7001), []byte("and again"))
	e.Stop(two)
	e.Stop(one)
	r.eventually("all is over", func() bool { got := figures(e); return got.UDP.Open == 0 && got.Pending == 0 })
}

func (r *rig) testEngineRefused(t *testing.T, e *proxy.Engine, f family) {
	local := netip.AddrPortFrom(f.vpn, 4003)
	other := r.path(f)
	other.Interface.Index = 1
	_, err := e.Take(tuple(packet.TCP, local, f.at(7)), other)
	wantErr(t, err, splittunnel.ErrNotReady)
	if _, err := e.Take(tuple(packet.ICMP, local, f.at(7)), r.path(f)); err == nil {
		t.Error("ICMP: got no error")
	}
	wrong := families[0]
	if f.name == wrong.name {
		wrong = families[1]
	}
	if _, err := e.Take(tuple(packet.TCP, local, f.at(7)), r.path(wrong)); err == nil {
		t.Error("path of the other family: got no error")
	}
}

func (r *rig) testEngineUse(t *testing.T, e *proxy.Engine, f family) {
	r.t = t
	c := r.taken(t, e, f, 4010)
	c6 := r.taken(t, e, families[1], 4010)
	bad := r.path(f)
	bad.Source = netip.Addr{}
	if err := e.Use(t.Context(), []splittunnel.Path{bad, r.path(families[1])}); err == nil {
		t.Error("Use with a path without source: got no error")
	}
	_, err := c.Read(make([]byte, 1))
	wantErr(t, err, unix.ECONNRESET)
	echoTCP(t, c6, 100)
	_, err = e.Take(tuple(packet.TCP, netip.AddrPortFrom(f.vpn, 4011), f.at(7)), r.path(f))
	wantErr(t, err, splittunnel.ErrNotReady)
	// A new source for new connections, while the old one is still an address of the interface: nothing is cut.
	moved := r.path(families[1])
	moved.Source = moved.Source.Next().Next().Next()
	moved.Interface.Addrs = []netif.Address{{Prefix: netip.PrefixFrom(families[1].eth, 64)}}
	if err := e.Use(t.Context(), []splittunnel.Path{r.path(f), moved}); err != nil {
		t.Errorf("Use: %v", err)
	}
	echoTCP(t, c6, 100)
	moved.Interface.Addrs = nil
	if err := e.Use(t.Context(), []splittunnel.Path{r.path(f), moved}); err != nil {
		t.Errorf("Use: %v", err)
	}
	_, err = c6.Read(make([]byte, 1))
	wantErr(t, err, unix.ECONNRESET)
	r.taken(t, e, f, 4012)
}

// TestIntegrationEnginePending: UDP exchanges may pause for longer than the session lives; announcements are limited.
func TestIntegrationEnginePending(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	testutil.NoLeaks(t)
	r := newRig(t)
	r.redirect()
	f := families[0]
	r.server.UDPEcho(t, f.at(7000).String())
	e := r.engine(proxy.EngineConfig{MaxPending: 2, Server: proxy.Config{UDPIdle: time.Millisecond}})
	if err := e.Use(t.Context(), r.paths()); err != nil {
		t.Fatal(err)
	}
	r.running(e.Run)
	s := listenUDP(t, netip.AddrPortFrom(f.vpn, 0))
	if _, err := e.Take(tuple(packet.UDP, addrOf(s), f.at(7000)), r.path(f)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		exchange(t, s, f.at(7000), []byte("x"))
		r.eventually("idle", func() bool { return figures(e).UDP.Open == 0 })
		if got := figures(e).Pending; got != 1 {
			t.Errorf("got %d pending; want the session's request back", got)
		}
	}
	for n, want := range []error{nil, proxy.ErrTooMany} {
		_, err := e.Take(tuple(packet.TCP, netip.AddrPortFrom(f.vpn, uint16(5000+n)), f.at(7)), r.path(f))
		wantErr(t, err, want)
	}
}
