package proxy_test

import (
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/splittunnel/proxy"
)

func TestIntegrationTCPLimits(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	testutil.NoLeaks(t)
	r := newRig(t)
	r.redirect()
	r.server.TCPEcho(t, "[::]:7")
	f := families[0]
	t.Run("sessions", func(t *testing.T) {
		r.t = t
		defer r.start(proxy.Config{MaxTCP: 2})()
		a, b := dialTCP(t, f.tcp, f.at(7)), dialTCP(t, f.tcp, f.at(7))
		echoTCP(t, a, 10)
		echoTCP(t, b, 10)
		wantReset(t, f.tcp, f.at(7))
		a.Close()
		r.eventually("a place is free", func() bool { return r.proxy.Stats().TCP.Open == 1 })
		echoTCP(t, dialTCP(t, f.tcp, f.at(7)), 10)
		if got := r.proxy.Stats().TCP.Limited; got != 1 {
			t.Errorf("got %d limited; want 1", got)
		}
	})
	t.Run("idle", func(t *testing.T) {
		r.t = t
		defer r.start(proxy.Config{TCPIdle: 50 * time.Millisecond})()
		c := dialTCP(t, f.tcp, f.at(7))
		_, err := c.Read(make([]byte, 1))
		wantErr(t, err, unix.ECONNRESET)
		wantErr(t, r.lastUsage().Err, proxy.ErrIdle)
	})
	t.Run("connect timeout", func(t *testing.T) {
		r.t = t
		r.server.Run(t, "iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", "81", "-j", "DROP")
		defer r.start(proxy.Config{ConnectTimeout: 50 * time.Millisecond})()
		wantReset(t, f.tcp, f.at(81))
		wantErr(t, r.lastUsage().Err, unix.ETIMEDOUT)
		if got := r.proxy.Stats().TCP.TimedOut; got != 1 {
			t.Errorf("got %d timed out; want 1", got)
		}
	})
	t.Run("client gives up while connecting", func(t *testing.T) {
		r.t = t
		defer r.start(proxy.Config{})()
		c := dialTCP(t, f.tcp, f.at(81))
		r.eventually("connecting", func() bool { return len(r.proxy.Sessions()) == 1 && r.proxy.Sessions()[0].Connecting })
		c.SetLinger(0)
		c.Close()
		wantErr(t, r.lastUsage().Err, unix.ECONNRESET)
	})
	t.Run("reset and cut", func(t *testing.T) {
		r.t = t
		defer r.start(proxy.Config{})()
		a, b := dialTCP(t, f.tcp, f.at(7)), dialTCP(t, f.tcp, f.at(7))
		echoTCP(t, a, 10)
		echoTCP(t, b, 10)
		r.proxy.Reset(proxy.Request{Protocol: packet.TCP, Client: a.LocalAddr().(*net.TCPAddr).AddrPort(), Destination: f.at(7)})
		_, err := a.Read(make([]byte, 1))
		wantErr(t, err, unix.ECONNRESET)
		echoTCP(t, b, 10)
		n, err := r.proxy.Cut(t.Context(), func(_ proxy.Request, e proxy.Egress) bool { return e.Index == r.ethIndex })
		if n != 1 || err != nil {
			t.Errorf("got %d, %v; want 1 cut", n, err)
		}
		_, err = b.Read(make([]byte, 1))
		wantErr(t, err, unix.ECONNRESET)
		wantErr(t, r.lastUsage().Err, proxy.ErrStopped)
	})
}

func TestIntegrationRun(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	testutil.NoLeaks(t)
	r := newRig(t)
	r.redirect()
	r.server.TCPEcho(t, "[::]:7")
	f := families[0]
	fds := 0
	t.Run("graceful", func(t *testing.T) {
		r.t = t
		stop := r.start(proxy.Config{Drain: limit})
		c := dialTCP(t, f.tcp, f.at(7))
		echoTCP(t, c, 10)
		stopped := make(chan struct{})
		go func() { defer close(stopped); stop() }()
		r.eventually("not accepting", func() bool {
			late := dialTCPMaybe(f.tcp, f.at(7))
			if late != nil {
				late.Close()
			}
			return late == nil
		})
		q := proxy.Request{Protocol: packet.TCP, Client: c.LocalAddr().(*net.TCPAddr).AddrPort(), Destination: f.at(7)}
		echoTCP(t, c, 100_000)
		c.Close()
		<-stopped
		u, ok := r.director.usage(q)
		if !ok || u.Err != nil {
			t.Errorf("got %+v, %v; want an orderly end", u, ok)
		}
		fds = descriptors(t)
	})
	t.Run("bounded", func(t *testing.T) {
		r.t = t
		stop := r.start(proxy.Config{Drain: 50 * time.Millisecond})
		c := dialTCP(t, f.tcp, f.at(7))
		echoTCP(t, c, 10)
		stop()
		_, err := c.Read(make([]byte, 1))
		wantErr(t, err, unix.ECONNRESET)
		wantErr(t, r.lastUsage().Err, proxy.ErrStopped)
		c.Close()
		r.eventually("descriptors are closed", func() bool { return descriptors(t) <= fds })
	})
	t.Run("again and twice", func(t *testing.T) {
		r.t = t
		stop := r.start(proxy.Config{})
		wantErr(t, r.proxy.Run(t.Context(), nil), proxy.ErrRunning)
		other, err := proxy.New(proxy.Config{Director: r.director})
		if err != nil {
			t.Fatal(err)
		}
		wantErr(t, other.Run(t.Context(), nil), unix.EADDRINUSE)
		stop()
		if got := r.proxy.Addrs(); len(got) != 0 {
			t.Errorf("listens on %v after its end", got)
		}
		defer r.running(r.proxy.Run)()
		echoTCP(t, dialTCP(t, f.tcp, f.at(7)), 10)
		if got := r.proxy.Addrs(); len(got) != 2 {
			t.Errorf("listens on %v; want 2 addresses", got)
		}
	})
	t.Run("without IPv6", func(t *testing.T) {
		r.t = t
		r.run("ip", "-6", "address", "del", "::1/128", "dev", "lo")
		stop := r.start(proxy.Config{})
		if got := r.proxy.Addrs(); len(got) != 1 {
			t.Errorf("listens on %v; want 1 address", got)
		}
		stop()
		only6, err := proxy.New(proxy.Config{Director: r.director, Listen: []netip.AddrPort{families[1].listen}})
		if err != nil {
			t.Fatal(err)
		}
		wantErr(t, only6.Run(t.Context(), nil), unix.EADDRNOTAVAIL)
	})
}

// TestIntegrationRemappedTCP has two connections of one client port, of which conntrack has to change one: the director hears of
// the true one.
func TestIntegrationRemappedTCP(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	testutil.NoLeaks(t)
	r := newRig(t)
	r.redirect()
	r.server.TCPEcho(t, "[::]:7")
	r.server.TCPEcho(t, "[::]:8")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r.t = t
			client := netip.AddrPortFrom(f.vpn, 5555)
			r.director.set(func(q proxy.Request) (proxy.Egress, error) {
				if q.Client != client {
					return proxy.Egress{}, proxy.ErrUnknown
				}
				return r.egress(q.Destination.Addr()), nil
			})
			defer r.start(proxy.Config{})()
			for _, port := range []uint16{7, 8} {
				fd, err := dialReusing(client, f.at(port))
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				if _, err := unix.Write(fd, []byte(strconv.Itoa(int(port)))); err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 1)
				if n, err := unix.Read(fd, b); n != 1 || err != nil {
					t.Fatalf("port %d: got %d bytes, %v", port, n, err)
				}
			}
			for _, s := range r.proxy.Sessions() {
				if s.Client != client {
					t.Errorf("got client %v; want %v", s.Client, client)
				}
				if s.Destination.Port() == 8 && s.Peer == client {
					t.Error("conntrack did not change the port: the test tests nothing")
				}
			}
		})
	}
}

// dialReusing connects from an address that another connection has, too. It blocks, but not for long.
func dialReusing(from, to netip.AddrPort) (int, error) {
	family := unix.AF_INET6
	if from.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 10})
	if err := unix.Bind(fd, sockaddrOf(from)); err != nil {
		return -1, err
	}
	return fd, unix.Connect(fd, sockaddrOf(to))
}

func sockaddrOf(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
