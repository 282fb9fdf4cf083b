package firewall

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

const flowShards = 64

// maxScheduled is how many new connections may wait for a worker.
const maxScheduled = 8192

// flow is a connection that is being decided, with its packets in order.
type flow struct {
	tuple packet.Tuple
	queue []packet.Packet
	// first is room for the queue: most connections have one packet in it.
	first [1]packet.Packet
	// info is set while the flow waits for its connection's info-only packet.
	// The shard's lock guards it.
	info *time.Timer
	// older: its connection was there before the firewall.
	older bool
	// policy is the number of re-evaluations when the decision began.
	policy uint64
	// began is when judging did.
	began time.Time
}

// flowTable holds the flows. A flow leaves it when its connection is decided
// and its queue is empty.
type flowTable struct {
	shard [flowShards]flowShard
}

type flowShard struct {
	mu sync.Mutex // guards m and the queues of its flows
	m  map[packet.Tuple]*flow
}

func (t *flowTable) init() {
	for i := range t.shard {
		t.shard[i].m = make(map[packet.Tuple]*flow)
	}
}

func (t *flowTable) of(k packet.Tuple) *flowShard {
	a := k.Remote.Addr().As16()
	return &t.shard[(uint(k.Local.Port())^uint(k.Remote.Port())^uint(a[15]))%flowShards]
}

// has reports whether somebody decides about a connection.
func (t *flowTable) has(k packet.Tuple) bool {
	shard := t.of(k)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return shard.m[k] != nil
}

// schedule hands fl to the workers. When they are too far behind, its packets
// are not judged: the sender tries again.
func (f *Firewall) schedule(fl *flow) {
	select {
	case f.work <- fl:
	default:
		f.stats.overload.Add(1)
		f.alarms.raise("overload", "new connections come faster than they can be judged; some packets were dropped")
		f.discard(fl)
	}
}

// discard leaves a flow's packets unjudged and forgets the flow, and its record
// if it has one: nobody would ever end it.
func (f *Firewall) discard(fl *flow) {
	if c := f.cfg.Store.Get(fl.tuple); c != nil && c.State().Verdict() == verdict.Undecided {
		f.cfg.Store.EndConn(c, c.LastSeen()) // before somebody else's flow finds it
	}
	shard := f.flows.of(fl.tuple)
	shard.mu.Lock()
	queue := fl.queue
	fl.queue = nil
	delete(shard.m, fl.tuple)
	shard.mu.Unlock()
	for _, p := range queue {
		f.apply(p, f.unjudged(), 0)
	}
}

// abandon discards what nobody decided before Run ended.
func (f *Firewall) abandon() {
	for {
		select {
		case fl := <-f.work:
			f.discard(fl)
		default:
			return
		}
	}
}

// orphanTime is how long a connection may be undecided without anybody who
// decides about it.
const orphanTime = 2 * time.Minute

// endOrphans ends what would stay undecided for ever: whoever decides ends such
// records, so there are none unless that went wrong. Called by Run alone.
func (f *Firewall) endOrphans(now time.Time) {
	if now.Sub(f.orphansEnded) < orphanTime {
		return
	}
	f.orphansEnded = now
	f.cfg.Store.Range(func(c *conn.Conn) bool {
		s := c.State()
		if s.Verdict() == verdict.Undecided && now.Sub(c.LastSeen()) > orphanTime && !f.flows.has(s.Tuple) {
			f.cfg.Store.EndConn(c, now)
		}
		return true
	})
}

// serve is a worker.
func (f *Firewall) serve(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case fl := <-f.work:
			f.judge(ctx, fl)
		}
	}
}

// judge decides a flow, or parks it where the decision has to wait.
func (f *Firewall) judge(ctx context.Context, fl *flow) {
	shard := f.flows.of(fl.tuple)
	shard.mu.Lock()
	first := fl.queue[0]
	shard.mu.Unlock()
	fl.older, fl.policy, fl.began = older(first.Info()), f.policy.Load(), time.Now()

	c := f.connectionOf(first.Info())
	s := *c.State() // nobody else's until the decision is recorded, or waits
	r, decided, err := f.beforeFilter(ctx, first, &s, search)
	if err == nil && !decided {
		r, err = f.filter(ctx, &s, inline)
	}
	switch {
	case ctx.Err() != nil:
		f.giveUp(fl, c)
	case errors.Is(err, errWouldWait):
		c.Update(func(known *conn.Snapshot) { learn(known, &s) })
		f.park(ctx, fl, c)
	case f.findOlder(fl, c, &r):
		f.judge(ctx, fl)
	default:
		f.settle(ctx, fl, c, r)
	}
}

// learn completes s by what was found out about the connection.
func learn(s, found *conn.Snapshot) {
	s.Process = cmp.Or(s.Process, found.Process)
	if s.Domain == "" {
		s.Domain, s.CNAMEs = found.Domain, found.CNAMEs
	}
}

// giveUp is for a connection that could not be decided: the firewall stopped, or
// too many wait. What could not be found out must not decide about it.
func (f *Firewall) giveUp(fl *flow, c *conn.Conn) {
	f.cfg.Store.EndConn(c, c.LastSeen())
	f.discard(fl)
}

// room bounds how many wait for something.
type room struct {
	n    atomic.Int64
	size int64
}

func (r *room) enter() bool {
	if r.n.Add(1) > r.size {
		r.n.Add(-1)
		return false
	}
	return true
}

func (r *room) leave() { r.n.Add(-1) }

// turnAway gives up a connection for which there is no room to wait.
func (f *Firewall) turnAway(fl *flow, c *conn.Conn, forWhom string) {
	f.stats.overload.Add(1)
	f.alarms.raise("overload", "too many connections wait for "+forWhom+"; packets of others were dropped")
	f.giveUp(fl, c)
}

// park goes on in a goroutine of the connection's own, so that nobody else
// waits. Their number is bounded.
func (f *Firewall) park(ctx context.Context, fl *flow, c *conn.Conn) {
	if !f.waiting.enter() {
		f.turnAway(fl, c, "a handler or a name")
		return
	}
	f.parked.Go(func() {
		in := &f.waiting
		defer func() { in.leave() }()
		r, err := f.consider(ctx, c.State(), mayWait)
		if err == nil && r.ask != nil {
			next := &f.asking[r.About.Direction]
			if !next.enter() {
				f.turnAway(fl, c, "a person")
				return
			}
			in.leave()
			in = next
			r = r.answered(ctx)
		}
		if err == nil {
			r = f.chooseWay(ctx, r)
		}
		switch {
		case ctx.Err() != nil || err != nil:
			f.giveUp(fl, c)
		case f.findOlder(fl, c, &r):
			f.judge(ctx, fl)
		default:
			f.settle(ctx, fl, c, r)
		}
	})
}

// settle records the decision and applies it to the packets that waited, in
// order; then the packet path knows it. Where policy changed meanwhile, the
// connection is decided again.
func (f *Firewall) settle(ctx context.Context, fl *flow, c *conn.Conn, r filtered) {
	f.carryOut(fl, c, r)
	if f.policy.Load() == fl.policy || !judgedByPolicy(c.State()) {
		return
	}
	if _, err := f.reevaluate(ctx, c, pushAlways); err != nil {
		f.cfg.Logger.Warn("decide again after a change of policy", "connection", fl.tuple, "err", err)
	}
}

func (f *Firewall) carryOut(fl *flow, c *conn.Conn, r filtered) {
	lost := false
	if r.redirects() && fl.older {
		r, lost = f.redirectOlder(r)
	}
	f.decision.add(time.Since(fl.began))
	action, route := f.record(c, r)
	r.count()
	shard := f.flows.of(fl.tuple)
	for {
		shard.mu.Lock()
		queue := fl.queue
		fl.queue = nil
		if len(queue) == 0 {
			c.SetAction(action, route)
			delete(shard.m, fl.tuple)
			shard.mu.Unlock()
			f.firstPacket.add(time.Since(c.State().Started))
			f.overtaken(c)
			f.noteName(c)
			f.follow(c, c.State())
			return
		}
		shard.mu.Unlock()
		for _, p := range queue {
			f.saw(c, p.Info())
			if lost {
				f.apply(p, verdict.ActionDrop, 0)
			} else {
				action, route = f.pass(c, p, action, route)
			}
		}
	}
}

// record publishes a decision and returns what it means for packets.
func (f *Firewall) record(c *conn.Conn, r filtered) (verdict.Action, uint8) {
	f.bases.keep(c, &r) // before the state that it belongs to can be read
	s := c.Update(func(s *conn.Snapshot) {
		learn(s, r.About)
		s.Decision, s.Enforced = r.Decision, f.enforced(r.Decision)
		s.Decision.Scope = f.scopeOf(s, r)
		s.Tunnel, s.SplitTun = r.Tunnel, r.SplitTun
		s.Internal = s.Internal || r.Internal
	})
	if !s.Live() {
		f.bases.drop(c) // its end came before
	}
	if f.observes(s) {
		c.Observe()
	}
	f.beginInspection(c, s)
	f.stats.verdicts[s.Decision.Verdict].Add(1)
	f.queries.note(c, s)
	return f.actionOf(s)
}

// enforced reports whether d is carried out. Observe mode lets pass what would
// be refused, but not by another way than the one it was to take.
func (f *Firewall) enforced(d verdict.Decision) bool {
	if f.cfg.Mode == Enforce || d.Verdict.Allows() {
		return true
	}
	switch d.Reason.Code {
	case CodeTunnelFailed, CodeSplitTunFailed, CodeOlder:
		return true
	}
	return false
}

// actionOf returns what a connection's decision means for its packets.
func (f *Firewall) actionOf(s *conn.Snapshot) (verdict.Action, uint8) {
	switch {
	case !s.Enforced:
		return wayOf(s.Tunnel, s.SplitTun), routeOf(s.SplitTun)
	case s.Decision.Verdict == verdict.Failed && s.Direction == packet.Outbound && f.cfg.FailedAnswer == FailLikeBlock:
		return verdict.ActionBlock, 0
	}
	return s.Decision.Action(), routeOf(s.SplitTun)
}

// wayOf returns the action for what passes, by its contexts.
func wayOf(t *conn.TunnelContext, c *conn.SplitTunContext) verdict.Action {
	switch {
	case t != nil:
		return verdict.ActionRerouteToTunnel
	case c != nil:
		return verdict.ActionRerouteToSplitTun
	}
	return verdict.ActionAccept
}

// way returns RerouteToTunnel or RerouteToSplitTun for a connection that takes
// such a way, and Undecided for others.
func (f *Firewall) way(s *conn.Snapshot) verdict.Verdict {
	switch action, _ := f.actionOf(s); action {
	case verdict.ActionRerouteToTunnel, verdict.ActionRerouteToSplitTun:
		return action.Verdict()
	default:
		return verdict.Undecided
	}
}

func routeOf(c *conn.SplitTunContext) uint8 {
	if c == nil {
		return 0
	}
	return c.Route
}
