package refd

import (
	"context"
	"errors"
	"fmt"
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
	// maxChanged bounds the processes that one look is about; with more, all connections are looked at.
	maxChanged = 256
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
	all     bool // too many changed
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
	if s, ok := d.source.(closeFollower); ok {
		if err := s.followCloses(t == nil || !statusOf(t).Has(ebpf.FeatureEnds)); err != nil {
			d.log.Warn("ends of TCP connections are noticed late", "err", err)
		}
	}
	if t == nil {
		<-ctx.Done()
		return nil
	}
	a.tracker.Store(t)
	err := t.Run(ctx, nil, ebpf.Reports{Traffic: d.firewall, Changed: a.noteChanged, Moved: d.moved(ctx)})
	cancel()
	a.tracker.Store(nil)
	return errors.Join(err, t.Close())
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
	t, err := ebpf.New(ebpf.Config{Logger: d.log.With("module", "attribution")})
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
	lost := ""
	for _, m := range t.Status().Missing {
		lost += fmt.Sprintf(" %s: %s (%s).", m.Feature, m.Lost, m.Why)
	}
	if lost != "" {
		a.show("The kernel refuses some of what tells whose connections are." + lost)
	}
	return t
}

func (a *attribution) show(message string) {
	a.service.States().Add(module.State{ID: "ebpf", Name: "Attribution without eBPF", Message: message, Severity: module.Hint})
}

// noteChanged notes a process that runs another program, or has ended: its connections may go on.
func (a *attribution) noteChanged(pid int, start uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.changed == nil {
		a.changed = make(map[processID]struct{})
	}
	if len(a.changed) >= maxChanged {
		a.all = true
		return
	}
	a.changed[processID{pid, start}] = struct{}{}
}

// takeChanged returns what to look at, nil for nothing.
func (a *attribution) takeChanged() firewall.Selection {
	a.mu.Lock()
	defer a.mu.Unlock()
	changed, all := a.changed, a.all
	a.changed, a.all = nil, false
	switch {
	case all:
		return firewall.Everything
	case len(changed) == 0:
		return nil
	}
	return func(s *conn.Snapshot) bool {
		if s.Process == nil {
			return false
		}
		_, ok := changed[processID{s.Process.PID, s.Process.StartTicks}]
		return ok
	}
}

// moved returns what is done when another process goes on with a connection.
func (d *Daemon) moved(context.Context) func(packet.Tuple) {
	return func(t packet.Tuple) {
		if c := d.store.Get(t); c != nil {
			if p := c.State().Process; p != nil {
				d.attribution.noteChanged(p.PID, p.StartTicks)
			}
		}
	}
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
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !told {
			d.sweepProcesses()
		}
		if sel := d.attribution.takeChanged(); sel != nil {
			if _, err := d.firewall.Reassign(ctx, sel); err != nil && ctx.Err() == nil && !errors.Is(err, firewall.ErrNoHolder) {
				d.log.Warn("look again whose connections are", "err", err)
			}
		}
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
		if now, err := d.processes.Process(p.PID); err != nil || now.StartTicks != p.StartTicks || now.Path != p.Path {
			d.attribution.noteChanged(p.PID, p.StartTicks)
		}
	}
}
