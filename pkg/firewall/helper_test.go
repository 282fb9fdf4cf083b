package firewall_test

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// bubble runs a subtest with a clock of its own.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// source is the fake backend with a kernel that tracks connections.
type source struct {
	*intercepttest.Source
	mu      sync.Mutex // guards tracked
	tracked map[packet.Tuple]packet.Direction
}

func newSource(cfg intercepttest.Config) *source {
	return &source{Source: intercepttest.New(cfg), tracked: make(map[packet.Tuple]packet.Direction)}
}

// Origin implements intercept.Tracker.
func (s *source) Origin(t packet.Tuple) (packet.Direction, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.tracked[t]
	return d, ok
}

func (s *source) track(t packet.Tuple, d packet.Direction) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tracked[t] = d
}

// rig is a firewall on a fake source.
type rig struct {
	*firewall.Firewall
	t     *testing.T
	src   *source
	store *connstore.Live
	conds conditions
	// stop ends the firewall, unplug the source; both wait and may be called
	// twice.
	stop, unplug func()
}

func start(t *testing.T, edit func(c *firewall.Config)) *rig {
	t.Helper()
	return startOn(t, newSource(intercepttest.Config{}), edit)
}

func startOn(t *testing.T, src *source, edit func(c *firewall.Config)) *rig {
	t.Helper()
	r := &rig{t: t, src: src, store: connstore.NewLive(connstore.Config{})}
	cfg := firewall.Config{Store: r.store, Source: src, Report: r.conds.add, Workers: 2, OwnPID: -1}
	if edit != nil {
		edit(&cfg)
	}
	r.store = cfg.Store
	f, err := firewall.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Firewall = f
	r.stop = running(t, f.Run)
	r.unplug = running(t, func(ctx context.Context, ready func()) error { return src.Run(ctx, f, ready) })
	return r
}

// running runs something until its result is called, or the test ends.
func running(t testing.TB, run func(ctx context.Context, ready func()) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- run(ctx, func() { close(ready) }) }()
	<-ready
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("got %v from Run; want nil", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// fate sends a packet and returns what became of it.
func (r *rig) fate(i packet.Info) intercepttest.Outcome {
	r.t.Helper()
	return r.result(r.send(i))
}

func (r *rig) send(i packet.Info) *intercepttest.Result {
	return r.src.Send(intercepttest.Packet{Info: i})
}

func (r *rig) result(res *intercepttest.Result) intercepttest.Outcome {
	r.t.Helper()
	o, err := res.Wait(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

// want sends a packet and checks its fate.
func (r *rig) want(i packet.Info, want verdict.Action) {
	r.t.Helper()
	if got := r.fate(i); got.Action != want {
		r.t.Errorf("%v: got %v; want %v", i.Tuple, got, want)
	}
	synctest.Wait()
}

// wantBy is want, with who decided.
func (r *rig) wantBy(i packet.Info, want verdict.Action, by intercepttest.By) {
	r.t.Helper()
	if got := r.fate(i); got.Action != want || got.By != by {
		r.t.Errorf("%v: got %v; want %v by %v", i.Tuple, got, want, by)
	}
	synctest.Wait()
}

// wantWhy sends a packet and checks action, verdict and reason.
func (r *rig) wantWhy(i packet.Info, want verdict.Action, v verdict.Verdict, code verdict.Code) {
	r.t.Helper()
	r.want(i, want)
	if s := r.state(i.Tuple); s.Verdict() != v || s.Decision.Reason.Code != code {
		r.t.Errorf("%v: got %v for %+v; want %v for %q", i.Tuple, s.Verdict(), s.Decision.Reason, v, code)
	}
}

// state returns the record of a live connection.
func (r *rig) state(t packet.Tuple) *conn.Snapshot {
	r.t.Helper()
	c := r.store.Get(t)
	if c == nil {
		r.t.Fatalf("%v: no such connection", t)
	}
	return c.State()
}

// calls returns what the kernel was told of one kind.
func (r *rig) calls(op intercepttest.Op) []intercepttest.Call {
	return slices.DeleteFunc(r.src.Calls(), func(c intercepttest.Call) bool { return c.Op != op })
}

func (r *rig) wantCalls(op intercepttest.Op, want int) {
	r.t.Helper()
	if got := r.calls(op); len(got) != want {
		r.t.Errorf("got %v; want %d of %q", got, want, op)
	}
}

// reevaluate re-evaluates and checks how many verdicts changed.
func (r *rig) reevaluate(sel firewall.Selection, want int) {
	r.t.Helper()
	if got, err := r.Reevaluate(r.t.Context(), sel); got != want || err != nil {
		r.t.Errorf("got %d changed, %v; want %d", got, err, want)
	}
	synctest.Wait()
}

type conditions struct {
	mu  sync.Mutex // guards all
	all []firewall.Condition
}

func (c *conditions) add(n firewall.Condition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, n)
}

// ids returns what was reported, ended ones with a minus in front.
func (c *conditions) ids() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for _, n := range c.all {
		if n.Over {
			ids = append(ids, "-"+n.ID)
		} else {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

func (r *rig) wantConditions(want ...string) {
	r.t.Helper()
	if got := r.conds.ids(); !slices.Equal(got, want) {
		r.t.Errorf("got conditions %q; want %q", got, want)
	}
}

const (
	here     = "192.168.1.2"
	faraway  = "198.51.100.7:443"
	pastNews = 16 * time.Second // closing connections are over by then
)

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// out is a first packet to remote; TCP has SYN.
func out(p packet.Protocol, port uint16, remote string) packet.Info {
	to := addr(remote)
	from := netip.MustParseAddr(here)
	version := uint8(4)
	if to.Addr().Is6() {
		from, version = netip.MustParseAddr("2001:db8::2"), 6
	}
	i := packet.Info{
		Tuple:   packet.Tuple{Local: netip.AddrPortFrom(from, port), Remote: to, Protocol: p},
		Version: version, Length: 60, HeaderLength: 40, Interface: 2,
	}
	if p == packet.TCP {
		i.TCPFlags = packet.TCPSyn
	}
	return i
}

// in is a first packet from remote.
func in(p packet.Protocol, port uint16, remote string) packet.Info {
	i := out(p, port, remote)
	i.Direction = packet.Inbound
	return i
}

func between(i packet.Info, local, remote string) packet.Info {
	i.Local, i.Remote = addr(local), addr(remote)
	return i
}

func flags(i packet.Info, f uint8) packet.Info {
	i.TCPFlags = f
	return i
}

func back(i packet.Info) packet.Info {
	i.Direction ^= 1
	return i
}

// ping is an echo request with identifier 7.
func ping(d packet.Direction, remote string) packet.Info {
	i := out(packet.ICMP, 0, remote+":0")
	i.Direction, i.ICMPType = d, 8
	if d == packet.Outbound {
		i.Local = netip.AddrPortFrom(i.Local.Addr(), 7)
	} else {
		i.Remote = netip.AddrPortFrom(i.Remote.Addr(), 7)
	}
	return i
}

// decider is a Decider of a function.
type decider func(s *conn.Snapshot) firewall.Outcome

func (d decider) Decide(_ context.Context, s *conn.Snapshot) firewall.Outcome { return d(s) }

func says(v verdict.Verdict) firewall.Outcome {
	return firewall.Outcome{Decided: true, Decision: verdict.Decision{Verdict: v, Reason: verdict.Reason{Code: "test"}}}
}

func always(v verdict.Verdict) []firewall.Decider {
	return []firewall.Decider{decider(func(*conn.Snapshot) firewall.Outcome { return says(v) })}
}

// policy is a Decider whose answer can be changed.
type policy struct {
	mu  sync.Mutex // guards now and seen
	now firewall.Outcome
	n   int
}

func newPolicy(v verdict.Verdict) *policy { return &policy{now: says(v)} }

func (p *policy) Decide(context.Context, *conn.Snapshot) firewall.Outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n++
	return p.now
}

func (p *policy) set(o firewall.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = o
}

func (p *policy) asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// finder is a ProcessFinder of a function.
type finder func(i *packet.Info, d packet.Direction) (*conn.Process, error)

func (f finder) Find(_ context.Context, i *packet.Info, d packet.Direction) (*conn.Process, error) {
	return f(i, d)
}

func isProcess(p conn.Process) finder {
	return func(*packet.Info, packet.Direction) (*conn.Process, error) { return &p, nil }
}

type resultOf = intercepttest.Result

func newStore() *connstore.Live { return connstore.NewLive(connstore.Config{}) }

// reportEnd tells the firewall of the end of a connection that the kernel
// tracked.
func (r *rig) reportEnd(t packet.Tuple, at time.Time) {
	r.t.Helper()
	r.src.mu.Lock()
	delete(r.src.tracked, t)
	r.src.mu.Unlock()
	if err := r.src.ReportEnd(intercept.End{Tuple: t, At: at}); err != nil {
		r.t.Error(err)
	}
	synctest.Wait()
}
