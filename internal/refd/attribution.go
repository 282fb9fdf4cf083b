package refd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
	"github.com/weirfw/weir/pkg/procinfo/ebpf"
)

const (
	// reassignPause is between two looks at whose connections are, however many processes changed.
	reassignPause = time.Second
	// sweepPause is the same where the kernel does not tell which processes changed.
	sweepPause = 5 * time.Second
	// lookShare is how many times as long as a look took is waited at least until the next: of very many connections it may take a
	// hundredth of a processor.
	lookShare = 100
	// maxChanged bounds the processes and connections that one look is about; with more, those are looked for that have ended or run
	// another program.
	maxChanged = 1 << 16
)

// attribution finds out whose connections are: by eBPF where the kernel lets it in. The Tracker is attached while its module runs.
type attribution struct {
	method config.Method
	// tracker is nil while there is none.
	tracker  atomic.Pointer[ebpf.Tracker]
	refused  atomic.Pointer[string]
	describe atomic.Pointer[func(pid int) (*conn.Process, error)]
	service  *module.Service

	mu      sync.Mutex // guards what follows
	changed map[processID]struct{}
	moved   map[packet.Tuple]struct{} // connections that another process goes on with
	missed  bool                      // there were more
	lost    uint64                    // events that the kernel had no room for, when looked at last
}

type processID struct {
	pid   int
	start uint64
}

var (
	_ procinfo.QuickOwner       = (*attribution)(nil)
	_ procinfo.ProcessDescriber = (*attribution)(nil)
	_ procinfo.MethodNamer      = (*attribution)(nil)
)

var errNoTracker = &procinfo.UnknownError{Reason: procinfo.ReasonNoSocket}

// finderConfig returns how processes are found.
func (a *attribution) finderConfig(cfg *config.File) procinfo.Config {
	a.method = cfg.Attribution.Method
	pc := procinfo.Config{ProcOnly: a.method == config.MethodProc}
	if a.method == config.MethodAuto {
		pc.First = []procinfo.SocketOwner{a}
	}
	return pc
}

// Owner implements procinfo.SocketOwner.
func (a *attribution) Owner(ctx context.Context, i *packet.Info, d packet.Direction) (procinfo.Owner, error) {
	if t := a.tracker.Load(); t != nil {
		return t.Owner(ctx, i, d)
	}
	return procinfo.Owner{}, errNoTracker
}

// OwnerQuick implements procinfo.QuickOwner.
func (a *attribution) OwnerQuick(i *packet.Info, d packet.Direction) (procinfo.Owner, error) {
	if t := a.tracker.Load(); t != nil {
		return t.OwnerQuick(i, d)
	}
	return procinfo.Owner{}, errNoTracker
}

// DescribeBy implements procinfo.ProcessDescriber.
func (a *attribution) DescribeBy(describe func(pid int) (*conn.Process, error)) {
	a.describe.Store(&describe)
}

// Method implements procinfo.MethodNamer.
func (a *attribution) Method() procinfo.Method { return procinfo.MethodEBPF }

// status describes it for people and programs.
func (a *attribution) status(s procinfo.Stats) *api.Attribution {
	out := &api.Attribution{Method: procinfo.MethodInetDiag.String(), Lookups: s.Lookups, Found: s.Found}
	if len(s.InetDiag) == 0 {
		out.Method = procinfo.MethodProcNet.String()
	}
	if t := a.tracker.Load(); t != nil {
		status, stats := t.Status(), t.Stats()
		out.Method, out.EBPF, out.EBPFStats = procinfo.MethodEBPF.String(), &status, &stats
	}
	if why := a.refused.Load(); why != nil {
		out.Refused = *why
	}
	return out
}

// attributionModule makes the module that attaches the Tracker. Nothing waits for it: until it is attached, and without it, inet_diag
// answers.
func (d *Daemon) attributionModule() (module.Module, error) {
	s, err := module.NewService(module.ServiceConfig{Name: "attribution", Logger: d.log, Run: d.runAttribution, Readiness: module.AtOnce})
	if err != nil {
		return nil, fmt.Errorf("build modules: %w", err)
	}
	d.attribution.service = s
	return s, nil
}

func (d *Daemon) runAttribution(ctx context.Context, ready func()) error {
	a := &d.attribution
	t := d.attach()
	ready()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var rechecks sync.WaitGroup
	rechecks.Go(func() { d.followHolders(ctx, t != nil && statusOf(t).Has(ebpf.FeatureProcesses)) })
	defer rechecks.Wait()
	d.followCloses(t == nil || !statusOf(t).Has(ebpf.FeatureEnds))
	if t == nil {
		<-ctx.Done()
		return nil
	}
	a.tracker.Store(t)
	err := t.Run(ctx, nil, ebpf.Reports{Traffic: d.firewall, Changed: a.noteChanged, Moved: a.noteMoved})
	cancel()
	a.tracker.Store(nil)
	if err != nil {
		d.followCloses(true) // until the next start, nobody else tells
	}
	return errors.Join(err, t.Close())
}

func (d *Daemon) followCloses(on bool) { //nolint:revive // on is all that it says
	if s, ok := d.source.(closeFollower); ok {
		if err := s.followCloses(on); err != nil {
			d.log.Warn("ends of TCP connections are noticed late", "err", err)
		}
	}
}

// closeFollower is a source that can tell closed connections by means of its own.
type closeFollower interface{ followCloses(on bool) error }

func statusOf(t *ebpf.Tracker) *ebpf.Status {
	s := t.Status()
	return &s
}

// attach returns the Tracker, nil if there is none. What that loses is a state.
func (d *Daemon) attach() *ebpf.Tracker {
	a := &d.attribution
	if a.method != config.MethodAuto {
		return nil
	}
	// nobody asks whose forwarded packets are
	t, err := ebpf.New(ebpf.Config{Logger: d.log.With("module", "attribution"), Without: []ebpf.Feature{ebpf.FeatureForwarded}})
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return nil
	case err != nil:
		why := err.Error()
		a.refused.Store(&why)
		d.log.Warn("eBPF cannot be used to find out whose connections are", "err", err)
		a.show("Whose connections are is found out without eBPF: slower, and not of processes that end at once. " + why)
		return nil
	}
	if describe := a.describe.Load(); describe != nil {
		t.DescribeBy(*describe)
	}
	a.refused.Store(nil)
	a.service.States().Remove(stateEBPF)
	lost := ""
	for _, m := range t.Status().Missing {
		if m.Feature == ebpf.FeatureForwarded {
			continue
		}
		lost += fmt.Sprintf(" %s: %s (%s).", m.Feature, m.Lost, m.Why)
	}
	if lost != "" {
		a.show("The kernel refuses some of what tells whose connections are." + lost)
	}
	return t
}

// stateEBPF is the state that says what is lost without eBPF.
const stateEBPF = "ebpf"

func (a *attribution) show(message string) {
	a.service.States().Add(module.State{ID: stateEBPF, Name: "Attribution without eBPF", Message: message, Severity: module.Hint})
}

// noteChanged notes a process that runs another program, or has ended: its connections may go on.
func (a *attribution) noteChanged(pid int, start uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.changed == nil {
		a.changed = make(map[processID]struct{})
	}
	note(a.changed, processID{pid, start}, &a.missed)
}

// noteMoved notes a connection that another process goes on with. Its local address may be unspecified.
func (a *attribution) noteMoved(t packet.Tuple) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.moved == nil {
		a.moved = make(map[packet.Tuple]struct{})
	}
	note(a.moved, t, &a.missed)
}

func note[K comparable](m map[K]struct{}, k K, full *bool) {
	if len(m) >= maxChanged {
		*full = true
		return
	}
	m[k] = struct{}{}
}

// noteLost notes how many events the kernel has had no room for.
func (a *attribution) noteLost(n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n > a.lost {
		a.missed = true
	}
	a.lost = n
}

// takeChanged returns what to look at, nil for nothing. missed tells that there is more, which was not noted.
func (a *attribution) takeChanged() (sel firewall.Selection, missed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	changed, moved, missed := a.changed, a.moved, a.missed
	a.changed, a.moved, a.missed = nil, nil, false
	if len(changed) == 0 && len(moved) == 0 {
		return nil, missed
	}
	return func(s *conn.Snapshot) bool {
		if s.Process == nil {
			return false
		}
		_, ok := changed[processID{s.Process.PID, s.Process.StartTicks}]
		return ok || isIn(moved, s.Tuple)
	}, missed
}

// isIn reports whether a connection is among those that moved, by its addresses or as one of a socket that sends from any.
func isIn(moved map[packet.Tuple]struct{}, t packet.Tuple) bool {
	if len(moved) == 0 {
		return false
	}
	if _, ok := moved[t]; ok {
		return true
	}
	anywhere := netip.IPv6Unspecified()
	if t.Is4() {
		anywhere = netip.IPv4Unspecified()
	}
	t.Local = netip.AddrPortFrom(anywhere, t.Local.Port())
	_, ok := moved[t]
	return ok
}

// followHolders looks again whose connections are after their processes changed, until ctx is done.
func (d *Daemon) followHolders(ctx context.Context, told bool) { //nolint:revive // told chooses the source of news, for good
	if _, ok := any(d.processes).(firewall.HolderFinder); !ok {
		return // Windows: a process runs one program as long as it lives, and the driver says whose a connection is
	}
	pause := sweepPause
	if told {
		pause = reassignPause
	}
	next := time.NewTimer(pause)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		begin := time.Now()
		if !told {
			d.sweepProcesses()
		}
		d.lookAtChanged(ctx)
		next.Reset(max(pause, lookShare*time.Since(begin)))
	}
}

func (d *Daemon) lookAtChanged(ctx context.Context) {
	if t := d.attribution.tracker.Load(); t != nil {
		d.attribution.noteLost(t.Stats().LostEvents)
	}
	sel, missed := d.attribution.takeChanged()
	if missed {
		d.sweepProcesses() // looked at the next time
	}
	if sel == nil {
		return
	}
	if _, err := d.firewall.Reassign(ctx, sel); err != nil && ctx.Err() == nil && !errors.Is(err, firewall.ErrNoHolder) {
		d.log.Warn("look again whose connections are", "err", err)
	}
}

// sweepProcesses finds the processes of live connections that have ended or run another program.
func (d *Daemon) sweepProcesses() {
	seen := make(map[*conn.Process]struct{})
	d.store.Range(func(c *conn.Conn) bool {
		if p := c.State().Process; p != nil && p.PID > 0 {
			seen[p] = struct{}{}
		}
		return true
	})
	for p := range seen {
		if now, err := d.processes.Process(p.PID); err != nil || now.StartTicks != p.StartTicks || now.Path != p.Path || now.InnerPath != p.InnerPath {
			d.attribution.noteChanged(p.PID, p.StartTicks)
		}
	}
}
