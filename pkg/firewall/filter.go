package firewall

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// waitMode says what filter may do.
type waitMode uint8

const (
	// inline: nothing that waits; errWouldWait instead.
	inline waitMode = iota
	// mayWait: handler, names and prompts.
	mayWait
	// again: re-evaluation; handler and names, but nobody is asked.
	again
)

// errWouldWait says that filter has to be called in another mode.
var errWouldWait = errors.New("firewall: the decision has to wait")

// errUndecidedAgain says that re-evaluation would have to ask a person.
var errUndecidedAgain = errors.New("firewall: re-evaluation asks nobody")

// filtered is a decision with what belongs to it.
type filtered struct {
	// About is the connection as it was judged.
	About    *conn.Snapshot
	Decision verdict.Decision
	Tunnel   *conn.TunnelContext
	SplitTun *conn.SplitTunContext
	// Internal marks our own connection.
	Internal bool
	// SkipTunnel keeps it out of tunnel and split tunnel.
	SkipTunnel bool
	// Inspect keeps the decision out of the kernel.
	Inspect bool
	// Hit is told when the decision takes effect, if set.
	Hit Hitter
	// ask is Outcome.Wait: there is no decision until it is called.
	ask func(ctx context.Context) (verdict.Decision, error)
	// unheard: there is an external handler, and it did not answer.
	unheard bool
	// said is what was decided before the connection's way was chosen, if
	// Decision says something else by now.
	said *verdict.Decision
	// byPolicy: a handler, a decider or a default decided.
	byPolicy bool
	// waited: the name is known, or it is of no use to wait for it any more.
	waited bool
	// inspected: the inspector has seen enough.
	inspected bool
}

// redirects reports whether the connection takes another way.
func (r *filtered) redirects() bool {
	return r.Decision.Verdict.Redirects() || r.Tunnel != nil || r.SplitTun != nil
}

func (r *filtered) count() {
	if r.Hit != nil {
		r.Hit.Hit()
	}
}

// FilterConnection decides about a connection as it is for a new one: external
// handler, deciders, default, tunnel stage. It touches no packet and changes
// nothing. It may wait for the handler, a name or a person until ctx is done.
func (f *Firewall) FilterConnection(ctx context.Context, s *conn.Snapshot) verdict.Decision {
	r, err := f.filter(ctx, s, mayWait)
	if err != nil {
		return decide(verdict.Failed, CodeWaitFailed, err.Error())
	}
	r.Decision.Scope = f.scopeOf(s, r)
	return r.Decision
}

// Preview is FilterConnection without asking anybody: where a person would be
// asked, ok is false.
func (f *Firewall) Preview(ctx context.Context, s *conn.Snapshot) (d verdict.Decision, ok bool) {
	r, err := f.filter(ctx, s, again)
	if err != nil {
		return verdict.Decision{}, false
	}
	r.Decision.Scope = f.scopeOf(s, r)
	return r.Decision, true
}

// HasHandler reports whether there is an external handler.
func (f *Firewall) HasHandler() bool {
	_, ok := f.cfg.External.Load()
	return ok
}

// AskHandler asks the external handler, and nobody else, about something that is no connection: a DNS query, as a snapshot with its
// domain. As for connections, it has until its deadline; ok is false if it has no opinion, or there is none.
func (f *Firewall) AskHandler(ctx context.Context, s *conn.Snapshot) (d verdict.Decision, ok bool) {
	call, ok := f.cfg.External.Load()
	if !ok {
		return verdict.Decision{}, false
	}
	res, _ := f.askHandler(ctx, call, s)
	if res.Verdict == verdict.Undecided {
		return verdict.Decision{}, false
	}
	return handlerDecision(call, s, res).Decision, true
}

func (f *Firewall) filter(ctx context.Context, s *conn.Snapshot, mode waitMode) (filtered, error) {
	r, err := f.consider(ctx, s, mode)
	switch {
	case err != nil:
		return filtered{}, err
	case r.ask == nil:
	case mode == inline:
		return filtered{}, errWouldWait
	case mode == again:
		return filtered{}, errUndecidedAgain
	default:
		r = r.answered(ctx)
	}
	return f.chooseWay(ctx, r), nil
}

// consider returns what the external handler, the deciders or the default say;
// whom to ask is in the result's ask.
func (f *Firewall) consider(ctx context.Context, s *conn.Snapshot, mode waitMode) (filtered, error) {
	unheard := false
	if call, ok := f.cfg.External.Load(); ok {
		if mode == inline {
			return filtered{}, errWouldWait
		}
		res, ok := f.askHandler(ctx, call, s)
		if res.Verdict != verdict.Undecided {
			return handlerDecision(call, s, res), nil
		}
		unheard = !ok
	}
	r, err := f.askDeciders(ctx, s, mode)
	if err == nil && f.wayNeedsName(&r) {
		if mode == inline {
			return filtered{}, errWouldWait
		}
		// the deciders have said that the name makes no difference to them, or have waited for it
		r.About, _ = f.awaitName(ctx, r.About, mode)
	}
	r.unheard = unheard
	return r, err
}

func handlerDecision(call extverdict.Call, s *conn.Snapshot, res extverdict.Result) filtered {
	r := filtered{About: s, Decision: decide(res.Verdict, CodeHandler, res.Reason), SkipTunnel: res.SkipTunnel}
	r.Decision.Reason.By = cmp.Or(res.By, call.Name())
	if res.Verdict == verdict.Failed {
		r.Decision.Reason.Code = CodeHandlerPanic
	}
	return r
}

// chooseWay lets what passes take its way, and keeps what was decided before
// that. Observe mode lets a refused connection pass: by the way that it would
// take if it were accepted.
func (f *Firewall) chooseWay(ctx context.Context, r filtered) filtered {
	r.byPolicy = true
	passed := r
	switch {
	case r.SkipTunnel:
		return r
	case r.Decision.Verdict.Refuses() && !f.enforced(r.Decision):
		passed.Decision = decide(verdict.Accept, r.Decision.Reason.Code, "")
		passed = f.tunnelStage(ctx, passed)
		if passed.Decision.Verdict != verdict.Failed {
			r.Tunnel, r.SplitTun = passed.Tunnel, passed.SplitTun
			return r
		}
	default:
		passed = f.tunnelStage(ctx, passed)
	}
	if passed.Decision != r.Decision {
		said := r.Decision
		passed.said = &said
	}
	return passed
}

// maxHandlerCalls bounds the calls that are under way: a handler that hangs
// must not fill the memory.
const maxHandlerCalls = 1024

// askHandler asks the external handler and waits until its deadline at most. ok
// is false if it did not answer.
func (f *Firewall) askHandler(ctx context.Context, call extverdict.Call, s *conn.Snapshot) (res extverdict.Result, ok bool) {
	if f.inFlight.Add(1) > maxHandlerCalls {
		f.inFlight.Add(-1)
		f.stats.handlerLate.Add(1)
		f.alarms.raise("handler-slow", fmt.Sprintf("handler %q does not answer; connections are decided without it", call.Name()))
		return extverdict.Result{}, false
	}
	limited, cancel := context.WithTimeout(ctx, f.cfg.HandlerDeadline)
	defer cancel()
	// buffered, so that a late answer does not hold its goroutine
	answers := make(chan extverdict.Result, 1)
	go func() {
		defer f.inFlight.Add(-1)
		res, err := call.Do(limited, s)
		f.handlerFault(err)
		answers <- res
	}()
	select {
	case res := <-answers:
		return res, true
	case <-limited.Done():
	}
	if ctx.Err() == nil {
		f.stats.handlerLate.Add(1)
		f.alarms.raise("handler-slow", fmt.Sprintf("handler %q took longer than %v; the connection was decided without it", call.Name(), f.cfg.HandlerDeadline))
	}
	return extverdict.Result{}, false
}

func (f *Firewall) handlerFault(err error) {
	var p *extverdict.PanicError
	switch {
	case errors.As(err, &p):
		f.alarms.raise("handler-panic", err.Error())
	case err != nil:
		f.alarms.raise("handler-verdict", err.Error())
	}
}

// askDeciders asks the deciders in their order, then the default.
func (f *Firewall) askDeciders(ctx context.Context, s *conn.Snapshot, mode waitMode) (filtered, error) {
	waited := s.Domain != "" || f.cfg.Names == nil
	for _, d := range f.cfg.Deciders {
		o := d.Decide(ctx, s)
		if o.NeedsName && !waited {
			if mode == inline {
				return filtered{}, errWouldWait
			}
			waited = true
			if named, ok := f.awaitName(ctx, s, mode); ok {
				s = named
				o = d.Decide(ctx, s)
			}
		}
		if !o.Decided {
			continue
		}
		r := filtered{About: s, Inspect: o.Inspect, Hit: o.Hit, ask: o.Wait, waited: waited}
		if o.Wait == nil {
			r.Decision = permitted(o.Decision)
		}
		return r, nil
	}
	v := f.cfg.DefaultOutbound
	switch {
	case s.Direction == packet.Outbound:
	case toSelf(s):
		v = f.cfg.DefaultLocal
	default:
		v = f.cfg.DefaultInbound
	}
	return filtered{About: s, waited: waited, Decision: decide(v, CodeDefault, "default for "+s.Direction.String()+"bound connections")}, nil
}

// answered asks the person, and waits for the answer.
func (r filtered) answered(ctx context.Context) filtered {
	d, err := r.ask(ctx)
	r.ask = nil
	if err != nil {
		r.Decision = decide(verdict.Failed, CodeWaitFailed, err.Error())
	} else {
		r.Decision = permitted(d)
	}
	return r
}

// permitted replaces a decision that a Decider may not take: one that decides
// nothing, or for which something is missing.
func permitted(d verdict.Decision) verdict.Decision {
	switch d.Verdict {
	case verdict.Accept, verdict.Block, verdict.Drop, verdict.Failed, verdict.RerouteToNameserver:
		return d
	case verdict.Undecided, verdict.Undeterminable, verdict.RerouteToTunnel, verdict.RerouteToSplitTun:
	}
	bad := d.Verdict
	d.Verdict, d.Reason.Code = verdict.Failed, CodeBadDecision
	d.Reason.Text = "a decider answered " + bad.String() + ", which it may not"
	return d
}

// tunnelStage lets tunnel and split tunnel take an accepted connection to
// somewhere beyond this link. An error there fails the connection: it never goes
// another way.
func (f *Firewall) tunnelStage(ctx context.Context, r filtered) filtered {
	s := r.About
	if r.Decision.Verdict != verdict.Accept || s.Direction == packet.Inbound || s.Internal || !leaves(s) {
		return r
	}
	stream := s.Tuple.Protocol == packet.TCP || s.Tuple.Protocol == packet.UDP
	if t := f.cfg.Tunneler; t != nil && stream && !f.attached(s) {
		c, ok, err := t.Tunnel(ctx, s)
		switch {
		case err != nil:
			r.Decision = decide(verdict.Failed, CodeTunnelFailed, err.Error())
			return r
		case ok:
			r.Decision, r.Tunnel = decide(verdict.RerouteToTunnel, CodeTunnel, "goes through tunnel "+c.Provider), c
			return r
		}
	}
	if t := f.cfg.SplitTunneler; t != nil && (stream || echoType(s)) {
		c, ok, err := t.SplitTun(ctx, s)
		switch {
		case err != nil:
			r.Decision = decide(verdict.Failed, CodeSplitTunFailed, err.Error())
		case ok:
			r.Decision, r.SplitTun = decide(verdict.RerouteToSplitTun, CodeSplitTun, "leaves by "+c.Interface), c
		}
	}
	return r
}

// leaves reports whether a connection goes to somewhere beyond this link.
func leaves(s *conn.Snapshot) bool {
	return (s.Scope == netscope.Site || s.Scope == netscope.Global) && !toSelf(s)
}

func (f *Firewall) attached(s *conn.Snapshot) bool {
	return f.cfg.Host != nil && f.cfg.Host.IsAttached(s.Tuple.Remote.Addr())
}

// toSelf reports whether the remote address is this host's.
func toSelf(s *conn.Snapshot) bool {
	return s.Scope == netscope.Host || s.Tuple.Remote.Addr() == s.Tuple.Local.Addr()
}

// scopeOf says how long a decision may hold in the kernel.
func (f *Firewall) scopeOf(s *conn.Snapshot, r filtered) verdict.Scope {
	v := r.Decision.Verdict
	switch {
	case f.cfg.Mode == Observe, f.cfg.Permanent == NeverPermanent, r.Inspect:
		return verdict.ScopePacket
	case v != verdict.Accept && v != verdict.Block && v != verdict.Drop:
		return verdict.ScopePacket
	case v == verdict.Accept && !r.Internal && (f.wanted(s) || !r.inspected && f.inspects(s)):
		return verdict.ScopePacket
	case s.Direction == packet.Outbound && toSelf(s):
		// its mark would be saved to the connection, and the inbound side would
		// not be judged
		return verdict.ScopePacket
	case s.Tuple.Protocol.IsICMP() && s.Tuple.Local.Port() == 0 && s.Tuple.Remote.Port() == 0 && !echoType(s):
		// it may be RELATED to another connection, whose mark it would change
		return verdict.ScopePacket
	case v == verdict.Accept && s.Direction == packet.Outbound && (s.Internal || r.Internal):
		return verdict.ScopeFinal
	}
	return verdict.ScopePermanent
}

func echoType(s *conn.Snapshot) bool {
	i := packet.Info{Tuple: s.Tuple, ICMPType: s.ICMPType}
	return i.IsEcho()
}
