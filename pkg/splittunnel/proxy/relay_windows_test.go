package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/internal/winerig"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/splittunnel"
)

const generous = 30 * time.Second

// startEngine runs an engine on the addresses that the driver redirects to, with a path for IPv4 by the uplink.
func startEngine(t *testing.T, by winerig.Uplink, edit func(*EngineConfig)) (*Engine, splittunnel.Path) {
	t.Helper()
	testutil.NoLeaks(t)
	cfg := EngineConfig{Server: Config{Drain: -1}}
	if edit != nil {
		edit(&cfg)
	}
	e, err := NewEngine(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- e.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("Run: %v", err)
	}
	p := splittunnel.Path{Family: netif.IPv4}
	p.Interface.Index, p.Interface.Name, p.Source = by.Index, by.Name, netip.MustParseAddr(by.Addr4)
	if err := e.Use(t.Context(), []splittunnel.Path{p}); err != nil {
		t.Fatal(err)
	}
	return e, p
}

// redirected connects as what the driver has redirected arrives: from the host's own address to that same address, port 719. Before
// that it calls announce with the client's address.
func redirected(t *testing.T, network string, own netip.Addr, announce func(client netip.AddrPort)) net.Conn {
	t.Helper()
	client := freePort(t, network, own)
	announce(client)
	d := net.Dialer{Timeout: generous, LocalAddr: net.TCPAddrFromAddrPort(client)}
	if network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(client)
	}
	c, err := d.DialContext(t.Context(), network, netip.AddrPortFrom(own, 719).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // most often it is
	if err := c.SetDeadline(time.Now().Add(generous)); err != nil {
		t.Fatal(err)
	}
	return c
}

// freePort returns an address that nobody has.
func freePort(t *testing.T, network string, own netip.Addr) netip.AddrPort {
	t.Helper()
	at := netip.AddrPortFrom(own, 0)
	if network == "udp" {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func tuple(p packet.Protocol, client netip.AddrPort, server string) packet.Tuple {
	return packet.Tuple{Protocol: p, Local: client, Remote: netip.MustParseAddrPort(server)}
}

// TestWildcard: who connects from the host's own address to that same address is served if there is a request, and only then.
func TestWildcard(t *testing.T) {
	u := uplinks(t)
	own := netip.MustParseAddr(u.Default.Addr4)
	e, p := startEngine(t, u.Default, nil)
	take := func(protocol packet.Protocol) func(client netip.AddrPort) {
		return func(client netip.AddrPort) {
			if _, err := e.Take(tuple(protocol, client, u.Server4), p); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := redirected(t, "tcp", own, take(packet.TCP))
	if got, err := io.ReadAll(c); err != nil || netip.MustParseAddrPort(string(got)).Addr() != own {
		t.Errorf("TCP: got %q, %v; want the server's answer to %v", got, err, own)
	}
	c = redirected(t, "udp", own, take(packet.UDP))
	for range 2 { // in one session
		if got := ask(t, c); got != own {
			t.Errorf("UDP: the server was asked from %v; want %v", got, own)
		}
	}

	nothing := func(netip.AddrPort) {}
	c = redirected(t, "tcp", own, nothing)
	if got, err := io.ReadAll(c); len(got) > 0 || err == nil && !winerig.UnderWine() {
		t.Errorf("TCP without a request: got %q, %v; want it refused", got, err)
	}
	c = redirected(t, "udp", own, nothing)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(generous); e.Server().Stats().UDP.Refused == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("UDP without a request is not refused")
		}
	}
	st := e.Server().Stats()
	if st.TCP.Refused != 1 || st.TCP.Connected != 1 || st.UDP.Opened != 1 || st.UDP.Refused != 1 {
		t.Errorf("got %+v; want one of each refused", st)
	}
}

// TestWildcardIPv6 is the same for IPv6. What is served goes on by its interface, which Wine refuses.
func TestWildcardIPv6(t *testing.T) {
	u := uplinks(t)
	own := netip.MustParseAddr(u.Default.Addr6)
	e, _ := startEngine(t, u.Default, nil)
	p := splittunnel.Path{Family: netif.IPv6}
	p.Interface.Index, p.Interface.Name, p.Source = u.Default.Index, u.Default.Name, own
	if err := e.Use(t.Context(), []splittunnel.Path{p}); err != nil {
		t.Fatal(err)
	}
	await := func(what string, so func(Stats) bool) {
		t.Helper()
		for deadline := time.Now().Add(generous); !so(e.Server().Stats()); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: got %+v", what, e.Server().Stats())
			}
		}
	}

	nothing := func(netip.AddrPort) {}
	c := redirected(t, "tcp", own, nothing)
	if got, err := io.ReadAll(c); len(got) > 0 || err == nil && !winerig.UnderWine() {
		t.Errorf("TCP without a request: got %q, %v; want it refused", got, err)
	}
	await("TCP without a request is not refused", func(s Stats) bool { return s.TCP.Refused == 1 })
	c = redirected(t, "udp", own, nothing)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	await("UDP without a request is not refused", func(s Stats) bool { return s.UDP.Refused == 1 })

	c = redirected(t, "tcp", own, func(client netip.AddrPort) {
		if _, err := e.Take(tuple(packet.TCP, client, u.Server6), p); err != nil {
			t.Fatal(err)
		}
	})
	got, err := io.ReadAll(c)
	if winerig.UnderWine() {
		await("TCP with a request is not served", func(s Stats) bool { return s.TCP.NoEgress == 1 && s.TCP.Refused == 1 })
	} else if err != nil || netip.MustParseAddrPort(string(got)).Addr() != own {
		t.Errorf("TCP: got %q, %v; want the server's answer to %v", got, err, own)
	}
}

// TestOtherUplink: what is redirected on one interface leaves by the other.
func TestOtherUplink(t *testing.T) {
	u := uplinks(t)
	e, p := startEngine(t, u.Other, nil)
	c := redirected(t, "udp", netip.MustParseAddr(u.Default.Addr4), func(client netip.AddrPort) {
		if _, err := e.Take(tuple(packet.UDP, client, u.Server4), p); err != nil {
			t.Fatal(err)
		}
	})
	if got := ask(t, c); got != netip.MustParseAddr(u.Other.Addr4) {
		t.Errorf("the server was asked from %v; want %s", got, u.Other.Addr4)
	}
	if list := e.Server().Sessions(); len(list) != 1 || list[0].Destination.String() != u.Server4 || list[0].Sent == 0 || list[0].Received == 0 {
		t.Errorf("got sessions %+v; want one to %s", list, u.Server4)
	}
	// Its interface goes: the session ends, and nothing takes another way.
	if err := e.Use(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if list := e.Server().Sessions(); len(list) != 0 {
		t.Errorf("got sessions %+v; want none without the interface", list)
	}
	if _, err := e.Take(tuple(packet.UDP, netip.MustParseAddrPort("10.9.9.9:9"), u.Server4), p); !errors.Is(err, splittunnel.ErrNotReady) {
		t.Errorf("Take: got %v; want %v", err, splittunnel.ErrNotReady)
	}
}

// TestAmbiguousPort: nobody can tell two destinations of one port apart, so there is one at a time.
func TestAmbiguousPort(t *testing.T) {
	u := uplinks(t)
	e, p := startEngine(t, u.Default, func(c *EngineConfig) { c.Server.UDPIdle = 50 * time.Millisecond })
	own := netip.MustParseAddr(u.Default.Addr4)
	var client netip.AddrPort
	c := redirected(t, "udp", own, func(from netip.AddrPort) {
		client = from
		if _, err := e.Take(tuple(packet.UDP, client, u.Server4), p); err != nil {
			t.Fatal(err)
		}
	})
	const elsewhere = "198.51.100.1:9"
	if _, err := e.Take(tuple(packet.UDP, client, elsewhere), p); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("another destination: got %v; want %v", err, ErrAmbiguous)
	}
	if _, err := e.Take(tuple(packet.TCP, client, elsewhere), p); err != nil {
		t.Errorf("another protocol: got %v; want nil", err)
	}
	ask(t, c)
	for deadline := time.Now().Add(generous); len(e.Server().Sessions()) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the session does not end when it is idle")
		}
	}
	if _, err := e.Take(tuple(packet.UDP, client, elsewhere), p); err != nil {
		t.Errorf("another destination when the first is over: got %v; want nil", err)
	}
}

// TestEndOfSessions: both sides hear of it when the firewall ends a connection, and of an orderly end.
func TestEndOfSessions(t *testing.T) {
	u := uplinks(t)
	e, p := startEngine(t, u.Default, nil)
	own := netip.MustParseAddr(u.Default.Addr4)
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(own, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var t1 packet.Tuple
	c := redirected(t, "tcp", own, func(client netip.AddrPort) {
		t1 = tuple(packet.TCP, client, l.Addr().String())
		if _, err := e.Take(t1, p); err != nil {
			t.Fatal(err)
		}
	})
	s, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := c.Write([]byte("ask")); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); string(got) != "ask" || err != nil {
		t.Errorf("got %q, %v; want all, and the end", got, err)
	}
	if _, err := s.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "answer" {
		t.Errorf("got %q, %v; want the answer after our half has ended", b, err)
	}
	e.Stop(t1)
	if n, err := c.Read(b); n > 0 || err == nil {
		t.Errorf("got %d bytes, %v; want the end", n, err)
	}
	for deadline := time.Now().Add(generous); e.Server().Stats().TCP.Stopped != 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %+v; want one stopped", e.Server().Stats().TCP)
		}
	}
}

func TestConfigOfWindows(t *testing.T) {
	for what, c := range map[string]Config{
		"an exact address": {Director: (*director)(&Engine{}), Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.17:719")}},
		"no port":          {Director: (*director)(&Engine{}), Listen: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:0")}},
		"no finder":        {Director: struct{ Director }{}},
		"no director":      {},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: got no error", what)
		}
	}
}
