package firewall

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
)

const (
	// firstMeasure is when a connection is measured first: by then most of those that are short have ended.
	firstMeasure = time.Second
	// slowestMeasure is how often an idle TCP connection is measured.
	slowestMeasure = 5 * time.Minute
	// afterTimeout is how long after a connection's timeout the kernel is asked whether it was the end: it counts in seconds.
	afterTimeout = 300 * time.Millisecond
	// afterDoubt is how long after a doubtful end it is asked.
	afterDoubt = 300 * time.Millisecond
	// meterPause is between two rounds, and meterRound how long one may take, at 19 µs a connection. So many come only where thousands
	// of connections a second begin and nobody else tells of their ends.
	meterPause = 100 * time.Millisecond
	meterRound = 10 * time.Millisecond
	// deltasLast is how long after a report of deltas it is assumed that there will be more: then nothing is measured for figures.
	deltasLast = 5 * time.Second
)

// meter asks the kernel about connections that it handles without us: what was transferred on TCP connections, more often where
// something was, and whether UDP ones have run out, which the kernel would tell up to a minute late.
type meter struct {
	ask intercept.Meter // nil if there is nobody to ask
	// deltas is when others told what was transferred, in nanoseconds of the Unix epoch.
	deltas atomic.Int64

	mu  sync.Mutex // guards due
	due schedule
}

// measured is a connection with its next measurement.
type measured struct {
	conn *conn.Conn
	at   time.Time
	// pause is until the next one, of a TCP connection that is idle.
	pause time.Duration
	// total is what the last one found.
	total uint64
	// doubt tells that an end was reported that may be another connection's, at that time.
	doubt time.Time
	// missed tells that the kernel did not know of it the last time.
	missed bool
}

// schedule is a heap, the next first.
type schedule []measured

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, k int) bool { return s[i].at.Before(s[k].at) }
func (s schedule) Swap(i, k int)      { s[i], s[k] = s[k], s[i] }

// Push implements heap.Interface.
func (s *schedule) Push(x any) {
	if m, ok := x.(measured); ok {
		*s = append(*s, m)
	}
}

// Pop implements heap.Interface.
func (s *schedule) Pop() any {
	last := len(*s) - 1
	m := (*s)[last]
	(*s)[last] = measured{} // let the connection go
	*s = (*s)[:last]
	return m
}

func (m *meter) add(e measured) {
	m.mu.Lock()
	defer m.mu.Unlock()
	heap.Push(&m.due, e)
}

// next takes a live connection that is due. Those that have ended meanwhile are let go.
func (m *meter) next(now time.Time) (e measured, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.due) > 0 && !m.due[0].at.After(now) {
		if e, ok = heap.Pop(&m.due).(measured); ok && e.conn.State().Live() {
			return e, true
		}
	}
	return measured{}, false
}

// told notes that others tell what is transferred.
func (m *meter) told(now time.Time) { m.deltas.Store(now.UnixNano()) }

func (m *meter) othersTell(now time.Time) bool {
	return now.UnixNano()-m.deltas.Load() < int64(deltasLast)
}

// follow has a connection measured from now on, if the kernel handles it.
func (f *Firewall) follow(c *conn.Conn, s *conn.Snapshot) {
	if f.meter.ask == nil || !s.Decision.Verdict.Allows() || !s.Decision.Action().Permanent() {
		return
	}
	if p := s.Tuple.Protocol; p == packet.TCP || p == packet.UDP {
		f.meter.add(measured{conn: c, at: time.Now().Add(firstMeasure), pause: firstMeasure})
	}
}

// runMeter measures what is due until ctx is done.
func (f *Firewall) runMeter(ctx context.Context) {
	if f.meter.ask == nil {
		return
	}
	tick := time.NewTicker(meterPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for time.Since(now) < meterRound {
				e, ok := f.meter.next(now)
				if !ok {
					break
				}
				f.measure(e, now)
			}
		}
	}
}

// measure asks about one connection, and notes when to ask again.
func (f *Firewall) measure(e measured, now time.Time) {
	s := e.conn.State()
	udp := s.Tuple.Protocol != packet.TCP
	if !udp && e.doubt.IsZero() && f.meter.othersTell(now) {
		e.at = now.Add(slowestMeasure / 5)
		f.meter.add(e)
		return
	}
	m, found, err := f.meter.ask.Measure(s.Tuple)
	switch {
	case err != nil:
		e.at = now.Add(slowestMeasure / 5) // interception pauses, say
		f.meter.add(e)
		return
	case !found && (udp || !e.doubt.IsZero() || e.missed):
		f.cfg.Store.EndConn(e.conn, now)
		return
	case found && m.Closed && !e.doubt.IsZero():
		f.transferred(e.conn, intercept.Usage{ReceivedBytes: m.ReceivedBytes, SentBytes: m.SentBytes, Kind: intercept.UsageSum})
		f.finish(e.conn, e.doubt)
		return
	case found && m.ReceivedBytes|m.SentBytes != 0:
		f.transferred(e.conn, intercept.Usage{ReceivedBytes: m.ReceivedBytes, SentBytes: m.SentBytes, Kind: intercept.UsageSum})
	}
	e.missed = !found // a report about its end may be on its way
	switch total := m.ReceivedBytes + m.SentBytes; {
	case !e.doubt.IsZero():
		return // it was another's, and this one has a measurement of its own to come
	case udp:
		e.at = now.Add(max(m.Left, 0) + afterTimeout)
		if total != e.total && !f.meter.othersTell(now) {
			e.at = now.Add(min(firstMeasure, m.Left+afterTimeout))
		}
		e.total = total
	case total != e.total:
		e.total, e.pause = total, firstMeasure
		e.at = now.Add(e.pause)
	default:
		e.pause = min(2*e.pause, slowestMeasure)
		e.at = now.Add(e.pause)
	}
	f.meter.add(e)
}

// finish marks a connection as ended. What comes late of one whose packets we see still belongs to it, so it is kept for a while.
func (f *Firewall) finish(c *conn.Conn, at time.Time) {
	s := c.State()
	if s.Decision.Action().Permanent() || s.Tuple.Protocol != packet.TCP {
		f.cfg.Store.EndConn(c, at)
		return
	}
	f.closing.note(c, closingState{finished: bothFinished, last: at})
	f.markEnded(c, at)
}

// lastMeasure asks what was transferred since the last time on a connection that has just been closed, as others than the kernel's
// tracking say. That tells it only when it forgets the connection, minutes later, when it is gone here.
func (f *Firewall) lastMeasure(c *conn.Conn) {
	t := c.State().Tuple
	if f.meter.ask == nil || t.Protocol != packet.TCP || f.meter.othersTell(time.Now()) {
		return
	}
	m, found, err := f.meter.ask.Measure(t)
	if err == nil && found && m.ReceivedBytes|m.SentBytes != 0 {
		f.transferred(c, intercept.Usage{ReceivedBytes: m.ReceivedBytes, SentBytes: m.SentBytes, Kind: intercept.UsageSum})
	}
}

// markEnded says that a connection is over, and leaves it where its last packets find it.
func (f *Firewall) markEnded(c *conn.Conn, at time.Time) {
	c.Update(func(s *conn.Snapshot) {
		if s.Ended.IsZero() {
			s.Ended = at
		}
	})
}
