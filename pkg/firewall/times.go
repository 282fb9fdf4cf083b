package firewall

import (
	"sync/atomic"
	"time"
)

// timeBounds are the upper ends of the ranges that times are counted in.
//
//nolint:gochecknoglobals // a table that nobody writes
var timeBounds = [...]time.Duration{
	25 * time.Microsecond, 50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, time.Second, 10 * time.Second,
}

// Histogram counts durations by ranges.
type Histogram struct {
	// Bounds are the upper ends of the ranges, ascending; Counts has one more range, of all that is longer.
	Bounds []time.Duration `json:"bounds"`
	Counts []uint64        `json:"counts"`
	// Sum is of all durations.
	Sum time.Duration `json:"sum"`
}

// Times says how long new connections took, since New.
type Times struct {
	// FirstPacket is from when user space got the first packet of a connection to its verdict: what an app waits for.
	FirstPacket Histogram `json:"firstPacket"`
	// Decision is the part of it that judging took, waiting for names, handlers and people included.
	Decision Histogram `json:"decision"`
}

// Times returns how long new connections took.
func (f *Firewall) Times() Times {
	return Times{FirstPacket: f.firstPacket.read(), Decision: f.decision.read()}
}

// histogram is a Histogram in the making.
type histogram struct {
	counts [len(timeBounds) + 1]atomic.Uint64
	sum    atomic.Int64
}

func (h *histogram) add(d time.Duration) {
	d = max(d, 0) // the clock was set
	i := 0
	for i < len(timeBounds) && d > timeBounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) read() Histogram {
	out := Histogram{Bounds: timeBounds[:], Counts: make([]uint64, len(h.counts)), Sum: time.Duration(h.sum.Load())}
	for i := range h.counts {
		out.Counts[i] = h.counts[i].Load()
	}
	return out
}
