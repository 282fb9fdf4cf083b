package firewall_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
	"github.com/weirfw/weir/pkg/verdict"
)

var _ firewall.QuickFinder = (*procinfo.Finder)(nil)

// quick is a finder that knows some processes at once.
type quick struct {
	knows    func(t packet.Tuple) bool
	searched atomic.Int32
	glanced  atomic.Int32
}

func (q *quick) Find(context.Context, *packet.Info, packet.Direction) (*conn.Process, error) {
	q.searched.Add(1)
	return &conn.Process{PID: 7, Path: "/searched"}, nil
}

func (q *quick) FindQuick(i *packet.Info, _ packet.Direction) (*conn.Process, bool) {
	q.glanced.Add(1)
	if q.knows != nil && !q.knows(i.Tuple) {
		return nil, false
	}
	return &conn.Process{PID: 7, Path: "/glanced"}, true
}

// wantFound checks who found the process of a connection.
func (r *rig) wantFound(t packet.Tuple, path string) {
	r.t.Helper()
	if s := r.state(t); s.Process == nil || s.Process.Path != path {
		r.t.Errorf("got process %+v; want %s", s.Process, path)
	}
}

func TestKnownProcessesAreJudgedOnTheSpot(t *testing.T) {
	bubble(t, "known", func(t *testing.T) {
		q := &quick{}
		r := start(t, func(c *firewall.Config) { c.Processes, c.Deciders = q, always(verdict.Block) })
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionPermanentBlock)
		r.wantFound(i.Tuple, "/glanced")
		if q.searched.Load() != 0 {
			t.Error("the process was searched for all the same")
		}
	})
	bubble(t, "unknown", func(t *testing.T) {
		q := &quick{knows: func(packet.Tuple) bool { return false }}
		r := start(t, func(c *firewall.Config) { c.Processes, c.Deciders = q, always(verdict.Block) })
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionPermanentBlock)
		r.wantFound(i.Tuple, "/searched")
	})
}

// What may hold up the thread is for the workers.
func TestNotOnTheSpot(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(c *firewall.Config)
	}{
		{"external handler", func(c *firewall.Config) {
			c.External = &extverdict.Slot{}
			_ = c.External.Set("h", func(context.Context, *conn.Snapshot) extverdict.Result {
				return extverdict.Result{}
			})
		}},
		{"tunneler", func(c *firewall.Config) { c.Tunneler = noTunnel{} }},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			q := &quick{}
			r := start(t, func(c *firewall.Config) {
				c.Processes = q
				tt.edit(c)
			})
			r.want(out(packet.TCP, 1, faraway), verdict.ActionPermanentAccept)
			if q.glanced.Load() != 0 || q.searched.Load() != 1 {
				t.Errorf("got %d quick lookups, %d searches; want 0, 1", q.glanced.Load(), q.searched.Load())
			}
		})
	}
	bubble(t, "a question", func(t *testing.T) {
		q := &quick{}
		waits := func(*conn.Snapshot) firewall.Outcome {
			return firewall.Outcome{Decided: true, Wait: func(ctx context.Context) (verdict.Decision, error) {
				time.Sleep(time.Second)
				return verdict.Decision{Verdict: verdict.Accept}, nil
			}}
		}
		r := start(t, func(c *firewall.Config) { c.Processes, c.Deciders = q, []firewall.Decider{decider(waits)} })
		began := time.Now()
		first, second := r.send(out(packet.TCP, 1, faraway)), r.send(out(packet.TCP, 2, faraway))
		r.result(first)
		r.result(second)
		if took := time.Since(began); took != time.Second {
			t.Errorf("two questions took %v; want them at once, 1s", took)
		}
	})
}

// A flood of new connections may not take all of the thread's time.
func TestFloodIsForTheWorkers(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		q := &quick{}
		r := start(t, func(c *firewall.Config) { c.Processes = q })
		const flood = 100 // at one moment of the bubble's clock
		for port := range uint16(flood) {
			r.want(out(packet.TCP, 1000+port, faraway), verdict.ActionPermanentAccept)
		}
		if n := q.glanced.Load(); n < 5 || n > 10 {
			t.Errorf("got %d of %d judged on the spot; want about 9", n, flood)
		}
		time.Sleep(time.Millisecond)
		before := q.glanced.Load()
		r.want(out(packet.TCP, 1, faraway), verdict.ActionPermanentAccept)
		if q.glanced.Load() != before+1 {
			t.Error("after the flood connections are not judged on the spot")
		}
	})
}

func TestPolicyChangeOnTheSpot(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		var r *rig
		blocked := atomic.Bool{}
		decide := func(*conn.Snapshot) firewall.Outcome {
			if blocked.Load() {
				return says(verdict.Block)
			}
			// policy changes while this connection is being decided by the old one
			blocked.Store(true)
			r.reevaluate(firewall.Everything, 0)
			return says(verdict.Accept)
		}
		r = start(t, func(c *firewall.Config) { c.Processes, c.Deciders = &quick{}, []firewall.Decider{decider(decide)} })
		i := out(packet.TCP, 1, faraway)
		r.fate(i)
		synctest.Wait() // it is decided again behind its first packet's verdict
		if s := r.state(i.Tuple); s.Decision.Verdict != verdict.Block {
			t.Errorf("got %v; want the newer policy's Block", s.Decision)
		}
	})
}

type noTunnel struct{}

func (noTunnel) Tunnel(context.Context, *conn.Snapshot) (*conn.TunnelContext, bool, error) {
	return nil, false, nil
}
func (noTunnel) Stop(packet.Tuple) {}
