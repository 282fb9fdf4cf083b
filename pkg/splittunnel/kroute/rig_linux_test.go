package kroute_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/splittunnel"
	"github.com/weirfw/weir/pkg/splittunnel/kroute"
)

// limit is how long something may take on a machine that does much else. Figures that matter are logged.
const limit = 15 * time.Second

// end is one family's addresses in the lab. What goes to split is marked, what goes to plain is not.
type end struct {
	family              netif.Family
	flag, iptables      string
	plain, split        string
	clientISP, clientV  string
	gatewayISP, pingTyp string
}

func ends() []end {
	return []end{
		{
			netif.IPv4, "-4", "iptables-nft", testnet.UplinkServerV4, testnet.UplinkOtherServerV4,
			testnet.ISPClientV4, testnet.VPNClientV4, testnet.ISPGatewayV4, "icmp",
		},
		{
			netif.IPv6, "-6", "ip6tables-nft", testnet.UplinkServerV6, testnet.UplinkOtherServerV6,
			testnet.ISPClientV6, testnet.VPNClientV6, testnet.ISPGatewayV6, "icmpv6",
		},
	}
}

// rig is a client with two uplinks, whose packets to one of the server's addresses carry a mark.
type rig struct {
	*testnet.Uplinks
	t    *testing.T
	lab  *testnet.Lab
	leak map[netif.Family]*testnet.Sniffer // of marked packets on vpn0
}

func newRig(t *testing.T) *rig {
	t.Helper()
	testutil.RequireTool(t, "iptables-nft", "ping")
	lab := testnet.New(t)
	r := &rig{Uplinks: lab.Uplinks(), t: t, lab: lab, leak: map[netif.Family]*testnet.Sniffer{}}
	r.Server.TCPEcho(t, "[::]:7")
	r.Server.UDPEcho(t, testnet.UplinkServerV4+":7")
	r.Server.UDPEcho(t, testnet.UplinkOtherServerV4+":7")
	r.Server.UDPEcho(t, "["+testnet.UplinkServerV6+"]:7")
	r.Server.UDPEcho(t, "["+testnet.UplinkOtherServerV6+"]:7")
	for _, e := range ends() {
		r.mark(e.iptables, e.split, kroute.DefaultMark, "eth0")
		r.leak[e.family] = r.sniff("vpn0", e.split)
	}
	return r
}

// mark is what package nfq does: connections to an address get a mark, keep it, and get the address of their interface.
func (r *rig) mark(iptables, to string, mark int, iface string) {
	r.t.Helper()
	m := fmt.Sprint(mark)
	for _, rule := range []string{
		"-t mangle -A OUTPUT -j CONNMARK --restore-mark",
		"-t mangle -A OUTPUT -m mark --mark 0 -d " + to + " -j MARK --set-mark " + m,
		"-t mangle -A OUTPUT -m mark --mark " + m + " -j CONNMARK --save-mark",
		"-t mangle -A PREROUTING -j CONNMARK --restore-mark",
		"-t nat -A POSTROUTING -o " + iface + " -m mark --mark " + m + " -j MASQUERADE",
	} {
		r.Client.Run(r.t, iptables, strings.Fields(rule)...)
	}
}

// sniff counts packets to an address that leave by an interface of the client.
func (r *rig) sniff(iface, to string) *testnet.Sniffer {
	r.t.Helper()
	a := netip.MustParseAddr(to)
	return r.Client.Sniff(r.t, iface, testnet.Filter{Dst: netip.PrefixFrom(a, a.BitLen()), Direction: testnet.Outgoing})
}

// noLeak fails the test if a marked packet left by vpn0.
func (r *rig) noLeak() {
	r.t.Helper()
	for f, s := range r.leak {
		if n := s.Count(); n != 0 {
			r.t.Errorf("%v: got %d marked packets on vpn0; want 0. The first: %x", f, n, s.Packets())
		}
	}
}

// config is for engines whose state is the lab's.
func (r *rig) config() kroute.Config {
	return kroute.Config{StateFile: filepath.Join(r.lab.Dir(), "kroute", "state.json"), Logger: testLog(r.t)}
}

// testLog logs to the test, as long as it runs.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// running is an engine that runs on the client.
type running struct {
	*kroute.Engine
	r    *rig
	stop func() error       // ends Run, and returns its error
	last []splittunnel.Path // what Use was told before Run
}

// run runs an engine on the client until the end of the test, or stop.
func (r *rig) run(cfg kroute.Config, paths ...splittunnel.Path) *running {
	r.t.Helper()
	e, err := kroute.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := e.Use(r.t.Context(), paths); err != nil {
		r.t.Fatalf("Use before Run: %v", err)
	}
	stop, err := r.start(e)
	if err != nil {
		r.t.Fatalf("Run: %v", err)
	}
	r.t.Cleanup(func() {
		if err := stop(); err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
	return &running{e, r, stop, paths}
}

// start returns when the engine is ready.
func (r *rig) start(e *kroute.Engine) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.Client.Do(func() error { return e.Run(ctx, func() { close(ready) }) }) }()
	select {
	case <-ready:
	case err := <-ended:
		cancel()
		return nil, errors.Join(err, errors.New("not ready"))
	}
	return sync.OnceValue(func() error {
		cancel()
		return <-ended
	}), nil
}

// snapshot reads the interfaces of the client.
func (r *rig) snapshot() *netif.Snapshot {
	r.t.Helper()
	var s *netif.Snapshot
	if err := r.Client.Do(func() (err error) {
		s, err = netif.Read(r.t.Context())
		return err
	}); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// paths are the paths by an interface of the client, of the families that it has now.
func (r *rig) paths(ifaces ...string) []splittunnel.Path {
	r.t.Helper()
	return pathsOf(r.snapshot(), ifaces...)
}

func pathsOf(s *netif.Snapshot, ifaces ...string) (paths []splittunnel.Path) {
	for _, name := range ifaces {
		for _, f := range []netif.Family{netif.IPv4, netif.IPv6} {
			if c, err := s.Pick(name, f); err == nil {
				paths = append(paths, splittunnel.Path{Family: f, Choice: c})
			}
		}
	}
	return paths
}

// follow gives the engine the interface's paths as they change, as a Splitter does.
func (e *running) follow(ifaces ...string) {
	t := e.r.t
	t.Helper()
	var w *netif.Watcher
	ctx, cancel := context.WithCancel(context.Background())
	up, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		ended <- e.r.Client.Do(func() (err error) {
			if w, err = netif.New(netif.Config{}); err != nil {
				up <- err
				return err
			}
			return w.Run(ctx, func() { up <- nil })
		})
	}()
	if err := <-up; err != nil {
		cancel()
		t.Fatal(err)
	}
	unsubscribe := w.Subscribe(func(s *netif.Snapshot) {
		if err := e.Use(ctx, pathsOf(s, ifaces...)); err != nil && ctx.Err() == nil {
			t.Logf("Use: %v", err)
		}
	})
	t.Cleanup(func() {
		unsubscribe()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("watcher: %v", err)
		}
	})
}

// figures are the engine's.
func (e *running) figures() kroute.Figures {
	f, ok := e.Figures().(kroute.Figures)
	if !ok {
		e.r.t.Fatalf("Figures returns a %T", e.Figures())
	}
	return f
}

// tuple is a connection to an address.
func tuple(to string) packet.Tuple {
	return packet.Tuple{Remote: netip.AddrPortFrom(netip.MustParseAddr(to), 7), Protocol: packet.TCP}
}

// tcp connects to the server, has an answer, and returns the error.
func (r *rig) tcp(to string, limit time.Duration) error { return r.echo("tcp", to, limit) }

func (r *rig) echo(network, to string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c, err := r.Client.Dial(ctx, network, net.JoinHostPort(to, "7"))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // nothing was written that could be lost
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	b := make([]byte, 16)
	n, err := c.Read(b)
	if err == nil && string(b[:n]) != "hello" {
		err = fmt.Errorf("got %q; want hello", b[:n])
	}
	return err
}

// try tries one protocol: tcp, udp or ping.
func (r *rig) try(proto string, to string, limit time.Duration) error {
	if proto != "ping" {
		return r.echo(proto, to, limit)
	}
	out, err := r.Client.Try("ping", "-n", "-c1", fmt.Sprintf("-W%.3f", limit.Seconds()), to)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// eventually waits until something holds, and returns how long that took.
func eventually(t *testing.T, what string, cond func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !cond() {
		if time.Since(began) > limit {
			t.Fatalf("%s: not within %v", what, limit)
		}
		runtime.Gosched()
		time.Sleep(time.Millisecond) // polling, not synchronisation
	}
	return time.Since(began)
}

// usable reports whether the engine takes connections of both families by an interface as it is now.
func (e *running) usable(iface string) bool {
	paths := pathsOf(e.r.snapshot(), iface)
	for _, p := range paths {
		to := testnet.UplinkServerV4
		if p.Family == netif.IPv6 {
			to = testnet.UplinkServerV6
		}
		if p.Default.Index == 0 {
			return false
		}
		if _, err := e.Take(tuple(to), p); err != nil {
			return false
		}
	}
	return len(paths) == 2
}
