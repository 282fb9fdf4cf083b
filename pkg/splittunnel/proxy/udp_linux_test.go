package proxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/splittunnel/proxy"
)

// listenUDP is a client's unconnected socket at its VPN address.
func listenUDP(t testing.TB, at netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(limit))
	c.SetReadBuffer(1 << 20)
	return c
}

func addrOf(c net.Conn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// exchange sends a datagram to an echo server and wants it back, from there.
func exchange(t testing.TB, c *net.UDPConn, to netip.AddrPort, payload []byte) {
	t.Helper()
	if err := tryExchange(c, to, payload, time.Now().Add(limit)); err != nil {
		t.Error(err)
	}
}

func tryExchange(c *net.UDPConn, to netip.AddrPort, payload []byte, deadline time.Time) error {
	if _, err := c.WriteToUDPAddrPort(payload, to); err != nil {
		return err
	}
	c.SetReadDeadline(deadline)
	b := make([]byte, 65536)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return fmt.Errorf("answer of %v to %d bytes: %w", to, len(payload), err)
	}
	if from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port()); from != to || !bytes.Equal(b[:n], payload) {
		return fmt.Errorf("got %d bytes from %v; want %d from %v", n, from, len(payload), to)
	}
	return nil
}

func TestIntegrationUDP(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	testutil.NoLeaks(t)
	r := newRig(t)
	for _, f := range families {
		for port := range uint16(64) {
			r.server.UDPEcho(t, f.at(7000+port).String())
		}
		r.vpn.UDPEcho(t, f.at(7000).String())
	}
	for _, f := range families {
		t.Run(f.name+"/control", func(t *testing.T) {
			c := r.capture(f, unix.IPPROTO_UDP)
			exchange(t, listenUDP(t, netip.AddrPortFrom(f.vpn, 0)), f.at(7000), []byte("x"))
			if c.wrong.Count() != 1 || c.right.Count() != 0 {
				t.Errorf("got %d packets on vpn0, %d on eth0; want 1, 0", c.wrong.Count(), c.right.Count())
			}
		})
	}
	r.redirect()
	r.start(proxy.Config{})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := r.capture(f, unix.IPPROTO_UDP)
			t.Run("connected", func(t *testing.T) { r.testConnected(t, f) })
			t.Run("unconnected", func(t *testing.T) {
				s := listenUDP(t, netip.AddrPortFrom(f.vpn, 0))
				for _, size := range []int{1, 0, 100, 1472, 1473} {
					exchange(t, s, f.at(7000), bytes.Repeat([]byte{'u'}, size))
				}
			})
			t.Run("64 peers", func(t *testing.T) { r.test64(t, f) })
			t.Run("many", func(t *testing.T) { r.testBurst(t, f) })
			t.Run("refused by ICMP", func(t *testing.T) { r.testICMP(t, f) })
			c.check(t)
		})
	}
	// Fragments have no ports of their own; the captures above count whole datagrams only in part, these everything.
	for _, mtu := range []string{"1500", "1400"} {
		r.run("ip", "link", "set", "eth0", "mtu", mtu)
		r.server.Run(t, "ip", "link", "set", "eth0", "mtu", mtu)
		for _, f := range families {
			t.Run(f.name+"/MTU "+mtu, func(t *testing.T) {
				wrong := r.vpn.Sniff(t, "eth0", testnet.Filter{Dst: f.net})
				s := listenUDP(t, netip.AddrPortFrom(f.vpn, 0))
				for _, size := range []int{1300, 1372, 1472, 9000, f.bigPayload} {
					exchange(t, s, f.at(7000), bytes.Repeat([]byte{'m'}, size))
				}
				if wrong.Count() != 0 {
					t.Errorf("%d packets left by vpn0", wrong.Count())
				}
			})
		}
	}
}

func (r *rig) testConnected(t *testing.T, f family) {
	c, err := net.DialUDP(f.udp, nil, net.UDPAddrFromAddrPort(f.at(7000)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(limit))
	b := make([]byte, 10)
	for _, want := range []string{"first", "second"} {
		if _, err := c.Write([]byte(want)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(b); string(b[:n]) != want || err != nil {
			t.Fatalf("got %q, %v; want %q", b[:n], err, want)
		}
	}
	want := proxy.Request{Protocol: packet.UDP, Client: addrOf(c), Destination: f.at(7000)}
	for _, s := range r.proxy.Sessions() {
		if s.Request == want {
			if s.Sent != 11 || s.Received != 11 || s.Egress != r.egress(f.service) {
				t.Errorf("got %+v; want 11 bytes each way by eth0", s)
			}
			return
		}
	}
	t.Errorf("no session of %v", want)
}

// test64 is one socket with 64 peers: each answer comes from the peer that was asked, and the director hears of one client.
func (r *rig) test64(t *testing.T, f family) {
	s := listenUDP(t, netip.AddrPortFrom(f.vpn, 0))
	for round := range 2 {
		for port := range uint16(64) {
			if _, err := s.WriteToUDPAddrPort(fmt.Appendf(nil, "%d to %d", round, 7000+port), f.at(7000+port)); err != nil {
				t.Fatal(err)
			}
		}
		right := map[uint16]bool{}
		b := make([]byte, 100)
		for range 64 {
			n, from, err := s.ReadFromUDPAddrPort(b)
			if err != nil {
				t.Fatalf("after %d answers: %v", len(right), err)
			}
			if from.Addr().Unmap() == f.service && string(b[:n]) == fmt.Sprintf("%d to %d", round, from.Port()) {
				right[from.Port()] = true
			}
		}
		if len(right) != 64 {
			t.Errorf("got %d right answers; want 64", len(right))
		}
	}
	client, sessions, remapped := addrOf(s), 0, 0
	for _, s := range r.proxy.Sessions() {
		if s.Client == client {
			sessions++
			if s.Peer != client {
				remapped++
			}
		}
	}
	if sessions != 64 || remapped != 63 {
		t.Errorf("got %d sessions of the client, %d with another port; want 64, 63", sessions, remapped)
	}
}

// testBurst sends datagrams of mixed sizes without waiting: whatever the batches look like, all come back, unchanged and in order.
func (r *rig) testBurst(t *testing.T, f family) {
	s := listenUDP(t, netip.AddrPortFrom(f.vpn, 0))
	exchange(t, s, f.at(7000), []byte("open"))
	sizes := []int{100, 100, 100, 60, 100, 1400, 1400, 1400, 1, 0, 2000, 2000, 5000, 64, 64, 64, 64, 63}
	b := make([]byte, 65536)
	for round := range 20 {
		for i, size := range sizes {
			if _, err := s.WriteToUDPAddrPort(bytes.Repeat([]byte{byte(i)}, size), f.at(7000)); err != nil {
				t.Fatal(err)
			}
		}
		for i, size := range sizes {
			n, _, err := s.ReadFromUDPAddrPort(b)
			if err != nil || !bytes.Equal(b[:n], bytes.Repeat([]byte{byte(i)}, size)) {
				t.Fatalf("round %d, datagram %d: got %d bytes, %v; want %d", round, i, n, err, size)
			}
		}
	}
}

// testICMP: what a closed port answers does not end the session, and when the port opens, it works.
func (r *rig) testICMP(t *testing.T, f family) {
	s := listenUDP(t, netip.AddrPortFrom(f.vpn, 0))
	to := f.at(6000)
	before := r.proxy.Stats().UDP
	for n := range 5 {
		if _, err := s.WriteToUDPAddrPort([]byte("anybody?"), to); err != nil {
			t.Fatal(err)
		}
		// The kernel limits how many errors it sends; the first is sent for sure.
		if n == 0 {
			r.eventually("ICMP error", func() bool { return r.proxy.Stats().UDP.ICMPErrors > before.ICMPErrors })
		}
	}
	r.eventually("all sent", func() bool { return r.proxy.Stats().UDP.SentPackets == before.SentPackets+5 })
	echo := r.server.UDPEcho(t, to.String())
	defer echo.Close()
	exchange(t, s, to, []byte("now"))
	if got := r.proxy.Stats().UDP.Opened - before.Opened; got != 1 {
		t.Errorf("got %d sessions; want the same one all the time", got)
	}
}

func TestIntegrationUDPRefusals(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	testutil.NoLeaks(t)
	r := newRig(t)
	r.redirect()
	cases := []struct {
		name    string
		egress  func(proxy.Egress) (proxy.Egress, error)
		counter func(proxy.UDPStats) uint64
	}{
		{"director refuses", func(e proxy.Egress) (proxy.Egress, error) { return e, errors.New("no") },
			func(s proxy.UDPStats) uint64 { return s.Refused }},
		{"interface is gone", func(e proxy.Egress) (proxy.Egress, error) { e.Index = 9999; return e, nil },
			func(s proxy.UDPStats) uint64 { return s.NoEgress }},
		{"source is not ours", func(e proxy.Egress) (proxy.Egress, error) {
			e.Source = e.Source.Next().Next().Next()
			return e, nil
		}, func(s proxy.UDPStats) uint64 { return s.NoEgress }},
	}
	r.start(proxy.Config{MaxUDP: 2})
	for _, f := range families {
		for _, c := range cases {
			t.Run(f.name+"/"+c.name, func(t *testing.T) {
				r.director.set(func(proxy.Request) (proxy.Egress, error) { return c.egress(r.egress(f.service)) })
				wrong := r.vpn.Sniff(t, "eth0", testnet.Filter{Dst: f.net})
				before := c.counter(r.proxy.Stats().UDP)
				s := listenUDP(t, netip.AddrPortFrom(f.vpn, 0))
				for range 2 {
					s.WriteToUDPAddrPort([]byte("x"), f.at(7000))
				}
				r.eventually("2 counted", func() bool { return c.counter(r.proxy.Stats().UDP)-before == 2 })
				if wrong.Count() != 0 {
					t.Errorf("%d packets left by vpn0", wrong.Count())
				}
			})
		}
		t.Run(f.name+"/not redirected", func(t *testing.T) {
			before := r.proxy.Stats().UDP.Refused
			s := listenUDP(t, netip.AddrPortFrom(f.listen.Addr(), 0))
			s.WriteToUDPAddrPort([]byte("x"), f.listen)
			r.eventually("1 counted", func() bool { return r.proxy.Stats().UDP.Refused-before == 1 })
		})
	}
	r.balanced()
	t.Run("limit", func(t *testing.T) {
		f := families[0]
		r.director.set(func(proxy.Request) (proxy.Egress, error) { return r.egress(f.service), nil })
		for port := range uint16(2) {
			r.server.UDPEcho(t, f.at(7000+port).String())
		}
		s := listenUDP(t, netip.AddrPortFrom(f.vpn, 0))
		exchange(t, s, f.at(7000), []byte("x"))
		exchange(t, s, f.at(7001), []byte("x"))
		s.WriteToUDPAddrPort([]byte("x"), f.at(7002))
		r.eventually("1 limited", func() bool { return r.proxy.Stats().UDP.Limited == 1 })
		n, err := r.proxy.Cut(t.Context(), func(q proxy.Request, _ proxy.Egress) bool { return q.Destination.Port() == 7000 })
		if n != 1 || err != nil {
			t.Errorf("got %d, %v; want 1 cut", n, err)
		}
	})
}

// TestIntegrationUDPStale has conntrack forget a connection and the client's port begin another: the datagrams of the second
// must not reach the destination of the first.
func TestIntegrationUDPStale(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	testutil.NoLeaks(t)
	testutil.RequireTool(t, "conntrack")
	r := newRig(t)
	r.redirect()
	cases := []struct {
		name string
		cfg  proxy.Config
		tell bool
	}{
		{"told by Verify", proxy.Config{VerifyAfter: time.Hour}, true},
		{"after silence", proxy.Config{VerifyAfter: time.Nanosecond}, false},
		{"always", proxy.Config{VerifyAfter: -1}, false},
	}
	for _, f := range families {
		a, b := r.server.UDPEcho(t, f.at(7000).String()), r.server.UDPEcho(t, f.at(7001).String())
		for _, c := range cases {
			t.Run(f.name+"/"+c.name, func(t *testing.T) {
				r.t = t
				defer r.start(c.cfg)()
				s := listenUDP(t, netip.AddrPortFrom(f.vpn, 0))
				beforeA, beforeB := a.Packets(), b.Packets()
				exchange(t, s, f.at(7000), []byte("for the first"))
				r.run("conntrack", "-D", "-p", "udp", "-d", f.service.String())
				if c.tell {
					r.proxy.Verify(addrOf(s))
				}
				exchange(t, s, f.at(7001), []byte("for the second"))
				if gotA, gotB := a.Packets()-beforeA, b.Packets()-beforeB; gotA != 1 || gotB != 1 {
					t.Errorf("the servers got %d and %d datagrams; want 1 each", gotA, gotB)
				}
				if got := r.proxy.Stats().UDP.Stale; got != 1 {
					t.Errorf("got %d stale; want 1", got)
				}
				// Asked again, conntrack and the director say that it is still the same.
				r.proxy.Verify(addrOf(s))
				exchange(t, s, f.at(7001), []byte("for the second"))
				if got := r.proxy.Stats().UDP; got.Opened != 2 || got.Verified < 2 {
					t.Errorf("got %+v; want 2 sessions, the second verified", got)
				}
			})
		}
		t.Run(f.name+"/answer without an entry", func(t *testing.T) {
			r.t = t
			defer r.start(proxy.Config{VerifyAfter: time.Nanosecond})()
			peer, err := r.server.ListenPacket(t.Context(), "udp", f.at(7100).String())
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			s := listenUDP(t, netip.AddrPortFrom(f.vpn, 0))
			s.WriteToUDPAddrPort([]byte("x"), f.at(7100))
			peer.SetDeadline(time.Now().Add(limit))
			_, from, err := peer.ReadFrom(make([]byte, 10))
			if err != nil {
				t.Fatal(err)
			}
			r.run("conntrack", "-D", "-p", "udp", "-d", f.service.String(), "--orig-port-src", fmt.Sprint(addrOf(s).Port()))
			peer.WriteTo([]byte("y"), from)
			wantErr(t, r.lastUsage().Err, proxy.ErrStale)
			if out, err := r.try("conntrack", "-L", "-p", "udp", "-s", f.listen.Addr().String()); err == nil && len(out) > 0 &&
				bytes.Contains([]byte(out), []byte("sport=719 dport="+fmt.Sprint(addrOf(s).Port())+" [")) {
				t.Errorf("the proxy's own address was seen: %s", out)
			}
		})
	}
	t.Run("moved", func(t *testing.T) {
		r.t = t
		f := families[0]
		r.director.keep = func(_ proxy.Request, e proxy.Egress) bool { return e.Source != f.eth }
		defer r.start(proxy.Config{})()
		s := listenUDP(t, netip.AddrPortFrom(f.vpn, 0))
		exchange(t, s, f.at(7000), []byte("x"))
		r.proxy.Verify(addrOf(s))
		exchange(t, s, f.at(7000), []byte("x"))
		wantErr(t, r.lastUsage().Err, proxy.ErrMoved)
		if got := r.proxy.Stats().UDP; got.Opened != 2 || got.Stale != 0 {
			t.Errorf("got %+v; want 2 sessions", got)
		}
	})
	t.Run("idle", func(t *testing.T) {
		r.t = t
		f := families[0]
		defer r.start(proxy.Config{UDPIdle: 20 * time.Millisecond})()
		exchange(t, listenUDP(t, netip.AddrPortFrom(f.vpn, 0)), f.at(7000), []byte("x"))
		wantErr(t, r.lastUsage().Err, proxy.ErrIdle)
		r.balanced()
	})
}
