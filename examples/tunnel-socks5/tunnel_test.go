package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/internal/winerig"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/packet"
)

var _ firewall.Tunneler = (*tunnel)(nil)

func TestParse(t *testing.T) {
	const socks = "-socks 192.0.2.1:1080"
	for _, tt := range []struct {
		args string
		want string // in the error
	}{
		{socks + " -ports 80,443", ""},
		{socks + " -to 0.0.0.0/0,::/0", ""},
		{"-socks [2001:db8::1]:1080 -to 198.51.100.1,2001:db8::/32 -ports 443", ""},
		{"-help", ""},
		{"", "-socks is required"},
		{"-ports 80", "-socks is required"},
		{"-socks 0.0.0.0:1080 -ports 80", "-socks is required"},
		{"-socks example.org:1080 -ports 80", "command line"},
		{socks, "-ports or -to is required"},
		{socks + " -ports 0", `port "0"`},
		{socks + " -ports 80,", `port ""`},
		{socks + " -ports 65536", `port "65536"`},
		{socks + " -to 198.51.100.0/33", "network"},
		{socks + " -to ::ffff:198.51.100.0/120", "write IPv4 networks as such"},
		{socks + " -to ::ffff:198.51.100.1", "write IPv4 networks as such"},
		{socks + " -ports 80 -check 0s", "-check 0s"},
		{socks + " -ports 80 443", `what is "443"`},
	} {
		_, err := parse(strings.Fields(tt.args), io.Discard)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v; want an error with %q", tt.args, err, tt.want)
		}
	}
}

func TestDestinations(t *testing.T) {
	for _, tt := range []struct {
		to, ports, remote string
		want              bool
	}{
		{"", "80,443", "198.51.100.1:443", true},
		{"", "80,443", "[2001:db8::1]:80", true},
		{"", "80,443", "198.51.100.1:22", false},
		{"198.51.100.0/24", "", "198.51.100.1:22", true},
		{"198.51.100.0/24", "", "203.0.113.1:22", false},
		{"198.51.100.0/24", "", "[2001:db8::1]:22", false},
		{"198.51.100.7", "", "198.51.100.7:1", true},
		{"198.51.100.7", "", "198.51.100.8:1", false},
		{"198.51.100.0/24,2001:db8::/32", "80", "[2001:db8::1]:80", true},
		{"198.51.100.0/24,2001:db8::/32", "80", "[2001:db8::1]:81", false},
		{"0.0.0.0/0", "80", "[2001:db8::1]:80", false},
	} {
		if got := chosen(t, tt.to, tt.ports).has(netip.MustParseAddrPort(tt.remote)); got != tt.want {
			t.Errorf("-to %q -ports %q: %s goes through the tunnel: %t; want %t", tt.to, tt.ports, tt.remote, got, tt.want)
		}
	}
}

func chosen(t *testing.T, to, ports string) *destinations {
	t.Helper()
	d := &destinations{}
	if to != "" {
		if err := d.addNetworks(to); err != nil {
			t.Fatal(err)
		}
	}
	if ports != "" {
		if err := d.addPorts(ports); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestTunnel(t *testing.T) {
	down := errors.New("down")
	known := &conn.Process{PID: 7, Path: "/bin/a"}
	for _, tt := range []struct {
		name    string
		p       packet.Protocol
		remote  string
		process *conn.Process
		down    error
		ok      bool
		err     error
	}{
		{"chosen", packet.TCP, "198.51.100.1:80", known, nil, true, nil},
		{"chosen6", packet.TCP, "[2001:db8::1]:80", known, nil, true, nil},
		{"chosen, unknown process", packet.TCP, "198.51.100.1:80", nil, nil, true, nil},
		{"chosen, not ready", packet.TCP, "198.51.100.1:80", known, down, false, down},
		{"chosen, not asked yet", packet.TCP, "198.51.100.1:80", known, errUnasked, false, errUnasked},
		{"chosen, udp", packet.UDP, "198.51.100.1:80", known, nil, false, errTCPOnly},
		{"other", packet.TCP, "198.51.100.1:81", known, nil, false, nil},
		{"other, not ready", packet.TCP, "198.51.100.1:81", known, down, false, nil},
		{"other, udp", packet.UDP, "198.51.100.1:81", known, nil, false, nil},
		{"the server, other process", packet.TCP, "192.0.2.1:1080", known, nil, true, nil},
		{"the server, unknown process", packet.TCP, "192.0.2.1:1080", nil, nil, false, errUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tun := newTunnel(netip.MustParseAddrPort("192.0.2.1:1080"), *chosen(t, "", "80,1080"), connstore.NewLive(connstore.Config{}))
			tun.down = tt.down
			s := &conn.Snapshot{Tuple: packet.Tuple{Protocol: tt.p, Remote: netip.MustParseAddrPort(tt.remote)}, Process: tt.process}
			c, ok, err := tun.Tunnel(t.Context(), s)
			if ok != tt.ok || !errors.Is(err, tt.err) || (c != nil) != tt.ok {
				t.Fatalf("got %v, %t, %v; want %t, %v", c, ok, err, tt.ok, tt.err)
			}
			if ok {
				// Re-evaluation lets a connection go on whose context stays the same.
				if again, _, _ := tun.Tunnel(t.Context(), s); *again != *c || c.Provider != provider {
					t.Errorf("got %v and then %v; want the same, of %s", c, again, provider)
				}
			}
		})
	}
}

// local listens on loopback.
func local(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func to(l net.Listener) *tunnel {
	return newTunnel(addrPort(l.Addr()), destinations{}, connstore.NewLive(connstore.Config{}))
}

func TestCheck(t *testing.T) {
	testutil.NoLeaks(t)
	for _, tt := range []struct {
		name, answer string
		want         string // in what the tunnel says
	}{
		{"welcome", "\x05\x00", ""},
		{"wants a password", "\x05\xff", "wants to know who we are"},
		{"another protocol", "HTTP/1.1 400 Bad Request\r\n", "no SOCKS5 server"},
		{"says nothing", "", "EOF"},
		{"says too little", "\x05", "EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := local(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				if c, err := l.Accept(); err == nil {
					_, _ = io.ReadFull(c, make([]byte, 3))
					_, _ = io.WriteString(c, tt.answer)
					_ = c.Close()
				}
			}()
			tun := to(l)
			tun.check(t.Context())
			<-done
			if got := tun.down; (got == nil) != (tt.want == "") || got != nil && !strings.Contains(got.Error(), tt.want) {
				t.Errorf("got %v; want %q", got, tt.want)
			}
		})
	}
}

// What is not known any more because the program ends is no reason to say that the server is gone.
func TestCheckEndsWithItsContext(t *testing.T) {
	tun := to(local(t)) // nobody accepts
	tun.down = nil
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	tun.check(ctx)
	if tun.down != nil {
		t.Errorf("got %v; want nothing", tun.down)
	}
}

func TestDial(t *testing.T) {
	testutil.NoLeaks(t)
	target, l := local(t), local(t)
	s := testnet.ServeSOCKS(t, l, (&net.Dialer{}).DialContext)
	tun := to(l)
	tun.check(t.Context())
	c, err := tun.dial(t.Context(), addrPort(target.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	_ = target.Close()
	if c, err := tun.dial(t.Context(), addrPort(target.Addr())); err == nil || c != nil || tun.down != nil {
		t.Errorf("nobody listens: got %v, %v, and %v about the server; want an error, and nothing about the server", c, err, tun.down)
	}
	s.Close()
	if c, err := tun.dial(t.Context(), addrPort(target.Addr())); err == nil || c != nil || tun.down == nil {
		t.Errorf("no server: got %v, %v, and %v about the server; want errors", c, err, tun.down)
	}
}

// pair returns the two ends of a connection.
func pair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l := local(t)
	a, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{a, b} {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { _ = c.Close() })
	}
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// wait returns what comes from done, or fails.
func wait[T any](t *testing.T, done <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("waited 20 s")
	}
	return v
}

func TestRelay(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(program, server *net.TCPConn, stop func(error))
		want error
		ok   bool
		// heard: the program has heard all from the server before
		heard bool
	}{
		{"both say all", func(p, s *net.TCPConn, _ func(error)) { _, _ = p.CloseWrite(), s.CloseWrite() }, nil, true, false},
		{"program resets", func(p, _ *net.TCPConn, _ func(error)) { abort(p) }, nil, false, false},
		{"server resets", func(_, s *net.TCPConn, _ func(error)) { abort(s) }, nil, false, false},
		{"stop", func(_, _ *net.TCPConn, stop func(error)) { stop(errStopped) }, errStopped, false, false},
		{"stop of a half-closed one", func(p, s *net.TCPConn, stop func(error)) {
			_ = s.CloseWrite()
			_, _ = io.Copy(io.Discard, p)
			stop(errStopped)
		}, errStopped, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !tt.ok {
				winerig.SkipUnderWine(t, "a socket that is closed with SO_LINGER 0 ends in good order and not with a reset")
			}
			testutil.NoLeaks(t)
			program, a := pair(t)
			b, server := pair(t)
			ctx, stop := context.WithCancelCause(t.Context())
			defer stop(nil)
			done := make(chan error, 1)
			go func() { done <- relay(ctx, a, b) }()
			_, _ = program.Write([]byte("ask"))
			_, _ = io.ReadFull(server, make([]byte, 3))
			tt.end(program, server, stop)
			err := wait(t, done)
			if (err == nil) != tt.ok || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v; want success: %t, or %v", err, tt.ok, tt.want)
			}
			hear := map[string]*net.TCPConn{"server": server}
			if !tt.heard {
				hear["program"] = program
			}
			for name, c := range hear {
				if _, err := c.Read(make([]byte, 1)); errors.Is(err, io.EOF) != tt.ok {
					t.Errorf("the %s got %v; want an orderly end: %t", name, err, tt.ok)
				}
			}
		})
	}
}

func TestHalfClose(t *testing.T) {
	testutil.NoLeaks(t)
	program, a := pair(t)
	b, server := pair(t)
	done := make(chan error, 1)
	go func() { done <- relay(t.Context(), a, b) }()
	_, _ = io.WriteString(program, "question")
	_ = program.CloseWrite()
	if got, err := io.ReadAll(server); string(got) != "question" || err != nil {
		t.Errorf("got %q, %v; want the question and its end", got, err)
	}
	_, _ = io.WriteString(server, "answer")
	_ = server.CloseWrite()
	if got, err := io.ReadAll(program); string(got) != "answer" || err != nil {
		t.Errorf("got %q, %v; want the answer and its end", got, err)
	}
	if err := wait(t, done); err != nil {
		t.Error(err)
	}
}

// Who may use the tunnel's entry, and who ends what.
func TestSessions(t *testing.T) {
	tun := to(local(t))
	tuple := packet.Tuple{Protocol: packet.TCP, Local: netip.MustParseAddrPort("192.0.2.9:1"), Remote: netip.MustParseAddrPort("198.51.100.1:80")}
	began := func(tuple packet.Tuple) (*session, context.Context, error) {
		ctx, cancel := context.WithCancelCause(t.Context())
		t.Cleanup(func() { cancel(nil) })
		s := &session{tuple, cancel}
		return s, ctx, tun.begin(s)
	}
	record := func(tuple packet.Tuple, c *conn.TunnelContext) {
		tun.store.GetOrAdd(tuple, func() *conn.Snapshot { return &conn.Snapshot{Tunnel: c, Started: time.Now()} })
	}
	if _, _, err := began(tuple); !errors.Is(err, errForeign) || len(tun.sessions) != 0 {
		t.Errorf("a connection that the firewall does not know: got %v; want %v", err, errForeign)
	}
	record(tuple, nil)
	if _, _, err := began(tuple); !errors.Is(err, errForeign) {
		t.Errorf("one that it did not send here: got %v; want %v", err, errForeign)
	}
	tun.store.End(tuple, time.Now())
	record(tuple, &conn.TunnelContext{Provider: provider})
	first, ctx1, err := began(tuple)
	if err != nil {
		t.Fatal(err)
	}
	second, ctx2, err := began(tuple)
	if err != nil || !errors.Is(context.Cause(ctx1), errStopped) {
		t.Fatalf("a successor: got %v, and %v for the first one; want %v for that", err, context.Cause(ctx1), errStopped)
	}
	tun.end(first) // late: not the successor's end
	tun.Stop(packet.Tuple{})
	if ctx2.Err() != nil {
		t.Error("stopped by another one's Stop")
	}
	tun.Stop(tuple)
	if !errors.Is(context.Cause(ctx2), errStopped) {
		t.Errorf("stopped: got %v; want %v", context.Cause(ctx2), errStopped)
	}
	tun.end(second)
	tun.Stop(tuple)
	if len(tun.sessions) != 0 {
		t.Errorf("got %d sessions; want none", len(tun.sessions))
	}
	for len(tun.sessions) < maxSessions {
		tun.sessions[packet.Tuple{Remote: netip.AddrPortFrom(netip.IPv6Loopback(), uint16(len(tun.sessions)))}] = first
	}
	if _, _, err := began(tuple); !errors.Is(err, errTooMany) {
		t.Errorf("one too many: got %v; want %v", err, errTooMany)
	}
}

func TestUsage(t *testing.T) {
	if err := run(t.Context(), []string{"-ports", "80"}); err == nil {
		t.Error("got no error; want one")
	}
}
