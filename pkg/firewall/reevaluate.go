package firewall

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Selection picks connections for re-evaluation.
type Selection func(s *conn.Snapshot) bool

// Everything selects all connections.
func Everything(*conn.Snapshot) bool { return true }

// OfApp selects the connections of an executable.
func OfApp(path string) Selection {
	return func(s *conn.Snapshot) bool { return s.Process != nil && s.Process.Path == path }
}

// OfID selects one connection.
func OfID(id conn.ID) Selection {
	return func(s *conn.Snapshot) bool { return s.ID == id }
}

// Reevaluate decides anew about live connections, as settings or
// circumstances changed, and pushes changed verdicts to the kernel. Change the
// settings first. Our own connections stay as they are. Where a person would
// have to be asked, or the handler that decided does not answer, the answer
// given before stays, and tunnel and split tunnel are asked again. Connections
// that are being decided are decided again afterwards. It returns how many verdicts changed, and joins the errors of
// what could not be pushed.
func (f *Firewall) Reevaluate(ctx context.Context, sel Selection) (changed int, err error) {
	f.policy.Add(1)
	var (
		errs []error
		mu   sync.Mutex // guards changed and errs
		busy sync.WaitGroup
	)
	one := func(c *conn.Conn) {
		did, err := f.reevaluate(ctx, c, pushChanges)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			errs = append(errs, err)
		}
		if did {
			changed++
		}
	}
	slots := make(chan struct{}, f.reevaluators())
	f.cfg.Store.Range(func(c *conn.Conn) bool {
		s := c.State()
		if !judgedByPolicy(s) || !sel(s) {
			return true
		}
		if cap(slots) == 0 {
			one(c)
			return ctx.Err() == nil
		}
		slots <- struct{}{}
		busy.Go(func() {
			defer func() { <-slots }()
			one(c)
		})
		return ctx.Err() == nil
	})
	busy.Wait()
	if ctx.Err() != nil {
		errs = append(errs, fmt.Errorf("re-evaluate: %w", context.Cause(ctx)))
	}
	return changed, errors.Join(errs...)
}

// reevaluators is how many connections are re-evaluated at once beside the
// caller: many, if each may wait for an external handler.
func (f *Firewall) reevaluators() int {
	if _, ok := f.cfg.External.Load(); ok {
		return 64
	}
	return 0
}

// judgedByPolicy reports whether FilterConnection decided about s: what the
// stages before it decided does not depend on policy.
func judgedByPolicy(s *conn.Snapshot) bool {
	if s.Internal || !s.Live() || s.Decision.Verdict == verdict.Undecided || s.Decision.Verdict == verdict.RerouteToNameserver {
		return false
	}
	switch s.Decision.Reason.Code {
	case CodeDriver, CodeSelf, CodeDHCP, CodeOwnService, CodeSinkhole, CodeMulticastAnswer:
		return false
	case CodeOlder:
		// once reset it is over, and another decision would only mark it
		return s.Decision.Verdict != verdict.Block
	}
	return true
}

// isRest reports whether s was stopped because nobody could tell whose it is
// (see mayBeSplit), which holds as before: policy would take it for anybody's.
func (f *Firewall) isRest(s *conn.Snapshot) bool {
	return s.Decision.Reason.Code == CodeOlder && s.Decision.Verdict == verdict.Drop && s.Process == nil && f.mayBeSplit(s)
}

// againLocks is a power of two.
const againLocks = 64

// pushMode says when reevaluate tells the kernel.
type pushMode uint8

const (
	// pushChanges: if something changed.
	pushChanges pushMode = iota
	// pushAlways: the kernel may have been told something older meanwhile.
	pushAlways
)

// reevaluate decides anew about one connection, and says whether the verdict
// changed. Of several at once, each is done only if no other was since it began
// to look, so that the newer policy wins.
func (f *Firewall) reevaluate(ctx context.Context, c *conn.Conn, mode pushMode) (changed bool, err error) {
	for {
		old := c.State()
		if !old.Live() {
			return false, nil
		}
		r := f.decideAgain(ctx, c, old)
		if changed, done, err := f.replace(c, old, r, mode); done {
			return changed, err
		}
	}
}

// replace carries out what decideAgain returned about old, unless that is no
// longer c's state: then done is false.
func (f *Firewall) replace(c *conn.Conn, old *conn.Snapshot, r *filtered, mode pushMode) (changed, done bool, err error) {
	// The kernel is told in the order of the states: it is asked under the lock.
	lock := &f.again[old.ID%againLocks]
	lock.Lock()
	defer lock.Unlock()
	if c.State() != old {
		return false, false, nil
	}
	switch {
	case r == nil:
	case f.same(old, r):
		f.stats.verdicts[r.Decision.Verdict].Add(1)
	default:
		f.record(c, *r)
		if changed = f.differ(old, c.State()); changed {
			r.count()
		}
	}
	if !changed && mode == pushChanges {
		return false, true, nil
	}
	now := c.State()
	c.SetAction(f.actionOf(now))
	if way := f.way(old); way != f.way(now) {
		f.stopWay(way, old.Tuple)
	}
	err = f.push(old, now)
	f.told.note(c, time.Now())
	f.overtaken(c)
	return changed, true, err
}

// decideAgain returns the decision about a connection that has one, nil if that
// one stays.
func (f *Firewall) decideAgain(ctx context.Context, c *conn.Conn, old *conn.Snapshot) *filtered {
	if f.isRest(old) {
		return nil
	}
	before, known := f.bases.of(c, old)
	r, err := f.filter(ctx, old, again)
	switch {
	case ctx.Err() != nil:
		// somebody who was asked may not have answered
		return nil
	case err != nil, r.unheard && before.decision.Reason.Code == CodeHandler:
		// A person would have to be asked, or the handler does not answer: what
		// was said before stays, only the way is chosen again.
		if !known {
			return nil
		}
		r = f.chooseWay(ctx, filtered{
			About: old, Decision: before.decision, Inspect: before.inspect, SkipTunnel: before.skipTunnel,
		})
	}
	if old.Decision.Reason.Code == CodeOlder && r.redirects() {
		return nil
	}
	// the same context stays, so that the connection keeps its session
	if old.SplitTun != nil && r.SplitTun != nil && *old.SplitTun == *r.SplitTun {
		r.SplitTun = old.SplitTun
	}
	if old.Tunnel != nil && r.Tunnel != nil && *old.Tunnel == *r.Tunnel {
		r.Tunnel = old.Tunnel
	}
	if f.cfg.OnChange == LeaveChanged && changesWay(old, &r) {
		return nil
	}
	return &r
}

// changesWay reports whether a connection that got somewhere would have to go
// on by another way.
func changesWay(old *conn.Snapshot, r *filtered) bool {
	return old.Decision.Verdict.Allows() && r.Decision.Verdict.Allows() && (old.Tunnel != r.Tunnel || old.SplitTun != r.SplitTun)
}

// same reports whether r says what old has already.
func (f *Firewall) same(old *conn.Snapshot, r *filtered) bool {
	d := r.Decision
	d.Scope = f.scopeOf(old, *r)
	return d == old.Decision && f.enforced(d) == old.Enforced && r.Tunnel == old.Tunnel && r.SplitTun == old.SplitTun &&
		r.About.Domain == old.Domain
}

// differ reports whether two states of a connection mean something else to
// people or to packets.
func (f *Firewall) differ(old, now *conn.Snapshot) bool {
	oldAction, _ := f.actionOf(old)
	action, _ := f.actionOf(now)
	return old.Decision.Verdict != now.Decision.Verdict || action != oldAction ||
		old.SplitTun != now.SplitTun || old.Tunnel != now.Tunnel
}

// push tells the kernel, and cuts a connection that may not go on as it is. That it could not is a condition, too: whoever changed the
// policy is not always there to be told.
func (f *Firewall) push(old, now *conn.Snapshot) error {
	var errs []error
	if f.updater != nil {
		action, route := f.actionOf(now)
		if err := f.updater.Update(now.Tuple, action, route); err != nil {
			errs = append(errs, fmt.Errorf("update %v: %w", now.Tuple, err))
		}
	}
	if f.mustCut(old, now) {
		if err := f.cutter.Cut(now.Tuple); err != nil {
			errs = append(errs, fmt.Errorf("cut %v: %w", now.Tuple, err))
		}
	}
	err := errors.Join(errs...)
	if err != nil && !errors.Is(err, intercept.ErrNotRunning) { // nothing is in effect during a pause
		f.alarms.raise("push", "a changed verdict could not be put into effect; that connection goes on as before: "+err.Error())
	}
	return err
}

// mustCut reports whether a running connection has to end: it got somewhere,
// and is now refused or takes another way.
func (f *Firewall) mustCut(old, now *conn.Snapshot) bool {
	if f.cutter == nil || f.cfg.OnChange == LeaveChanged {
		return false
	}
	if p := now.Tuple.Protocol; p != packet.TCP && p != packet.UDP {
		return false
	}
	was, _ := f.actionOf(old)
	is, _ := f.actionOf(now)
	from, to := was.Verdict(), is.Verdict()
	return from.Allows() && (from != to || old.SplitTun != now.SplitTun || old.Tunnel != now.Tunnel)
}
