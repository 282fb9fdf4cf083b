package api

import (
	"sync"
	"time"
)

// bucket is a token bucket: rate requests a second, and burst at once.
type bucket struct {
	rate, burst float64

	mu   sync.Mutex // guards what follows
	have float64
	last time.Time
}

func newBucket(rate, burst float64) *bucket { return &bucket{rate: rate, burst: burst, have: burst} }

// take reports whether another request is within the limit.
func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.last.IsZero() {
		b.have = min(b.burst, b.have+b.rate*max(0, now.Sub(b.last).Seconds()))
	}
	b.last = now
	if b.have < 1 {
		return false
	}
	b.have--
	return true
}
