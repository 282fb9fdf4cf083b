package proxy_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
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

func dialTCP(t testing.TB, network string, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	d := net.Dialer{Timeout: limit}
	c, err := d.Dial(network, to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// serveTCP hands each connection at addr on the server to f, one at a time.
func (r *rig) serveTCP(addr string, f func(*net.TCPConn)) uint16 {
	r.t.Helper()
	ln, err := r.server.Listen(context.Background(), "tcp", addr)
	if err != nil {
		r.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			tc := c.(*net.TCPConn)
			tc.SetDeadline(time.Now().Add(limit))
			f(tc)
			tc.Close()
		}
	}()
	r.t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestIntegrationTCP(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	testutil.NoLeaks(t)
	r := newRig(t)
	echo := r.server.TCPEcho(t, "[::]:7")
	r.vpn.TCPEcho(t, "[::]:7")
	for _, f := range families {
		t.Run(f.name+"/control", func(t *testing.T) {
			// Without redirection it leaves by the VPN, and the captures see it.
			c := r.capture(f, unix.IPPROTO_TCP)
			echoTCP(t, dialTCP(t, f.tcp, f.at(7)), 100)
			if c.wrong.Count() == 0 || c.right.Count() != 0 {
				t.Errorf("got %d packets on vpn0, %d on eth0; want some, none", c.wrong.Count(), c.right.Count())
			}
		})
	}
	r.redirect()
	r.start(proxy.Config{})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			c := r.capture(f, unix.IPPROTO_TCP)
			before := echo.Accepted()
			t.Run("echo", func(t *testing.T) { r.testEcho(t, f) })
			if got := echo.Accepted() - before; got != 1 {
				t.Errorf("the server saw %d connections; want 1", got)
			}
			t.Run("bulk", func(t *testing.T) { r.testBulk(t, f) })
			t.Run("client half-closes", func(t *testing.T) { r.testClientHalfCloses(t, f) })
			t.Run("server half-closes", func(t *testing.T) { r.testServerHalfCloses(t, f) })
			t.Run("client resets", func(t *testing.T) { r.testClientResets(t, f) })
			t.Run("server resets", func(t *testing.T) { r.testServerResets(t, f) })
			t.Run("destination refuses", func(t *testing.T) { r.testRefused(t, f) })
			t.Run("many at once", func(t *testing.T) { r.testMany(t, f) })
			c.check(t)
			r.balanced()
		})
	}
}

func echoTCP(t testing.TB, c net.Conn, size int) {
	t.Helper()
	out, in := bytes.Repeat([]byte("abcdefg"), size/7+1)[:size], make([]byte, size)
	if _, err := c.Write(out); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, in); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(in, out) {
		t.Error("the echo is not what was sent")
	}
}

func (r *rig) testEcho(t *testing.T, f family) {
	c := dialTCP(t, f.tcp, f.at(7))
	for _, size := range []int{1, 64, 1000, 16 << 10, 40_000} {
		echoTCP(t, c, size)
	}
	local := c.LocalAddr().(*net.TCPAddr).AddrPort()
	list := r.proxy.Sessions()
	if len(list) != 1 {
		t.Fatalf("got %d sessions; want 1: %+v", len(list), list)
	}
	want := proxy.Request{Protocol: packet.TCP, Client: local, Destination: f.at(7)}
	if s := list[0]; s.Request != want || s.Connecting || s.Egress != r.egress(f.service) || s.Sent != 57449 {
		t.Errorf("got %+v; want request %v, 57449 bytes sent", s, want)
	}
	c.Close()
	u := r.lastUsage()
	if u.Err != nil || u.Sent != 57449 || u.Received != 57449 {
		t.Errorf("got usage %+v; want 57449 bytes each way and no error", u)
	}
}

// testBulk sends random data both ways at once and compares checksums; the server reads slowly at first so that pipes fill.
func (r *rig) testBulk(t *testing.T, f family) {
	const size = 24 << 20
	sums := make(chan [2][32]byte, 1)
	port := r.serveTCP("[::]:0", func(c *net.TCPConn) {
		out := sha256.New()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			io.Copy(c, io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{2}), size), out))
			c.CloseWrite()
		}()
		in := sha256.New()
		io.Copy(in, c)
		<-sent
		sums <- [2][32]byte{[32]byte(in.Sum(nil)), [32]byte(out.Sum(nil))}
	})
	c := dialTCP(t, f.tcp, f.at(port))
	out, in := sha256.New(), sha256.New()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(c, io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), out))
		sent <- errors.Join(err, c.CloseWrite())
	}()
	n, err := io.Copy(in, c)
	if err != nil || n != size {
		t.Errorf("got %d bytes, %v; want %d", n, err, size)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	select {
	case theirs := <-sums:
		if theirs != [2][32]byte{[32]byte(out.Sum(nil)), [32]byte(in.Sum(nil))} {
			t.Error("checksums differ")
		}
	case <-time.After(limit):
		t.Fatal("the server did not end")
	}
	if u := r.lastUsage(); u.Err != nil || u.Sent != size || u.Received != size {
		t.Errorf("got usage %+v; want %d bytes each way", u, size)
	}
}

func (r *rig) testClientHalfCloses(t *testing.T, f family) {
	port := r.serveTCP("[::]:0", func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		c.Write(append([]byte("got "), b...))
	})
	c := dialTCP(t, f.tcp, f.at(port))
	c.Write([]byte("question"))
	c.CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "got question" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	c.Close()
	wantErr(t, r.lastUsage().Err, nil)
}

func (r *rig) testServerHalfCloses(t *testing.T, f family) {
	got := make(chan []byte, 1)
	port := r.serveTCP("[::]:0", func(c *net.TCPConn) {
		c.Write([]byte("banner"))
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		got <- b
	})
	c := dialTCP(t, f.tcp, f.at(port))
	if b, err := io.ReadAll(c); string(b) != "banner" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	c.Write([]byte("after your end"))
	c.Close()
	if b := <-got; string(b) != "after your end" {
		t.Errorf("the server got %q", b)
	}
	wantErr(t, r.lastUsage().Err, nil)
}

func (r *rig) testClientResets(t *testing.T, f family) {
	got := make(chan error, 1)
	port := r.serveTCP("[::]:0", func(c *net.TCPConn) {
		c.Write([]byte("x"))
		_, err := io.ReadAll(c)
		got <- err
	})
	c := dialTCP(t, f.tcp, f.at(port))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	c.SetLinger(0)
	c.Close()
	wantErr(t, <-got, unix.ECONNRESET)
	wantErr(t, r.lastUsage().Err, unix.ECONNRESET)
}

func (r *rig) testServerResets(t *testing.T, f family) {
	port := r.serveTCP("[::]:0", func(c *net.TCPConn) {
		c.Write([]byte("last words"))
		c.Read(make([]byte, 1)) // until the client has read them
		c.SetLinger(0)
	})
	c := dialTCP(t, f.tcp, f.at(port))
	if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	c.Write([]byte("x"))
	_, err := c.Read(make([]byte, 1))
	wantErr(t, err, unix.ECONNRESET)
	wantErr(t, r.lastUsage().Err, unix.ECONNRESET)
}

func (r *rig) testRefused(t *testing.T, f family) {
	before := r.proxy.Stats().TCP.NoConnect
	c := dialTCPMaybe(f.tcp, f.at(9))
	if c != nil {
		defer c.Close()
		_, err := c.Read(make([]byte, 1))
		wantErr(t, err, unix.ECONNRESET)
	}
	wantErr(t, r.lastUsage().Err, unix.ECONNREFUSED)
	if got := r.proxy.Stats().TCP.NoConnect - before; got != 1 {
		t.Errorf("got %d counted; want 1", got)
	}
}

// dialTCPMaybe returns nil if the connection is refused or reset: whether the client sees it in connect or in its first read is
// a question of who is faster.
func dialTCPMaybe(network string, to netip.AddrPort) net.Conn {
	d := net.Dialer{Timeout: limit}
	c, err := d.Dial(network, to.String())
	if err != nil {
		return nil
	}
	c.SetDeadline(time.Now().Add(limit))
	return c
}

// wantReset checks that a connection attempt ends with a reset, at once or at the first read.
func wantReset(t testing.TB, network string, to netip.AddrPort) {
	t.Helper()
	c := dialTCPMaybe(network, to)
	if c == nil {
		return
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v; want %v", err, unix.ECONNRESET)
	}
}

func (r *rig) testMany(t *testing.T, f family) {
	errs := make(chan error, 100)
	for range cap(errs) {
		go func() {
			errs <- func() error {
				d := net.Dialer{Timeout: limit}
				c, err := d.Dial(f.tcp, f.at(7).String())
				if err != nil {
					return err
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(limit))
				for range 10 {
					if _, err := c.Write(make([]byte, 100)); err != nil {
						return err
					}
					if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestIntegrationTCPRefusals(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	testutil.NoLeaks(t)
	r := newRig(t)
	r.redirect()
	r.server.TCPEcho(t, "[::]:7")
	cases := []struct {
		name    string
		egress  func(proxy.Egress) (proxy.Egress, error)
		counter func(proxy.TCPStats) uint64
	}{
		{"director refuses", func(e proxy.Egress) (proxy.Egress, error) { return e, errors.New("no") },
			func(s proxy.TCPStats) uint64 { return s.Refused }},
		{"interface is gone", func(e proxy.Egress) (proxy.Egress, error) { e.Index = 9999; return e, nil },
			func(s proxy.TCPStats) uint64 { return s.NoEgress }},
		{"interface name is gone", func(e proxy.Egress) (proxy.Egress, error) {
			e.Index, e.Interface = 0, "gone0"
			return e, nil
		}, func(s proxy.TCPStats) uint64 { return s.NoEgress }},
		{"no interface", func(e proxy.Egress) (proxy.Egress, error) { e.Index, e.Interface = 0, ""; return e, nil },
			func(s proxy.TCPStats) uint64 { return s.NoEgress }},
		{"no source", func(e proxy.Egress) (proxy.Egress, error) { e.Source = netip.Addr{}; return e, nil },
			func(s proxy.TCPStats) uint64 { return s.NoEgress }},
		{"source is not ours", func(e proxy.Egress) (proxy.Egress, error) {
			e.Source = e.Source.Next().Next().Next()
			return e, nil
		}, func(s proxy.TCPStats) uint64 { return s.NoEgress }},
	}
	r.start(proxy.Config{})
	for _, f := range families {
		for _, c := range cases {
			t.Run(f.name+"/"+c.name, func(t *testing.T) {
				r.director.set(func(proxy.Request) (proxy.Egress, error) { return c.egress(r.egress(f.service)) })
				wrong := r.vpn.Sniff(t, "eth0", testnet.Filter{Dst: f.net})
				before := c.counter(r.proxy.Stats().TCP)
				wantReset(t, f.tcp, f.at(7))
				if got := c.counter(r.proxy.Stats().TCP) - before; got != 1 {
					t.Errorf("got %d counted; want 1: %+v", got, r.proxy.Stats().TCP)
				}
				if wrong.Count() != 0 {
					t.Errorf("%d packets left by vpn0", wrong.Count())
				}
			})
		}
		t.Run(f.name+"/not redirected", func(t *testing.T) {
			before := r.proxy.Stats().TCP.Refused
			wantReset(t, f.tcp, f.listen)
			if got := r.proxy.Stats().TCP.Refused - before; got != 1 {
				t.Errorf("got %d counted; want 1", got)
			}
		})
	}
	r.balanced()
}
