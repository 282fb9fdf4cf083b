package firewall_test

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

// The promises about many connections.
const (
	manyConns  = 100_000
	maxMemory  = 100 << 20
	maxPerConn = 12 // allocations, those of packet and process look-up not counted
)

// line is a firewall with rules, without a source.
type line struct {
	*firewall.Firewall
	store *connstore.Live
	wait  sync.WaitGroup // for packets
}

func newLine(tb testing.TB) *line {
	tb.Helper()
	set, err := rules.Compile(thousandRules())
	if err != nil {
		tb.Fatal(err)
	}
	var live rules.Live
	live.Swap(set)
	l := &line{store: newStore()}
	l.Firewall, err = firewall.New(firewall.Config{
		Store: l.store, Processes: crowd(), OwnPID: -1,
		Deciders: []firewall.Decider{&firewall.RuleDecider{Rules: &live}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func thousandRules() rules.Config {
	var cfg rules.Config
	for n := range 100 {
		app := rules.AppProfile{ID: "app" + strconv.Itoa(n), Match: []rules.AppMatch{{Path: fmt.Sprintf("/usr/bin/app%d", n)}}}
		for m := range 10 {
			app.Rules = append(app.Rules, rules.Rule{
				ID: fmt.Sprintf("r%d.%d", n, m), Action: rules.Allow, RemotePorts: strconv.Itoa(440 + m),
				Remote: []string{fmt.Sprintf("%d.0.0.0/8", 10+m)},
			})
		}
		cfg.Apps = append(cfg.Apps, app)
	}
	return cfg
}

// crowd is some thousand processes of a hundred programs.
type crowdFinder []*conn.Process

func crowd() crowdFinder {
	all := make(crowdFinder, 5000)
	shell := &conn.Process{PID: 1000, Path: "/usr/bin/bash"}
	for n := range all {
		path := fmt.Sprintf("/usr/bin/app%d", n%100)
		all[n] = &conn.Process{
			PID: 2000 + n, UID: 1000, Path: path, Args: []string{path, "--number", strconv.Itoa(n)}, Parent: shell, StartTicks: uint64(n),
			Cgroup: fmt.Sprintf("/user.slice/user-1000.slice/app-%d.scope", n),
		}
	}
	return all
}

func (c crowdFinder) Find(_ context.Context, i *packet.Info, _ packet.Direction) (*conn.Process, error) {
	return c[int(i.Local.Port())%len(c)], nil
}

// numbered is the first packet of the n-th connection.
func numbered(n int) packet.Info {
	return packet.Info{
		Tuple: packet.Tuple{
			Local:    netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 1, 2}), uint16(n%60_000+1024)),
			Remote:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(10 + n%10), byte(n >> 16), byte(n >> 8), byte(n)}), uint16(440+n%10)),
			Protocol: packet.TCP,
		},
		TCPFlags: packet.TCPSyn, Version: 4, Length: 60, Interface: 2, Seen: time.Now(),
	}
}

// silent is a packet of which only the end matters.
type silent struct {
	packet.Once
	info packet.Info
	line *line
}

func (p *silent) Issue(uint64, verdict.Action, uint8) error {
	p.line.wait.Done()
	return nil
}

func (p *silent) Info() *packet.Info       { return &p.info }
func (p *silent) Payload() ([]byte, error) { return nil, packet.ErrNoPayload }
func (*silent) FastTrackedByDriver() bool  { return false }
func (*silent) ExpectsInfo() bool          { return false }

// open hands over the first packets of connections from to to and waits for
// their verdicts.
func (l *line) open(from, to int) {
	const most = 4096 // fewer than may be scheduled
	for from < to {
		n := min(to-from, most)
		l.wait.Add(n)
		ps := make([]silent, n)
		for k := range ps {
			p := &ps[k]
			p.info, p.line = numbered(from+k), l
			p.Init(p, 1)
			l.Handle(p)
		}
		l.wait.Wait()
		from += n
	}
}

// Looking up a known connection costs no allocation.
func TestLookupAllocs(t *testing.T) {
	testutil.NoLeaks(t)
	l := newLine(t)
	defer running(t, l.Run)()
	l.open(0, 1)
	i := flags(numbered(0), packet.TCPAck)
	ok := false
	for !ok { // the packet path knows it right after its first packet's verdict
		runtime.Gosched()
		_, _, ok = l.Lookup(&i)
	}
	if n := testing.AllocsPerRun(1000, func() {
		i.Seen = i.Seen.Add(time.Microsecond)
		if _, _, known := l.Lookup(&i); !known {
			ok = false
		}
	}); n != 0 || !ok {
		t.Errorf("got %v allocations, known %t; want 0, true", n, ok)
	}
	unknown := numbered(1)
	if n := testing.AllocsPerRun(1000, func() { _, _, ok = l.Lookup(&unknown) }); n != 0 || ok {
		t.Errorf("unknown: got %v allocations, known %t; want 0, false", n, ok)
	}
}

// A new connection with a thousand rules costs a few allocations.
func TestNewConnectionAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's allocations are not ours")
	}
	l := newLine(t)
	defer running(t, l.Run)()
	l.open(0, 10_000) // tables have grown a bit, rules know the processes
	next := 10_000
	const batch = 1000
	n := testing.AllocsPerRun(5, func() {
		l.open(next, next+batch)
		next += batch
	}) / batch
	t.Logf("%.1f allocations a connection", n)
	if n > maxPerConn {
		t.Errorf("got %v allocations a connection; want at most %d", n, maxPerConn)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	for range 2 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// measureMemory returns what many live connections with processes and decisions
// take.
func measureMemory(tb testing.TB) uint64 {
	tb.Helper()
	before := heap()
	l := newLine(tb)
	defer running(tb, l.Run)()
	l.open(0, manyConns)
	after := heap()
	if n := l.store.Len(); n != manyConns {
		tb.Errorf("got %d connections; want %d", n, manyConns)
	}
	if s := l.store.Get(numbered(manyConns - 1).Tuple).State(); s.Process == nil || s.Verdict() != verdict.Accept || s.Decision.Reason.Rule == "" {
		tb.Errorf("got %+v; want a process, and a rule that accepted", s)
	}
	runtime.KeepAlive(l)
	return after - before
}

func TestMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's memory is not ours")
	}
	got := measureMemory(t)
	t.Logf("%d connections take %.1f MB", manyConns, float64(got)/1e6)
	if got > maxMemory {
		t.Errorf("got %d bytes; want at most %d", got, maxMemory)
	}
}

func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(float64(measureMemory(b))/1e6, "MB/100k-conns")
	}
}

func BenchmarkLookup(b *testing.B) {
	const conns = 10_000
	l := newLine(b)
	defer running(b, l.Run)()
	l.open(0, conns)
	infos := make([]packet.Info, conns)
	for n := range infos {
		infos[n] = flags(numbered(n), packet.TCPAck)
	}
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			l.Lookup(&infos[n%conns])
			n++
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			n := 0
			for pb.Next() {
				i := infos[n%conns]
				l.Lookup(&i)
				n++
			}
		})
	})
}

// BenchmarkNewConnection is from Handle to the verdict, with 1,000 rules; the
// process look-up costs nothing here.
func BenchmarkNewConnection(b *testing.B) {
	l := newLine(b)
	defer running(b, l.Run)()
	l.open(0, 1000)
	b.ReportAllocs()
	b.ResetTimer()
	l.open(1000, 1000+b.N)
}

// BenchmarkReevaluate is of 10,000 connections of which none changes.
func BenchmarkReevaluate(b *testing.B) {
	l := newLine(b)
	defer running(b, l.Run)()
	l.open(0, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if n, err := l.Reevaluate(b.Context(), firewall.Everything); n != 0 || err != nil {
			b.Fatal(n, err)
		}
	}
}
