package firewall

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Firewall is an intercept.Handler. Create it with New, run it with Run, and
// give it to a Source.
type Firewall struct {
	cfg     Config
	updater intercept.Updater
	cutter  intercept.Cutter
	tracker intercept.Tracker
	needer  NameNeeder
	flows   flowTable
	work    chan *flow
	spot    onTheSpot
	parked  sync.WaitGroup
	// waiting are connections that wait for a handler or a name; asking, by
	// direction, those that wait for a person: so many may come in that nobody
	// can answer.
	waiting  room
	asking   [2]room
	inFlight atomic.Int64 // calls of the external handler that did not return
	youth    youth
	// policy counts re-evaluations: what was decided before one began, and
	// recorded after, has to be decided again.
	policy atomic.Uint64
	// again serialises what re-evaluations publish and tell the kernel about one
	// connection, by its number.
	again [againLocks]sync.Mutex
	told  toldTable
	// nameless are connections whose names may come.
	nameless namelessTable
	bases    baseTable
	preAuth  preAuth
	queries  multicastQueries
	closing  closingTable
	meter    meter
	alarms   alarms
	stats    counters

	firstPacket, decision histogram
	// orphansEnded is when endOrphans last looked.
	orphansEnded time.Time
}

// New returns a Firewall. Errors wrap ErrConfig.
func New(cfg Config) (*Firewall, error) {
	if cfg.Store == nil {
		return nil, fmt.Errorf("%w: Store is missing", ErrConfig)
	}
	cfg.setDefaults()
	for _, v := range []verdict.Verdict{cfg.DefaultInbound, cfg.DefaultOutbound, cfg.DefaultLocal} {
		if v != verdict.Accept && v != verdict.Block && v != verdict.Drop {
			return nil, fmt.Errorf("%w: default verdict %v; use Accept, Block or Drop", ErrConfig, v)
		}
	}
	if cfg.QueueLength < 1 || cfg.Workers < 1 || cfg.MaxWaiting < 1 || cfg.MaxAsking < 1 || cfg.HandlerDeadline < 0 || cfg.NameWait < 0 {
		return nil, fmt.Errorf("%w: QueueLength, Workers, MaxWaiting, MaxAsking, HandlerDeadline and NameWait must be positive", ErrConfig)
	}
	f := &Firewall{cfg: cfg, work: make(chan *flow, maxScheduled)}
	f.updater, _ = cfg.Source.(intercept.Updater)
	f.cutter, _ = cfg.Source.(intercept.Cutter)
	f.tracker, _ = cfg.Source.(intercept.Tracker)
	f.meter.ask, _ = cfg.Source.(intercept.Meter)
	f.flows.init()
	f.waiting.size = int64(cfg.MaxWaiting)
	for i := range f.asking {
		f.asking[i].size = int64(cfg.MaxAsking)
	}
	f.told.wake = make(chan struct{}, 1)
	f.nameless.wake = make(chan struct{}, 1)
	f.needer, _ = cfg.SplitTunneler.(NameNeeder)
	f.alarms.report = cfg.Report
	f.spot.init(&cfg)
	cfg.Store.OnEnd(f.ended)
	return f, nil
}

// Run evaluates new connections until ctx is done; then it returns nil. Start
// it before the Source and stop it after: what is handed over meanwhile waits.
func (f *Firewall) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var workers sync.WaitGroup
	for range f.cfg.Workers {
		workers.Go(func() { f.serve(ctx) })
	}
	workers.Go(func() { f.runMeter(ctx) })
	f.spot.running.Store(true)
	ready()
	f.keepUp(ctx)
	f.spot.running.Store(false)
	workers.Wait()
	f.parked.Wait()
	f.abandon()
	return nil
}

// keepUp does what is due from time to time, until ctx is done.
func (f *Firewall) keepUp(ctx context.Context) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	tell := time.NewTimer(lateVerdict)
	defer tell.Stop()
	name := time.NewTimer(nameLooks[0])
	defer name.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			f.tidy(now)
			continue
		case <-f.told.wake:
		case <-tell.C:
			for _, c := range f.told.due(time.Now()) {
				f.tellAgain(c)
			}
		case <-f.nameless.wake:
		case now := <-name.C:
			f.nameLate(ctx, now)
		}
		if wait, ok := f.told.next(time.Now()); ok {
			tell.Reset(wait)
		}
		if wait, ok := f.nameless.next(time.Now()); ok {
			name.Reset(wait)
		}
	}
}

// tidy forgets what is over.
func (f *Firewall) tidy(now time.Time) {
	for _, over := range f.closing.prune(now) {
		if over.doubtful && f.known(over.conn) {
			continue
		}
		f.cfg.Store.EndConn(over.conn, now)
	}
	f.cfg.Store.Prune(now)
	f.endOrphans(now)
	f.queries.prune(now)
	f.preAuth.prune(now)
	f.alarms.expire(now)
}

// known reports whether the kernel knows c, where it can be asked.
func (f *Firewall) known(c *conn.Conn) bool {
	if f.tracker == nil {
		return false
	}
	_, ok := f.tracker.Origin(c.State().Tuple)
	return ok
}

// Lookup implements intercept.Handler: one table lookup.
func (f *Firewall) Lookup(i *packet.Info) (verdict.Action, uint8, bool) {
	if notAConnection(i) {
		return verdict.ActionAccept, 0, true
	}
	c := f.cfg.Store.Get(i.Tuple)
	if c == nil {
		return 0, 0, false
	}
	action, route, ok := c.Action()
	if !ok || c.Observed() || c.Inspection() == conn.Inspected || f.superseded(c, action, i) {
		return 0, 0, false
	}
	f.saw(c, i)
	return action, route, true
}

// saw notes that a packet of c was seen.
func (f *Firewall) saw(c *conn.Conn, i *packet.Info) {
	c.Saw(i)
	switch {
	case i.Protocol != packet.TCP:
	case i.TCPFlags&(packet.TCPFin|packet.TCPRst) != 0:
		if f.closing.saw(c, i) {
			f.markEnded(c, i.Seen)
		}
	case i.Length > i.HeaderLength && !c.State().Live() && f.cfg.Store.Get(i.Tuple) == c:
		// What closed it was forged, or came too early: it goes on.
		c.Update(func(s *conn.Snapshot) { s.Ended = time.Time{} })
	}
}

// notAConnection reports ICMP that is not echo. It belongs to another
// connection or to the link and is accepted packet by packet, without a record:
// that would have the key of an echo with identifier 0, and decide about it.
func notAConnection(i *packet.Info) bool { return i.Protocol.IsICMP() && !i.IsEcho() }

// superseded reports whether a packet has to be judged although its tuple is
// that of c, whose action is given: it opens a new connection, or c was not
// judged properly.
func (f *Firewall) superseded(c *conn.Conn, action verdict.Action, i *packet.Info) bool {
	switch {
	case f.failedLately(c, action, i):
		return true
	case i.Protocol == packet.TCP:
		return isOpening(i) && (turnsRound(c, i) || reused(c, i) || !c.State().Live())
	case i.Protocol.IsICMP():
		return i.IsEchoRequest() && turnsRound(c, i)
	case !action.Verdict().Refuses() || !i.Protocol.HasPorts():
		return false
	case i.Direction == packet.Outbound:
		// nobody here got what came in: this is no answer
		return c.State().Direction == packet.Inbound
	}
	return false
}

// turnsRound reports whether a packet that opens a connection comes from the
// other side than c did: it is no retransmission, and what was decided about one
// side does not hold for the other. A socket that is connected to itself has one
// side only.
func turnsRound(c *conn.Conn, i *packet.Info) bool {
	return i.Direction != c.State().Direction && i.Local != i.Remote
}

// failedTime is how long a connection stays failed for a reason that passes by
// itself: a handler that panics, a question that could not be put. Datagrams
// that are dropped would keep the record alive for ever.
const failedTime = 5 * time.Second

// failedLately reports whether c failed for such a reason, some time ago.
func (f *Firewall) failedLately(c *conn.Conn, action verdict.Action, i *packet.Info) bool {
	if action.Permanent() || f.cfg.Mode == Enforce && !action.Verdict().Refuses() {
		return false
	}
	s := c.State()
	if s.Decision.Verdict != verdict.Failed {
		return false
	}
	code := s.Decision.Reason.Code
	return (code == CodeHandlerPanic || code == CodeWaitFailed) && i.Seen.Sub(s.Started) > failedTime
}

// reused reports whether a TCP SYN opens a new connection with the tuple of an
// old one: the program may be another one. Where the kernel was to decide from
// now on there are no retransmissions. Elsewhere one that comes late is taken
// for a new connection: judging twice does no harm, taking one program for
// another does.
func reused(c *conn.Conn, i *packet.Info) bool {
	action, _, _ := c.Action()
	if action.Permanent() && action.Verdict().Allows() {
		return i.Seen.Sub(c.State().Started) > 100*time.Millisecond
	}
	return i.Seen.Sub(c.LastSeen()) > 500*time.Millisecond
}

// Handle implements intercept.Handler: the packet joins its connection's queue.
func (f *Firewall) Handle(p packet.Packet) {
	i := p.Info()
	if notAConnection(i) {
		f.apply(p, verdict.ActionAccept, 0)
		return
	}
	c := f.cfg.Store.Get(i.Tuple)
	if c != nil {
		// the old connection ends before the new one has a queue
		if action, _, ok := c.Action(); ok && f.superseded(c, action, i) {
			f.cfg.Store.EndConn(c, i.Seen)
		}
	}
	shard := f.flows.of(i.Tuple)
	shard.mu.Lock()
	fl := shard.m[i.Tuple]
	switch {
	case fl == nil:
		if c := f.cfg.Store.Get(i.Tuple); c != nil {
			// decided between Lookup and Handle
			if action, route, ok := c.Action(); ok {
				shard.mu.Unlock()
				f.saw(c, i)
				f.pass(c, p, action, route)
				return
			}
		}
		fl = &flow{tuple: i.Tuple}
		fl.queue = append(fl.first[:0], p)
		shard.m[i.Tuple] = fl
		if f.expectsInfo(p) {
			f.awaitInfo(fl)
			shard.mu.Unlock()
			return
		}
		shard.mu.Unlock()
		if !f.judgeOnTheSpot(fl, p) {
			f.schedule(fl)
		}
	case fl.info != nil && p.InfoOnly():
		fl.infoCame(p)
		shard.mu.Unlock()
		f.schedule(fl)
	case len(fl.queue) >= f.cfg.QueueLength:
		shard.mu.Unlock()
		f.stats.queueFull.Add(1)
		f.apply(p, f.unjudged(), 0)
	default:
		fl.queue = append(fl.queue, p)
		shard.mu.Unlock()
	}
}

// unjudged is what happens to packets that could not be judged. Observe mode
// cuts nobody off, but it does not let pass what may have to take another way.
func (f *Firewall) unjudged() verdict.Action {
	if f.cfg.Mode == Observe && f.cfg.Tunneler == nil && !f.splits() {
		return verdict.ActionAccept
	}
	return verdict.ActionDrop
}

// splits reports whether some connections have to leave by other interfaces.
func (f *Firewall) splits() bool { return f.cfg.SplitTunneler != nil && f.cfg.SplitTunneler.Active() }

// apply gives p its verdict. Errors are counted: the source logs them, and its
// default verdict holds.
func (f *Firewall) apply(p packet.Packet, action verdict.Action, route uint8) {
	if p.InfoOnly() {
		return
	}
	if err := packet.Apply(p, action, route); err != nil {
		f.stats.applyErrors.Add(1)
	}
}

// ReportUsage implements intercept.Traffic.
func (f *Firewall) ReportUsage(us []intercept.Usage) {
	now := time.Now()
	for _, u := range us {
		c := f.cfg.Store.Get(u.Tuple)
		// The kernel lets go of an older connection with the same tuple when the first packet of a new one arrives.
		if c == nil || u.Kind == intercept.UsageLastSum && now.Sub(c.State().Started) < doubtTime {
			continue
		}
		f.transferred(c, u)
	}
	if len(us) == 0 || us[0].Kind == intercept.UsageDelta {
		f.meter.told(now)
	}
}

// transferred takes figures of a connection, and adds what is new to ours.
func (f *Firewall) transferred(c *conn.Conn, u intercept.Usage) {
	take := c.AddUsage
	switch u.Kind {
	case intercept.UsageDelta:
	case intercept.UsageSum:
		take = c.RaiseUsage
	case intercept.UsageLastSum:
		take = c.CloseUsage
	}
	received, sent := take(u.ReceivedBytes, u.SentBytes)
	f.stats.received.Add(received)
	f.stats.sent.Add(sent)
}

// doubtTime is how much later than the start of a connection a report about an
// end may come that is about the last connection with the same tuple: a kernel
// ends that one when the first packet of the new one arrives, and tells it by
// another way than packets.
const doubtTime = time.Second

// ReportEnd implements intercept.Traffic.
func (f *Firewall) ReportEnd(e intercept.End) {
	c := f.cfg.Store.Get(e.Tuple)
	if c == nil {
		return
	}
	switch age := e.At.Sub(c.State().Started); {
	case age < 0:
		// it is about the last connection with this tuple
	case e.Certain && c.State().Verdict() != verdict.Undecided:
		f.lastMeasure(c)
		f.finish(c, e.At)
		if e.Aborted {
			f.forget(c.State())
		}
	case age < doubtTime:
		f.closing.doubt(c, e.At)
		if f.meter.ask != nil {
			f.meter.add(measured{conn: c, at: time.Now().Add(afterDoubt), doubt: e.At})
		}
	default:
		f.finish(c, e.At)
	}
}

// ended is called by the store for each connection that ends.
func (f *Firewall) ended(c *conn.Conn, why connstore.Cause) {
	s := c.State()
	f.bases.drop(c)
	f.stopWay(f.way(s), s.Tuple)
	// Re-evaluation no longer reaches it, so the kernel has to ask again. Not so
	// for refused ones that are evicted: those come in floods, and the kernel
	// forgets them by itself.
	if why != connstore.Reported && (why != connstore.Evicted || !s.Decision.Verdict.Refuses()) {
		f.forget(s)
	}
}

// stopWay tells who carries a connection on a way of its own that it is over.
// The store may hold connections that another firewall tunnels.
func (f *Firewall) stopWay(way verdict.Verdict, t packet.Tuple) {
	switch {
	case way == verdict.RerouteToTunnel && f.cfg.Tunneler != nil:
		f.cfg.Tunneler.Stop(t)
	case way == verdict.RerouteToSplitTun && f.cfg.SplitTunneler != nil:
		f.cfg.SplitTunneler.Stop(t)
	}
}

// forget makes the kernel ask again where it was told a decision for good.
func (f *Firewall) forget(s *conn.Snapshot) {
	if action, _ := f.actionOf(s); f.updater == nil || !action.Permanent() {
		return
	}
	if err := f.updater.Forget(s.Tuple); err != nil {
		f.cfg.Logger.Debug("forget a connection", "connection", s.Tuple, "err", err)
	}
}

// overtaken takes back what was told about c if c ended while it was decided:
// ended came too early for that.
func (f *Firewall) overtaken(c *conn.Conn) {
	s := c.State()
	if s.Live() {
		return
	}
	f.forget(s)
	way := f.way(s)
	if way == verdict.Undecided {
		return
	}
	// the way may be the successor's by now
	if next := f.cfg.Store.Get(s.Tuple); next != nil {
		if n := next.State(); n.Verdict() == verdict.Undecided || f.way(n) == way {
			return
		}
	}
	f.stopWay(way, s.Tuple)
}
