package conn

import (
	"sync"
	"sync/atomic"
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
	// earlier is what sums that have ended came to.
	earlierReceived, earlierSent uint64

	// since is when the span began that rates are taken over, with what the figures were then.
	since                    time.Time
	sinceReceived, sinceSent uint64
	receivedRate, sentRate   uint64
}

// AddUsage adds transferred bytes.
func (c *Conn) AddUsage(received, sent uint64) {
	c.received.Add(received)
	c.sent.Add(sent)
	c.usage.note(time.Now(), c.received.Load(), c.sent.Load())
}

// RaiseUsage takes what a kernel has counted since it began to track the connection, and returns what that adds. Figures that are
// greater already stay.
func (c *Conn) RaiseUsage(received, sent uint64) (moreReceived, moreSent uint64) {
	c.usage.mu.Lock()
	moreReceived, moreSent = c.raiseLocked(received, sent)
	c.usage.mu.Unlock()
	c.usage.note(time.Now(), c.received.Load(), c.sent.Load())
	return moreReceived, moreSent
}

// CloseUsage is RaiseUsage for sums that end; others that begin at 0 come on top.
func (c *Conn) CloseUsage(received, sent uint64) (moreReceived, moreSent uint64) {
	c.usage.mu.Lock()
	moreReceived, moreSent = c.raiseLocked(received, sent)
	c.usage.earlierReceived += received
	c.usage.earlierSent += sent
	c.usage.mu.Unlock()
	c.usage.note(time.Now(), c.received.Load(), c.sent.Load())
	return moreReceived, moreSent
}

// raiseLocked is called with c.usage.mu held.
func (c *Conn) raiseLocked(received, sent uint64) (moreReceived, moreSent uint64) {
	return raise(&c.received, c.usage.earlierReceived+received), raise(&c.sent, c.usage.earlierSent+sent)
}

// raise returns by how much it raised n.
func raise(n *atomic.Uint64, to uint64) uint64 {
	for {
		old := n.Load()
		if old >= to {
			return 0
		}
		if n.CompareAndSwap(old, to) {
			return to - old
		}
	}
}

// note takes new figures.
func (u *usage) note(now time.Time, received, sent uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	span := now.Sub(u.since)
	switch {
	case received < u.sinceReceived || sent < u.sinceSent:
		return // somebody faster has noted more
	case u.since.IsZero():
		// nothing is known of when it was transferred
	case span > rateLasts:
		// within a second, as reports come
		u.receivedRate, u.sentRate = received-u.sinceReceived, sent-u.sinceSent
	case span < rateSpan:
		return
	default:
		u.receivedRate = uint64(float64(received-u.sinceReceived) / span.Seconds())
		u.sentRate = uint64(float64(sent-u.sinceSent) / span.Seconds())
	}
	u.since, u.sinceReceived, u.sinceSent = now, received, sent
}

func (u *usage) rates(now time.Time) (received, sent uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Sub(u.since) > rateLasts {
		return 0, 0
	}
	return u.receivedRate, u.sentRate
}
