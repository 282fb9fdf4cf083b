package connstore

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

const shards = 64

// How many connections Prune looks at whenever it is called, and in how many
// calls at more of them.
const (
	pruneAtOnce = 1 << 14
	pruneParts  = 4
)

// Config of a Live store. The zero value is usable.
type Config struct {
	// MaxLive is how many live connections are kept, about; default 262144, at
	// least 64. Over it, refused ones make room first, then those that were idle
	// longest among a few, and undecided ones last.
	MaxLive int
	// MaxEnded is how many ended connections are kept; default 10000, negative
	// is none.
	MaxEnded int
	// MaxQueries is how many DNS queries are kept; default 10000, negative is
	// none.
	MaxQueries int
	// KeepEnded is how long both are; default 10 minutes.
	KeepEnded time.Duration
	// RefusedIdle is after how much silence a connection counts as ended that
	// was refused; default 1 minute.
	RefusedIdle time.Duration
	// WatchedIdle is the same for allowed TCP connections whose every packet
	// user space sees; default 2.5 hours, as keep-alives come every 2 hours
	// (RFC 9293 section 3.8.4). Other protocols have 3 minutes at most, as in
	// Linux' connection tracking.
	WatchedIdle time.Duration
	// Idle is the same for allowed connections that the kernel handles, whose
	// packets user space does not see; a safeguard for lost reports of their
	// end. Default 5 days, Linux' timeout for established TCP.
	Idle time.Duration
	// Ended is called for each connection that ended, if set. It must not
	// block and may be called from the packet path.
	Ended func(s conn.Snapshot)
	// QueryOver is the same for each DNS query that was answered or refused.
	QueryOver func(s conn.Snapshot)
}

// datagramIdle is Linux' timeout for a UDP stream, and a little more.
const datagramIdle = 3 * time.Minute

// Cause says why a connection left the live ones.
type Cause uint8

// The causes.
const (
	// Reported is by End.
	Reported Cause = iota
	// Silent is by Prune: the kernel may know the connection still.
	Silent
	// Evicted made room for another one: it may well go on.
	Evicted
)

// Live is the table of live connections. All methods may be called from any
// goroutine.
type Live struct {
	cfg Config
	// changedFunc is changed, made once.
	changedFunc func(*conn.Conn)

	lastID atomic.Uint64
	count  atomic.Int64
	onEnd  atomic.Pointer[[]func(*conn.Conn, Cause)]
	watch  atomic.Pointer[[]func(*conn.Conn)]
	// onQuery is called with what is never changed again.
	onQuery atomic.Pointer[[]func(*conn.Snapshot)]
	shard   [shards]liveShard
	pruned  atomic.Uint32 // the shard that Prune looked at last, modulo their number

	endedMu sync.Mutex // guards what follows
	ended   []*conn.Snapshot
	next    int    // of ended, once it is full
	total   uint64 // how many were ever appended

	queries queryRing
}

type liveShard struct {
	mu sync.RWMutex // guards m
	m  map[packet.Tuple]*conn.Conn
	// keep neighbours' locks off one cache line
	_ [64]byte
}

// NewLive returns an empty store.
func NewLive(cfg Config) *Live {
	cfg.MaxLive = cmp.Or(cfg.MaxLive, 1<<18)
	cfg.MaxEnded = cmp.Or(cfg.MaxEnded, 10_000)
	cfg.MaxQueries = cmp.Or(cfg.MaxQueries, 10_000)
	cfg.KeepEnded = cmp.Or(cfg.KeepEnded, 10*time.Minute)
	cfg.RefusedIdle = cmp.Or(cfg.RefusedIdle, time.Minute)
	cfg.WatchedIdle = cmp.Or(cfg.WatchedIdle, 150*time.Minute)
	cfg.Idle = cmp.Or(cfg.Idle, 5*24*time.Hour)
	l := &Live{cfg: cfg}
	l.changedFunc = l.changed
	for i := range l.shard {
		l.shard[i].m = make(map[packet.Tuple]*conn.Conn)
	}
	return l
}

// OnEnd has f called for each connection that ends from now on, after
// Config.Ended. The same holds for f: it must not block.
func (l *Live) OnEnd(f func(c *conn.Conn, why Cause)) {
	appendTo(&l.onEnd, f)
}

// OnChange has f called from now on for each connection that is new, and after each change of a connection's state: also when it
// ends. f must not block, and must not call methods of l: locks may be held. It is called from the packet path.
func (l *Live) OnChange(f func(c *conn.Conn)) { appendTo(&l.watch, f) }

// OnQuery has f called from now on for each record of a DNS query that PutQuery takes, new or not; the latest about an ID counts. f must
// not block, and must not change s.
func (l *Live) OnQuery(f func(s *conn.Snapshot)) { appendTo(&l.onQuery, f) }

func appendTo[F any](list *atomic.Pointer[[]F], f F) {
	for {
		old := list.Load()
		all := []F{f}
		if old != nil {
			all = slices.Concat(*old, all)
		}
		if list.CompareAndSwap(old, &all) {
			return
		}
	}
}

// changed tells about a change.
func (l *Live) changed(c *conn.Conn) {
	if all := l.watch.Load(); all != nil {
		for _, f := range *all {
			f(c)
		}
	}
}

// SkipIDs makes new connections have numbers above last, so that they differ from those of an earlier store.
func (l *Live) SkipIDs(last conn.ID) {
	for {
		now := l.lastID.Load()
		if now >= uint64(last) || l.lastID.CompareAndSwap(now, uint64(last)) {
			return
		}
	}
}

// of returns the shard of t. It mixes ports and the low bytes of the remote
// address only: that spreads well and costs a few nanoseconds.
func (l *Live) of(t packet.Tuple) *liveShard {
	a := t.Remote.Addr().As16()
	h := uint32(t.Local.Port())*0x9e3779b1 ^ uint32(t.Remote.Port())*0x85ebca6b ^
		uint32(a[15])*0xc2b2ae35 ^ uint32(a[14])*0x27d4eb2f ^ uint32(a[7])*0x165667b1
	return &l.shard[(h^h>>16^h>>8)%shards]
}

// Get returns the live connection with key t, or nil. It does not allocate.
func (l *Live) Get(t packet.Tuple) *conn.Conn {
	s := l.of(t)
	s.mu.RLock()
	c := s.m[t]
	s.mu.RUnlock()
	return c
}

// GetOrAdd returns the live connection with key t. If there is none, it adds
// the one that first describes; ID is set here. added tells which. first runs
// under a lock: it must be short and must not call methods of l.
func (l *Live) GetOrAdd(t packet.Tuple, first func() *conn.Snapshot) (c *conn.Conn, added bool) {
	s := l.of(t)
	s.mu.Lock()
	if c = s.m[t]; c != nil {
		s.mu.Unlock()
		return c, false
	}
	snap := first()
	snap.ID = conn.ID(l.lastID.Add(1))
	snap.Tuple = t
	c = conn.NewWatched(snap, l.changedFunc)
	var out *conn.Conn
	if len(s.m) >= max(1, l.cfg.MaxLive/shards) {
		out = s.idlest()
		l.retireLocked(s, out, snap.Started)
	}
	s.m[t] = c
	l.count.Add(1)
	s.mu.Unlock()
	if out != nil {
		l.announce(out, Evicted)
	}
	l.changed(c)
	return c, true
}

// idlest chooses who leaves a full shard: of the first few in the map's random
// order a refused one, or else the one that was idle longest. Somebody waits for
// an undecided one, so it goes only if there are no others. mu is held.
func (s *liveShard) idlest() *conn.Conn {
	var out *conn.Conn
	outDecided := false
	n := 0
	for _, c := range s.m {
		v := c.State().Verdict()
		if v.Refuses() {
			out = c
			break
		}
		decided := v != verdict.Undecided
		if out == nil || decided && !outDecided || decided == outDecided && c.LastSeen().Before(out.LastSeen()) {
			out, outDecided = c, decided
		}
		if n++; n == 16 {
			break
		}
	}
	return out
}

// End marks the live connection with key t as ended and moves it to the ended
// ones. It returns nil if there was none.
func (l *Live) End(t packet.Tuple, at time.Time) *conn.Conn {
	s := l.of(t)
	s.mu.Lock()
	c := s.m[t]
	if c != nil {
		l.retireLocked(s, c, at)
	}
	s.mu.Unlock()
	if c != nil {
		l.announce(c, Reported)
	}
	return c
}

// EndConn is End for c itself: it does nothing and returns false if c is not
// live any more, though its key may be another connection's by now.
func (l *Live) EndConn(c *conn.Conn, at time.Time) bool {
	t := c.State().Tuple
	s := l.of(t)
	s.mu.Lock()
	live := s.m[t] == c
	if live {
		l.retireLocked(s, c, at)
	}
	s.mu.Unlock()
	if live {
		l.announce(c, Reported)
	}
	return live
}

// retireLocked moves c from the live ones, in s, to the ended ones. s.mu is
// held all the while: a Query finds c here or there, never nowhere.
func (l *Live) retireLocked(s *liveShard, c *conn.Conn, at time.Time) {
	delete(s.m, c.State().Tuple)
	l.count.Add(-1)
	c.Update(func(s *conn.Snapshot) {
		if s.Ended.IsZero() { // else it was known before that it is over
			s.Ended = at
		}
	})
	l.endedMu.Lock()
	defer l.endedMu.Unlock()
	l.total++
	last := c.Snapshot()
	switch {
	case len(l.ended) < l.cfg.MaxEnded:
		l.ended = append(l.ended, &last)
	case l.cfg.MaxEnded > 0:
		l.ended[l.next] = &last
		l.next = (l.next + 1) % len(l.ended)
	}
}

// announce tells about an end. No lock is held.
func (l *Live) announce(c *conn.Conn, why Cause) {
	if l.cfg.Ended != nil {
		l.cfg.Ended(c.Snapshot())
	}
	if all := l.onEnd.Load(); all != nil {
		for _, f := range *all {
			f(c, why)
		}
	}
}

// Prune ends connections that were silent for too long and forgets ended ones
// that are too old. Call it every few seconds. It returns how many it ended.
// Of more than 16,384 connections it looks at a quarter at a time, so that
// many that live cost no more than they are worth: each is looked at by the
// fourth call.
func (l *Live) Prune(now time.Time) int {
	looks := shards
	if l.Len() > pruneAtOnce {
		looks /= pruneParts
	}
	n := 0
	for range looks {
		n += l.pruneShard(&l.shard[l.pruned.Add(1)%shards], now)
	}
	l.pruneEnded(now)
	l.queries.prune(now.Add(-l.cfg.KeepEnded))
	return n
}

func (l *Live) pruneEnded(now time.Time) {
	l.endedMu.Lock()
	defer l.endedMu.Unlock()
	tooOld := func(s *conn.Snapshot) bool { return now.Sub(s.Ended) >= l.cfg.KeepEnded }
	if !slices.ContainsFunc(l.ended, tooOld) {
		return
	}
	// oldest first again, so that appending goes on behind the newest
	l.ended = slices.DeleteFunc(slices.Concat(l.ended[l.next:], l.ended[:l.next]), tooOld)
	l.next = 0
}

func (l *Live) pruneShard(s *liveShard, now time.Time) int {
	var out []*conn.Conn
	s.mu.Lock()
	for _, c := range s.m {
		state := c.State()
		if state.Decision.Verdict == verdict.Undecided {
			// it waits for somebody; whoever waits ends it
			continue
		}
		if now.Sub(c.LastSeen()) > l.patience(state) {
			l.retireLocked(s, c, now)
			out = append(out, c)
		}
	}
	s.mu.Unlock()
	for _, c := range out {
		l.announce(c, Silent)
	}
	return len(out)
}

// patience returns how long a connection may be silent.
func (l *Live) patience(s *conn.Snapshot) time.Duration {
	switch {
	case !s.Decision.Verdict.Allows() && s.Enforced:
		return l.cfg.RefusedIdle
	case s.Decision.Verdict.Allows() && s.Decision.Action().Permanent():
		return l.cfg.Idle
	case s.Tuple.Protocol == packet.TCP:
		return l.cfg.WatchedIdle
	}
	return min(datagramIdle, l.cfg.WatchedIdle)
}

// Len returns the number of live connections.
func (l *Live) Len() int { return int(l.count.Load()) }

// Range calls f for live connections until f returns false. Connections that
// come or go meanwhile may be missed. f may call methods of l.
func (l *Live) Range(f func(c *conn.Conn) bool) {
	var batch []*conn.Conn
	for i := range l.shard {
		s := &l.shard[i]
		s.mu.RLock()
		batch = batch[:0]
		for _, c := range s.m {
			batch = append(batch, c)
		}
		s.mu.RUnlock()
		for _, c := range batch {
			if !f(c) {
				return
			}
		}
	}
}

// ByID returns the live connection with that id, or nil. It looks at every
// connection.
func (l *Live) ByID(id conn.ID) *conn.Conn {
	var found *conn.Conn
	l.Range(func(c *conn.Conn) bool {
		if c.State().ID == id {
			found = c
		}
		return found == nil
	})
	return found
}
