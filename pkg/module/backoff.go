package module

import (
	"context"
	"time"
)

// Backoff says how long to wait before something that failed is tried again: First, then twice as long each time.
type Backoff struct {
	// First is the first wait. Optional; 1 second.
	First time.Duration
	// Max is the longest wait. Optional; 1 minute.
	Max time.Duration
	// Healthy is how long a worker must have run to begin with First again, and to count as recovered. Optional;
	// 1 minute.
	Healthy time.Duration
}

func (b Backoff) withDefaults() (Backoff, error) {
	if b.First < 0 || b.Max < 0 || b.Healthy < 0 {
		return Backoff{}, bad("negative back-off %+v", b)
	}
	if b.First == 0 {
		b.First = time.Second
	}
	if b.Max == 0 {
		b.Max = time.Minute
	}
	if b.Healthy == 0 {
		b.Healthy = time.Minute
	}
	b.First = min(b.First, b.Max)
	return b, nil
}

// retries counts failures in a row.
type retries struct {
	Backoff
	last time.Duration
}

// next returns the wait after a run that was healthy for so long.
func (r *retries) next(healthy time.Duration) time.Duration {
	switch {
	case r.last == 0, healthy >= r.Healthy:
		r.last = r.First
	default:
		r.last = min(2*r.last, r.Max)
	}
	return r.last
}

// pause waits. It reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
