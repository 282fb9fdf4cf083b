package refd

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/verdict"
)

const (
	// trafficStep is the time between two points, and trafficPoints how many are kept: ten minutes.
	trafficStep   = 2 * time.Second
	trafficPoints = 300
)

// traffic is what went on lately.
type traffic struct {
	mu     sync.Mutex // guards what follows
	last   firewall.Stats
	at     time.Time
	points []api.TrafficPoint // the oldest first
}

// add makes a point of what happened since the last one; ok is false for the first.
func (t *traffic) add(now firewall.Stats, at time.Time) (p api.TrafficPoint, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, since := t.last, t.at
	t.last, t.at = now, at
	if since.IsZero() {
		return p, false
	}
	p = api.TrafficPoint{
		Time: at, Seconds: at.Sub(since).Seconds(), Decisions: map[verdict.Verdict]uint64{},
		ReceivedBytes: now.ReceivedBytes - before.ReceivedBytes, SentBytes: now.SentBytes - before.SentBytes,
	}
	for v := range now.Verdicts {
		if n := now.Verdicts[v] - before.Verdicts[v]; n > 0 {
			p.Decisions[verdict.Verdict(v)] = n
		}
	}
	if len(t.points) >= trafficPoints {
		t.points = slices.Delete(t.points, 0, len(t.points)-trafficPoints+1)
	}
	t.points = append(t.points, p)
	return p, true
}

// sample takes a point, and tells watchers of it.
func (d *Daemon) sample(context.Context) error {
	if p, ok := d.traffic.add(d.firewall.Stats(), time.Now()); ok {
		d.feed.passed(p)
	}
	return nil
}

// Traffic implements api.Backend.
func (b backend) Traffic(context.Context) ([]api.TrafficPoint, error) {
	b.d.traffic.mu.Lock()
	defer b.d.traffic.mu.Unlock()
	return slices.Concat([]api.TrafficPoint{}, b.d.traffic.points), nil
}
