package ivpn_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/ivpntest"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/internal/winerig"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/ivpn"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// nameserver is ours, with an address that tests change.
type nameserver struct{ addr atomic.Pointer[netip.Addr] }

func (n *nameserver) set(addr string) {
	if addr == "" {
		n.addr.Store(nil)
		return
	}
	a := netip.MustParseAddr(addr)
	n.addr.Store(&a)
}

// Delegated implements ivpn.Nameserver.
func (n *nameserver) Delegated() (netip.Addr, bool) {
	if a := n.addr.Load(); a != nil {
		return *a, true
	}
	return netip.Addr{}, false
}

// bench is an interop with all that belongs to it.
type bench struct {
	*ivpn.Interop
	ears
	ns      nameserver
	changes atomic.Int64
	stop    func()

	mu         sync.Mutex
	conditions map[string]string
	said       []string // IDs, in order; "-" before those that are over
}

func interop(t *testing.T, folder string) *bench {
	t.Helper()
	b := &bench{conditions: map[string]string{}}
	var err error
	b.Interop, err = ivpn.New(ivpn.Config{
		Client:     ivpn.ClientConfig{Folder: folder, Poll: 10 * time.Millisecond, AnswerTimeout: patience, On: b.on},
		Nameserver: &b.ns,
		OnChange:   func(context.Context) { b.changes.Add(1) },
		Report:     b.report,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.stop = runs(t, b.Run)
	return b
}

func (b *bench) report(c ivpn.Condition) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.Over {
		delete(b.conditions, c.ID)
		b.said = append(b.said, "-"+c.ID)
		return
	}
	b.conditions[c.ID] = c.Text
	b.said = append(b.said, c.ID)
}

func (b *bench) condition(id string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conditions[id]
}

// executable makes a file that only root or the test's user may write, and a link to it.
func executable(t *testing.T) (path, link string) {
	t.Helper()
	dir := folder(t)
	path, link = filepath.Join(dir, "ivpn-service"), filepath.Join(dir, "link")
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return resolved, link
}

func about(d packet.Direction, p packet.Protocol, local, remote string) *conn.Snapshot {
	s := &conn.Snapshot{Direction: d, Started: time.Now()}
	s.Tuple = packet.Tuple{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Protocol: p}
	s.Scope = netscope.Of(s.Tuple.Remote.Addr())
	return s
}

func ofProcess(s *conn.Snapshot, path string, uid uint32) *conn.Snapshot {
	s.Process = &conn.Process{PID: 4242, UID: uid, Path: path}
	return s
}

func TestVerdicts(t *testing.T) {
	winerig.SkipUnderWine(t, "no symbolic links")
	testutil.NoLeaks(t)
	f := folder(t)
	binary, link := executable(t)
	d := daemon(t, ivpntest.Config{Folder: f, ServiceBinary: link})
	d.Starting("::ffff:192.0.2.1", 2049, 17)
	b := interop(t, f)
	eventually(t, "the endpoint is known", func() bool { return b.State().Endpoint.Address.IsValid() })
	if got := b.State(); got.Phase != ivpn.PhaseConnected || got.ServicePort != d.Port() || got.ServiceBinary != binary || got.Version != "3.16.0" {
		t.Errorf("got %+v; want all of the daemon, with the link resolved to %s", got, binary)
	}
	service, other := fmt.Sprintf("127.0.0.1:%d", d.Port()), fmt.Sprintf("127.0.0.1:%d", d.Port()^1)
	const here, there = "10.0.0.2:40000", "192.0.2.1:2049"
	for _, test := range []struct {
		name   string
		about  *conn.Snapshot
		accept bool
	}{
		{"to the endpoint", about(packet.Outbound, packet.UDP, here, there), true},
		{"from the endpoint", about(packet.Inbound, packet.UDP, here, there), true},
		{"endpoint, other port", about(packet.Outbound, packet.UDP, here, "192.0.2.1:2050"), false},
		{"endpoint, other protocol", about(packet.Outbound, packet.TCP, here, there), false},
		{"endpoint, other address", about(packet.Outbound, packet.UDP, here, "192.0.2.2:2049"), false},
		{"to the service", about(packet.Outbound, packet.TCP, "127.0.0.1:50000", service), true},
		{"at the service", about(packet.Inbound, packet.TCP, service, "127.0.0.1:50000"), true},
		{"to the service by UDP", about(packet.Outbound, packet.UDP, "127.0.0.1:50000", service), false},
		{"to another port", about(packet.Outbound, packet.TCP, "127.0.0.1:50000", other), false},
		{"from elsewhere to the service's port", about(packet.Inbound, packet.TCP, fmt.Sprintf("10.0.0.2:%d", d.Port()), "10.0.0.3:50000"), false},
		{"to the same port elsewhere", about(packet.Outbound, packet.TCP, here, fmt.Sprintf("10.0.0.3:%d", d.Port())), false},
		{"of the service", ofProcess(about(packet.Outbound, packet.TCP, here, "198.51.100.1:443"), binary, uint32(os.Geteuid())), true},
		{"to the service's process", ofProcess(about(packet.Inbound, packet.UDP, here, "198.51.100.1:443"), binary, 0), true},
		{"of the link", ofProcess(about(packet.Outbound, packet.TCP, here, "198.51.100.1:443"), link, 0), false},
		{"of another", ofProcess(about(packet.Outbound, packet.TCP, here, "198.51.100.1:443"), "/usr/bin/curl", 0), false},
		{"of a user's program at that path", ofProcess(about(packet.Outbound, packet.TCP, here, "198.51.100.1:443"), binary, 12345), false},
		{"of nobody known", about(packet.Outbound, packet.TCP, here, "198.51.100.1:443"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := b.Handle(t.Context(), test.about)
			want := verdict.Undecided
			if test.accept {
				want = verdict.Accept
			}
			if r.Verdict != want || r.SkipTunnel != test.accept || (r.Reason != "") != test.accept {
				t.Errorf("got %+v; want %v", r, want)
			}
			if got := b.Concerns(test.about); got != test.accept {
				t.Errorf("concerns: got %v; want %v", got, test.accept)
			}
			n := testing.AllocsPerRun(100, func() { b.Handle(t.Context(), test.about) })
			if n != 0 {
				t.Errorf("got %v allocations; want 0", n)
			}
		})
	}
	d.Starting("2001:db8::1", 443, 6)
	eventually(t, "another endpoint", func() bool { return b.State().Endpoint.Protocol == packet.TCP })
	for s, want := range map[*conn.Snapshot]verdict.Verdict{
		about(packet.Outbound, packet.TCP, "[2001:db8::5]:1", "[2001:db8::1]:443"): verdict.Accept,
		about(packet.Inbound, packet.TCP, "[2001:db8::5]:1", "[2001:db8::1]:443"):  verdict.Undecided,
		about(packet.Outbound, packet.UDP, here, there):                            verdict.Undecided,
	} {
		if r := b.Handle(t.Context(), s); r.Verdict != want {
			t.Errorf("%+v: got %v; want %v", s.Tuple, r.Verdict, want)
		}
	}
	before := about(packet.Outbound, packet.UDP, here, there)
	before.Decision.Reason.By = ivpn.HandlerName
	if !b.Concerns(before) {
		t.Error("a connection that was accepted before does not concern us; want it decided anew")
	}
}

// The verdicts hold in a firewall that blocks by default, in re-evaluation, and after the daemon was started again; without
// the daemon, there are none.
func TestInFirewall(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	binary, _ := executable(t)
	cfg := ivpntest.Config{Folder: f, ServiceBinary: binary}
	d := daemon(t, cfg)
	d.Starting("192.0.2.1", 2049, 17)
	b := interop(t, f)
	var slot extverdict.Slot
	if err := slot.Set(ivpn.HandlerName, b.Handle); err != nil {
		t.Fatal(err)
	}
	fw, err := firewall.New(firewall.Config{
		Store: connstore.NewLive(connstore.Config{}), External: &slot, HandlerDeadline: patience,
		DefaultOutbound: verdict.Block, DefaultInbound: verdict.Drop, DefaultLocal: verdict.Block,
	})
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, port uint16, want verdict.Verdict) {
		t.Helper()
		for _, s := range []*conn.Snapshot{
			about(packet.Outbound, packet.UDP, "10.0.0.2:40000", "192.0.2.1:2049"),
			about(packet.Outbound, packet.TCP, "127.0.0.1:50000", fmt.Sprintf("127.0.0.1:%d", port)),
			ofProcess(about(packet.Outbound, packet.TCP, "10.0.0.2:1", "198.51.100.1:443"), binary, 0),
		} {
			again, ok := fw.Preview(t.Context(), s)
			if d := fw.FilterConnection(t.Context(), s); d.Verdict != want || again.Verdict != want || !ok {
				t.Errorf("%s: %v: got %v (%v), and %v again; want %v", when, s.Tuple, d.Verdict, d.Reason, again.Verdict, want)
			}
			if d, _ := fw.Preview(t.Context(), s); (d.Reason.By == ivpn.HandlerName) != (want == verdict.Accept) {
				t.Errorf("%s: %v: decided by %q", when, s.Tuple, d.Reason.By)
			}
		}
		if d := fw.FilterConnection(t.Context(), about(packet.Outbound, packet.TCP, "10.0.0.2:1", "198.51.100.1:443")); d.Verdict != verdict.Block {
			t.Errorf("%s: another connection: got %v; want it blocked", when, d.Verdict)
		}
	}
	known := func() bool { return b.State().Endpoint.Address.IsValid() && b.State().ServiceBinary != "" }
	eventually(t, "all is known", known)
	check("connected", d.Port(), verdict.Accept)
	port := d.Port()
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is forgotten", func() bool { return b.State().Phase == ivpn.PhaseAbsent })
	check("without a daemon", port, verdict.Block)
	d = daemon(t, cfg)
	d.Starting("192.0.2.1", 2049, 17)
	eventually(t, "all is known again", known)
	check("connected again", d.Port(), verdict.Accept)
	if n := b.changes.Load(); n < 3 {
		t.Errorf("got %d calls of OnChange; want one for each of these changes", n)
	}
}

// While the first answer of the daemon is awaited, connections to it pass at once, and others wait for it, but not for so
// long that the answer comes too late.
func TestFirstAttempt(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	d := daemon(t, ivpntest.Config{Folder: f})
	d.SetDeaf(true)
	d.Starting("192.0.2.1", 2049, 17)
	registered := make(chan extverdict.Handler, 1)
	i, err := ivpn.New(ivpn.Config{
		Client: ivpn.ClientConfig{Folder: f, Poll: time.Hour, AnswerTimeout: time.Hour},
		Register: func(name string, h extverdict.Handler) error {
			if name != ivpn.HandlerName || len(d.Requests()) != 0 {
				t.Errorf("got %q after %d requests; want it before the first", name, len(d.Requests()))
			}
			registered <- h
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- i.Run(ctx, func() { close(ready) }) }()
	handle := <-registered
	own := about(packet.Outbound, packet.TCP, "127.0.0.1:50000", fmt.Sprintf("127.0.0.1:%d", d.Port()))
	if r := handle(t.Context(), own); r.Verdict != verdict.Accept {
		t.Errorf("to the daemon: got %+v; want it accepted at once", r)
	}
	limited, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	vpn := about(packet.Outbound, packet.UDP, "10.0.0.2:40000", "192.0.2.1:2049")
	if r := handle(limited, vpn); r.Verdict != verdict.Undecided {
		t.Errorf("with little time: got %+v; want no opinion", r)
	}
	answer := make(chan extverdict.Result, 1)
	go func() { answer <- handle(t.Context(), vpn) }()
	select {
	case <-ready:
		t.Error("ready before the first attempt was over")
	case r := <-answer:
		t.Errorf("got %+v while the daemon said nothing; want it to wait", r)
	default:
	}
	cancel()
	if r := <-answer; r.Verdict != verdict.Undecided {
		t.Errorf("after the attempt: got %+v; want no opinion", r)
	}
	<-ready
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Without IVPN nothing is registered, so that connections of hosts without it are not handed to a handler.
func TestNotRegistered(t *testing.T) {
	testutil.NoLeaks(t)
	i, err := ivpn.New(ivpn.Config{
		Client:   ivpn.ClientConfig{Folder: folder(t)},
		Register: func(string, extverdict.Handler) error { t.Error("registered"); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, i.Run)
	if r := i.Handle(t.Context(), about(packet.Outbound, packet.UDP, "10.0.0.2:40000", "192.0.2.1:2049")); r != (extverdict.Result{}) {
		t.Errorf("got %+v; want nothing", r)
	}
}

func TestDNS(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	d := daemon(t, ivpntest.Config{Folder: f})
	b := interop(t, f)
	// sets wants the daemon to have been told something for the nth time, and what.
	sets := func(when string, n int, want string) {
		t.Helper()
		eventually(t, when, func() bool { _, got := d.DNS(); return got == n })
		got := ""
		if servers, _ := d.DNS(); len(servers) > 0 {
			got = servers[0].Address
		}
		if got != want {
			t.Errorf("%s: got %q; want %q", when, got, want)
		}
		eventually(t, "the state knows", func() bool {
			dns := b.State().DNS
			return dns.IsValid() == (want != "") && (want == "" || dns.String() == want)
		})
	}
	b.ns.set("0.0.0.0")
	b.Reconsider()
	sets("interception begins", 1, "127.0.0.1")
	b.Reconsider()
	d.Starting("192.0.2.1", 2049, 17)
	b.ns.set("192.0.2.53")
	b.Reconsider()
	sets("another address", 2, "192.0.2.53")
	b.ns.set("")
	b.Reconsider()
	sets("pause", 3, "")
	b.ns.set("::")
	d.RefuseDNS(1)
	b.Reconsider()
	eventually(t, "the refusal is told", func() bool { return b.condition(ivpn.ConditionDNS) != "" })
	d.Notify(map[string]any{"Command": "ConnectionStopped"})
	sets("resume, refused once", 4, "::1")
	eventually(t, "the refusal is over", func() bool { return b.condition(ivpn.ConditionDNS) == "" })
	d.HangUp()
	sets("connected again", 5, "::1")
	b.stop()
	sets("the end", 6, "")
	if got := b.State(); got.Phase != ivpn.PhaseAbsent || got.DNS.IsValid() {
		t.Errorf("after the end: got %+v; want nothing", got)
	}
}

func TestConditions(t *testing.T) {
	testutil.NoLeaks(t)
	binary, _ := executable(t)
	t.Run("old", func(t *testing.T) {
		f := folder(t)
		d := daemon(t, ivpntest.Config{Folder: f, Old: true, ServiceBinary: binary})
		b := interop(t, f)
		if text := b.condition(ivpn.ConditionOldVersion); !strings.Contains(text, "3.15.1") {
			t.Errorf("got %q; want it to say the version", text)
		}
		d.Starting("192.0.2.1", 2049, 17)
		eventually(t, "the endpoint works all the same", func() bool { return b.State().Endpoint.Address.IsValid() })
		if b.State().ServiceBinary != "" {
			t.Errorf("got %+v; want no executable", b.State())
		}
		if err := d.Stop(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is over", func() bool { return b.condition(ivpn.ConditionOldVersion) == "" })
		b.mu.Lock()
		defer b.mu.Unlock()
		if n := strings.Count(strings.Join(b.said, " "), ivpn.ConditionOldVersion); n != 2 {
			t.Errorf("got %v; want it told once, and once that it is over", b.said)
		}
	})
	t.Run("executable not trusted", func(t *testing.T) {
		winerig.SkipUnderWine(t, "files have no access lists of their own: chmod cannot be seen in them")
		f := folder(t)
		if err := os.Chmod(binary, 0o777); err != nil {
			t.Fatal(err)
		}
		daemon(t, ivpntest.Config{Folder: f, ServiceBinary: binary})
		b := interop(t, f)
		if text := b.condition(ivpn.ConditionServiceBinary); !strings.Contains(text, binary) || !strings.Contains(text, "written by others") || b.State().ServiceBinary != "" {
			t.Errorf("got %q, %+v; want it refused with the reason", text, b.State())
		}
		if r := b.Handle(t.Context(), ofProcess(about(packet.Outbound, packet.TCP, "10.0.0.2:1", "198.51.100.1:443"), binary, 0)); r.Verdict != verdict.Undecided {
			t.Errorf("got %+v; want no opinion", r)
		}
	})
	t.Run("port file not trusted", func(t *testing.T) {
		winerig.SkipUnderWine(t, "files have no access lists of their own: chmod cannot be seen in them")
		f := folder(t)
		daemon(t, ivpntest.Config{Folder: f})
		if err := os.Chmod(f, 0o777); err != nil {
			t.Fatal(err)
		}
		b := interop(t, f)
		if text := b.condition(ivpn.ConditionUntrusted); !strings.Contains(text, "written by others") || b.State().Phase != ivpn.PhaseAbsent {
			t.Errorf("got %q, %+v; want it refused with the reason", text, b.State())
		}
		if err := os.Chmod(f, 0o700); err != nil {
			t.Fatal(err)
		}
		b.Ping()
		eventually(t, "it is good when repaired", func() bool {
			return b.State().Phase == ivpn.PhaseConnected && b.condition(ivpn.ConditionUntrusted) == ""
		})
	})
	t.Run("wrong secret", func(t *testing.T) {
		f := folder(t)
		d := daemon(t, ivpntest.Config{Folder: f, Secret: 7})
		if err := d.WritePortFile(fmt.Sprintf("%d:8", d.Port())); err != nil {
			t.Fatal(err)
		}
		b := interop(t, f)
		if text := b.condition(ivpn.ConditionUnreachable); !strings.Contains(text, "wrong secret") {
			t.Errorf("got %q; want the daemon's reason", text)
		}
		if err := d.WritePortFile(fmt.Sprintf("%d:7", d.Port())); err != nil {
			t.Fatal(err)
		}
		eventually(t, "over", func() bool {
			return b.condition(ivpn.ConditionUnreachable) == "" && b.condition(ivpn.ConditionDetected) != ""
		})
	})
}

// Readers and writers of the state do not disturb each other.
func TestHandleWhileChanging(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	d := daemon(t, ivpntest.Config{Folder: f})
	b := interop(t, f)
	done := make(chan struct{})
	var readers sync.WaitGroup
	s := about(packet.Outbound, packet.UDP, "10.0.0.2:40000", "192.0.2.1:2049")
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					if r := b.Handle(context.Background(), s); r.Verdict == verdict.Accept && r.Reason == "" {
						t.Error("half an answer")
					}
					_ = b.State().Endpoint.String()
				}
			}
		})
	}
	for range 500 {
		d.Starting("192.0.2.1", 2049, 17)
		d.Disconnected()
	}
	close(done)
	readers.Wait()
	d.Starting("192.0.2.9", 2049, 17)
	last := about(packet.Outbound, packet.UDP, "10.0.0.2:40000", "192.0.2.9:2049")
	eventually(t, "the last word counts", func() bool { return b.Handle(t.Context(), last).Verdict == verdict.Accept })
}

func BenchmarkHandle(b *testing.B) {
	f := b.TempDir()
	binary := "/bin/sh"
	d, err := ivpntest.Start(ivpntest.Config{Folder: f, ServiceBinary: binary})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Stop()
	d.Starting("192.0.2.1", 2049, 17)
	seen := make(chan struct{}, 1)
	i, err := ivpn.New(ivpn.Config{Client: ivpn.ClientConfig{Folder: f}, OnChange: func(context.Context) { seen <- struct{}{} }})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- i.Run(ctx, func() {}) }()
	for !i.State().Endpoint.Address.IsValid() {
		<-seen
	}
	const here, there = "10.0.0.2:40000", "192.0.2.1:2049"
	for name, s := range map[string]*conn.Snapshot{
		"undecided": ofProcess(about(packet.Outbound, packet.TCP, here, "198.51.100.1:443"), "/usr/lib/firefox/firefox", 1000),
		"endpoint":  about(packet.Outbound, packet.UDP, here, there),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				i.Handle(ctx, s)
			}
		})
	}
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}
