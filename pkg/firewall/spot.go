package firewall

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/packet"
)

// Judging a connection takes some twenty microseconds where its process is known
// already, and handing it to a worker about as long. So it is judged on the
// thread that brought its first packet, unless that would hold up others:
// someone has to be waited for, a process searched, or connections come faster
// than one per spotSpacing on the average.
const (
	spotSpacing = 50 * time.Microsecond
	spotBurst   = 8 * spotSpacing
)

// onTheSpot is what judging on the packet backend's thread needs.
type onTheSpot struct {
	// quick is nil where something may take its time that is asked about every
	// connection.
	quick QuickFinder
	// running is set while Run judges: before and after, connections wait.
	running atomic.Bool
	// next is when, in nanoseconds of the Unix epoch, the thread may be used for
	// judging again: a token bucket in one word, the virtual scheduling algorithm
	// of ITU-T I.371, annex A.
	next atomic.Int64
}

func (s *onTheSpot) init(cfg *Config) {
	if cfg.Tunneler == nil {
		s.quick, _ = cfg.Processes.(QuickFinder)
	}
}

// take reports whether there is time for one more connection.
func (s *onTheSpot) take(now time.Time) bool {
	t := now.UnixNano()
	for {
		old := s.next.Load()
		at := max(old, t)
		if at-t > int64(spotBurst) {
			return false
		}
		if s.next.CompareAndSwap(old, at+int64(spotSpacing)) {
			return true
		}
	}
}

// judgeOnTheSpot decides about a new connection by its first packet, on the
// thread that brought it. It reports false if a worker has to.
func (f *Firewall) judgeOnTheSpot(fl *flow, p packet.Packet) bool {
	if f.spot.quick == nil || !f.spot.running.Load() {
		return false
	}
	if _, ok := f.cfg.External.Load(); ok {
		return false
	}
	if older(p.Info()) || p.Info().IsEchoReply() || !f.spot.take(p.Info().Seen) {
		return false // who opened an older one may have to be searched for
	}
	ctx := context.Background() // nothing waits that could be ended
	fl.policy, fl.began = f.policy.Load(), time.Now()
	c := f.connectionOf(p.Info())
	s := *c.State()
	r, decided, err := f.beforeFilter(ctx, p, &s, glance)
	if err == nil && !decided {
		r, err = f.filter(ctx, &s, inline)
	}
	if err != nil || f.findOlder(fl, c, &r) {
		return false
	}
	f.stats.onTheSpot.Add(1)
	f.settle(ctx, fl, c, r)
	return true
}
