package conn

import (
	"sync"
	"time"
)

// rateSpan is the least time that a rate is taken over, and rateLasts how long it holds without news.
const (
	rateSpan  = 500 * time.Millisecond
	rateLasts = 3 * time.Second
)

// usage is what is known of a connection's transferred bytes, beside the figures themselves.
type usage struct {
	mu sync.Mutex // guards what follows
	// told is what was added up, and earlier what sums that have ended came to. They are kept apart: what one has counted already the
	// other may yet tell.
	told, earlier transferred

	// since is when the span began that rates are taken over, with what the figures were then.
	since time.Time
	then  transferred
	rate  transferred
}

type transferred struct{ received, sent uint64 }

func (x transferred) plus(y transferred) transferred {
	return transferred{x.received + y.received, x.sent + y.sent}
}

// AddUsage adds transferred bytes. It returns by how much the figures grew.
func (c *Conn) AddUsage(received, sent uint64) (moreReceived, moreSent uint64) {
	c.usage.mu.Lock()
	defer c.usage.mu.Unlock()
	c.usage.told = c.usage.told.plus(transferred{received, sent})
	return c.raiseLocked(c.usage.told)
}

// RaiseUsage takes what a kernel has counted since it began to track the connection. Figures that are greater already stay. It returns
// by how much they grew.
func (c *Conn) RaiseUsage(received, sent uint64) (moreReceived, moreSent uint64) {
	c.usage.mu.Lock()
	defer c.usage.mu.Unlock()
	return c.raiseLocked(c.usage.earlier.plus(transferred{received, sent}))
}

// CloseUsage is RaiseUsage for sums that end; others that begin at 0 come on top.
func (c *Conn) CloseUsage(received, sent uint64) (moreReceived, moreSent uint64) {
	c.usage.mu.Lock()
	defer c.usage.mu.Unlock()
	c.usage.earlier = c.usage.earlier.plus(transferred{received, sent})
	return c.raiseLocked(c.usage.earlier)
}

// raiseLocked is called with c.usage.mu held, under which alone the figures change.
func (c *Conn) raiseLocked(to transferred) (moreReceived, moreSent uint64) {
	was := transferred{c.received.Load(), c.sent.Load()}
	now := transferred{max(was.received, to.received), max(was.sent, to.sent)}
	c.received.Store(now.received)
	c.sent.Store(now.sent)
	c.usage.noteLocked(time.Now(), now)
	return now.received - was.received, now.sent - was.sent
}

// noteLocked takes new figures. It is called with u.mu held.
func (u *usage) noteLocked(now time.Time, figures transferred) {
	span := now.Sub(u.since)
	more := transferred{figures.received - u.then.received, figures.sent - u.then.sent}
	switch {
	case u.since.IsZero():
		// nothing is known of when it was transferred
	case span > rateLasts:
		u.rate = more // within a second, as reports come
	case span < rateSpan:
		return
	default:
		over := func(n uint64) uint64 { return uint64(float64(n) / span.Seconds()) }
		u.rate = transferred{over(more.received), over(more.sent)}
	}
	u.since, u.then = now, figures
}

// Rates returns how many bytes a second are transferred, as in a Snapshot. Of a connection that has ended they are of no use.
func (c *Conn) Rates() (received, sent uint64) {
	u := &c.usage
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.since) > rateLasts {
		return 0, 0
	}
	return u.rate.received, u.rate.sent
}
