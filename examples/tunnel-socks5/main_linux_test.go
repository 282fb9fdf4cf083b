package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// The web server is behind the SOCKS5 server, which is also the router to it: what goes around the tunnel gets there, too.
const (
	webV4 = "198.51.100.2"
	webV6 = "2001:db8:5::2"
	size  = 1 << 20 // of a page
	limit = 20 * time.Second
)

type rig struct {
	lab                 *testnet.Lab
	client, server, web *testnet.Host
	socksAddr           string
	socks               *testnet.SOCKS
	direct              []*testnet.Sniffer // packets that the client sends to the web server, IPv4 and IPv6
	toSOCKS             *testnet.Sniffer
}

func newRig(t *testing.T, socks string) *rig {
	t.Helper()
	testutil.RequireNFQUEUE(t)
	testutil.RequireTool(t, "curl", "ip")
	r := &rig{lab: testnet.New(t), socksAddr: socks}
	r.client, r.server = r.lab.Pair()
	r.web = r.lab.Host("web")
	r.lab.Link(r.server, "eth1", testnet.Prefixes("198.51.100.1/24", "2001:db8:5::1/64"),
		r.web, "eth0", testnet.Prefixes(webV4+"/24", webV6+"/64"))
	r.server.Forward(t)
	r.web.Run(t, "ip", "route", "add", "default", "via", "198.51.100.1")
	r.web.Run(t, "ip", "-6", "route", "add", "default", "via", "2001:db8:5::1")
	for _, a := range []string{webV4, webV6} {
		a := netip.MustParseAddr(a)
		to := netip.PrefixFrom(a, a.BitLen())
		r.direct = append(r.direct, r.client.Sniff(t, "eth0", testnet.Filter{Dst: to, Direction: testnet.Outgoing}))
	}
	to := netip.MustParseAddrPort(socks)
	r.toSOCKS = r.client.Sniff(t, "eth0", testnet.Filter{
		Proto: 6, Dst: netip.PrefixFrom(to.Addr(), to.Addr().BitLen()), DstPort: to.Port(), Direction: testnet.Outgoing,
	})
	r.socks = r.server.SOCKS(t, r.socksAddr)
	page := make([]byte, size)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page) })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for err := error(nil); err == nil; {
			_, err = w.Write(page)
		}
	})
	r.web.HTTP(t, "[::]:80", mux)
	r.web.HTTP(t, "[::]:8081", mux)
	return r
}

// curl returns what curl says of a page, and whether it got it whole.
func (r *rig) curl(addr string, port int) (string, bool) {
	url := "http://" + net.JoinHostPort(addr, fmt.Sprint(port)) + "/"
	out, err := r.client.Try("curl", "-gsS", "--noproxy", "*", "-m8", "-o", "/dev/null", "-w", "%{size_download}", url)
	return out, err == nil && out == fmt.Sprint(size)
}

// wantDirect wants packets beside the tunnel, in each family, or none.
func (r *rig) wantDirect(t *testing.T, some bool) {
	t.Helper()
	for i, s := range r.direct {
		if n := s.Count(); (n > 0) != some {
			t.Errorf("IPv%d: %d packets went to the web server directly; want some: %t", 4+2*i, n, some)
		}
	}
}

func (r *rig) wantAsked(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, a := range r.socks.Asked() {
		got = append(got, a.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("the SOCKS5 server connected to %q; want %q", got, want)
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for: %s", limit, what)
		}
	}
}

func TestIntegrationTunnel(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t, testnet.ServerV4+":1080")
	serveCount(t, r.web, "[::]:82")
	r.web.UDPEcho(t, "[::]:80")
	r.web.UDPEcho(t, "[::]:8081")
	before := r.client.Snapshot(t)
	p := r.client.Start(t, r.lab.Program(t, "github.com/weirfw/weir/examples/tunnel-socks5"),
		"-socks", r.socksAddr, "-ports", "80,82,83", "-check", "100ms")
	p.WaitOutput(t, "filtering", limit)

	for _, addr := range []string{webV4, webV6} {
		if out, ok := r.curl(addr, 80); !ok {
			t.Errorf("%s: got %q; want a page", addr, out)
		}
		r.wantHalfClose(t, net.JoinHostPort(addr, "82"))
		if _, ok := r.curl(addr, 83); ok {
			t.Errorf("%s: got a page from a port where nobody listens", addr)
		}
		if answer, err := r.echo(t, net.JoinHostPort(addr, "80")); err == nil || isTimeout(err) {
			t.Errorf("%s: UDP through a TCP tunnel: got %q, %v; want a refusal at once", addr, answer, err)
		}
	}
	var asked []string
	for _, addr := range []string{webV4, webV6} {
		for _, port := range []string{"80", "82", "83"} {
			asked = append(asked, net.JoinHostPort(addr, port))
		}
	}
	r.wantAsked(t, asked...)
	r.wantNotOpen(t, p)
	r.wantDirect(t, false)

	// Between the end of the server and the moment that the program notices, connections are taken in and then reset.
	r.socks.Close()
	_, first := r.curl(webV4, 80)
	p.WaitOutput(t, "tunnel not ready", limit)
	for _, addr := range []string{webV4, webV6} {
		start := time.Now()
		out, ok := r.curl(addr, 80)
		if took := time.Since(start); first || ok || !strings.Contains(out, "onnect to") || took > 3*time.Second {
			t.Errorf("%s, without a server: got %q after %v; want a refusal at once", addr, out, took)
		}
	}
	r.wantDirect(t, false)
	r.socks = r.server.SOCKS(t, r.socksAddr)
	await(t, "the tunnel to be ready again", func() bool { return strings.Count(p.Output(), "tunnel ready\n") == 2 })
	for _, addr := range []string{webV4, webV6} {
		if out, ok := r.curl(addr, 80); !ok {
			t.Errorf("%s, with a new server: got %q; want a page", addr, out)
		}
	}
	r.wantAsked(t, webV4+":80", "["+webV6+"]:80")
	r.wantDirect(t, false)

	// The others go their way. This also shows that the sniffers would have seen what went beside the tunnel.
	for _, addr := range []string{webV4, webV6} {
		if out, ok := r.curl(addr, 8081); !ok {
			t.Errorf("%s, a port that is not chosen: got %q; want a page", addr, out)
		}
		if answer, err := r.echo(t, net.JoinHostPort(addr, "8081")); answer != "hello" {
			t.Errorf("%s, UDP to a port that is not chosen: got %q, %v; want an answer", addr, answer, err)
		}
	}
	r.wantDirect(t, true)
	r.wantAsked(t, webV4+":80", "["+webV6+"]:80")
	if n := r.toSOCKS.Count(); n == 0 {
		t.Error("got no packets to the SOCKS5 server")
	}
	if err := p.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if diff := testnet.Diff(before, r.client.Snapshot(t)); diff != "" {
		t.Errorf("it left behind:\n%s", diff)
	}
}

// wantHalfClose wants a server's answer that comes only when the client has said all.
func (r *rig) wantHalfClose(t *testing.T, to string) {
	t.Helper()
	c, err := r.client.Dial(t.Context(), "tcp", to)
	if err != nil {
		t.Errorf("%s: %v", to, err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	if _, err := c.Write(make([]byte, size)); err != nil {
		t.Errorf("%s: %v", to, err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Errorf("%s: %v", to, err)
	}
	if got, err := io.ReadAll(c); string(got) != fmt.Sprint(size) || err != nil {
		t.Errorf("%s, half closed: got %q, %v; want %d", to, got, err, size)
	}
}

// serveCount says how many bytes it got, when it has got all.
func serveCount(t *testing.T, h *testnet.Host, addr string) {
	t.Helper()
	l, err := h.Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(limit))
			n, _ := io.Copy(io.Discard, c)
			_, _ = fmt.Fprint(c, n)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}

// echo sends a datagram from the client and returns the answer.
func (r *rig) echo(t *testing.T, to string) (string, error) {
	t.Helper()
	c, err := r.client.Dial(t.Context(), "udp", to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(8 * time.Second))
	if _, err := c.Write([]byte("hello")); err != nil {
		return "", err
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// wantNotOpen wants the entry of the tunnel to serve nobody who was not sent there.
func (r *rig) wantNotOpen(t *testing.T, p *testnet.Process) {
	t.Helper()
	for _, entry := range []string{"127.0.0.17:717", "[::1]:717"} {
		c, err := r.client.Dial(t.Context(), "tcp", entry)
		if err != nil {
			if !errors.Is(err, syscall.ECONNRESET) { // sooner than Dial looks
				t.Errorf("%s: %v", entry, err)
			}
			continue
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(limit))
		if n, err := c.Read(make([]byte, 1)); n != 0 || isTimeout(err) {
			t.Errorf("%s, connected to directly: got %d bytes, %v; want an end", entry, n, err)
		}
	}
	await(t, "two refusals", func() bool { return strings.Count(p.Output(), errForeign.Error()) == 2 })
}

// The tunnel comes before the split tunnel, our own connections before both, and Stop ends what goes through the tunnel.
func TestIntegrationPrecedence(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t, "["+testnet.ServerV6+"]:1080")
	r.server.HTTP(t, "[::]:8081", http.NotFoundHandler())
	// The SOCKS5 server is itself a destination that goes through the tunnel.
	p := r.client.StartEnv(t, []string{childVar + "=-check 100ms -socks " + r.socksAddr + " -to 198.51.100.0/24,2001:db8:5::/64," + testnet.ServerV6},
		os.Args[0])
	p.WaitOutput(t, "filtering", limit)
	for _, addr := range []string{webV4, webV6} {
		if out, ok := r.curl(addr, 80); !ok {
			t.Errorf("%s: got %q; want a page", addr, out)
		}
	}
	r.wantAsked(t, webV4+":80", "["+webV6+"]:80")
	if out, _ := r.client.Try("curl", "-gsS", "--noproxy", "*", "-m8", "http://"+r.socksAddr+"/"); !strings.Contains(out, "mpty reply") {
		t.Errorf("HTTP to the SOCKS5 server: got %q; want an end without an answer", out)
	}
	r.wantAsked(t, webV4+":80", "["+webV6+"]:80", r.socksAddr)
	if out, err := r.client.Try("curl", "-gsS", "--noproxy", "*", "-m8", "http://"+testnet.ServerV4+":8081/"); err != nil {
		t.Errorf("split tunneled: got %q, %v; want an answer", out, err)
	}
	r.wantStopped(t, p)
	r.wantDirect(t, false)
	if err := p.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	for _, want := range []string{
		"6 tunnel " + webV4 + ":80", "6 tunnel [" + webV6 + "]:80", "6 tunnel " + r.socksAddr, "2 own-process " + r.socksAddr,
		"8 split-tunnel " + testnet.ServerV4 + ":8081", "asked " + testnet.ServerV4 + ":8081", "sessions 0",
	} {
		if !strings.Contains(p.Output(), "\n"+want+"\n") {
			t.Errorf("got no line %q", want)
		}
	}
	for _, not := range []string{"asked " + webV4, "asked [" + webV6, "asked " + r.socksAddr} {
		if strings.Contains(p.Output(), not) {
			t.Errorf("the split tunnel was %q, which the tunnel takes", not)
		}
	}
}

// wantStopped wants running downloads to end by Stop, on both sides, and not to go on beside the tunnel.
func (r *rig) wantStopped(t *testing.T, p *testnet.Process) {
	t.Helper()
	over := r.socks.Over()
	var running []*testnet.Process
	for _, addr := range []string{webV4, webV6} {
		url := "http://" + net.JoinHostPort(addr, "80") + "/endless"
		running = append(running, r.client.Start(t, "curl", "-gsS", "--noproxy", "*", "-m60", "-o", "/dev/null", url))
	}
	await(t, "two downloads through the tunnel", func() bool { return len(r.socks.Asked()) == 5 })
	await(t, "their sessions", func() bool { return strings.Count(p.Output(), "tunneled tcp") == 5 })
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	for _, curl := range running {
		if err := curl.Wait(); err == nil || !strings.Contains(curl.Output(), "reset") {
			t.Errorf("a stopped download: got %q, %v; want a reset", curl.Output(), err)
		}
	}
	await(t, "the server's sessions to end", func() bool { return r.socks.Over() == over+2 })
}
