package refd

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/verdict"
)

const (
	// batchPause is how long changes are collected before they are sent.
	batchPause = 200 * time.Millisecond
	// maxBatch bounds a batch, and maxNoted what may be noted until then: more is counted only.
	maxBatch = 500
	maxNoted = 4096
	// quiet is the longest silence of a stream.
	quiet = 15 * time.Second
)

// interest is what a stream is about.
type interest struct{ connections, queries, traffic, changes bool }

func interestOf(r *api.WatchRequest) interest {
	wants := func(name string) bool { return len(r.Only) == 0 || slices.Contains(r.Only, name) }
	rows := wants("connections")
	return interest{connections: rows && !r.Queries, queries: rows && r.Queries, traffic: wants("traffic"), changes: wants("changed")}
}

// noted is a connection, or the record of a DNS query.
type noted struct {
	conn  *conn.Conn
	query *conn.Snapshot
}

func (n *noted) snapshot() conn.Snapshot {
	if n.conn == nil {
		return *n.query
	}
	return n.conn.Snapshot()
}

// feed tells watchers what happens. Noting a connection without watchers costs one load.
type feed struct {
	watchers atomic.Pointer[[]*watcher]
	mu       sync.Mutex // serialises writers of watchers
}

// watcher collects what one stream has to tell.
type watcher struct {
	wake  chan struct{} // has room for one
	wants interest

	mu      sync.Mutex // guards what follows
	noted   []noted
	skipped int
	traffic []api.TrafficPoint
	changed bool
}

func (f *feed) add(wants interest) *watcher {
	w := &watcher{wake: make(chan struct{}, 1), wants: wants}
	f.change(func(all []*watcher) []*watcher { return append(all, w) })
	return w
}

func (f *feed) remove(w *watcher) {
	f.change(func(all []*watcher) []*watcher {
		return slices.DeleteFunc(all, func(o *watcher) bool { return o == w })
	})
}

func (f *feed) change(how func([]*watcher) []*watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*watcher
	if old := f.watchers.Load(); old != nil {
		all = slices.Clone(*old)
	}
	if all = how(all); len(all) == 0 {
		f.watchers.Store(nil)
		return
	}
	f.watchers.Store(&all)
}

// note notes a connection that is new or has ended. It is called from the packet path.
func (f *feed) note(c *conn.Conn) {
	f.tell(func(w *watcher) bool { return w.wants.connections && w.note(noted{conn: c}) })
}

// noteQuery is note for the record of a DNS query.
func (f *feed) noteQuery(s *conn.Snapshot) {
	f.tell(func(w *watcher) bool { return w.wants.queries && w.note(noted{query: s}) })
}

// changed tells that something else is not as it was.
func (f *feed) changed() {
	f.tell(func(w *watcher) bool {
		w.changed = w.wants.changes
		return w.changed
	})
}

// passed tells of traffic.
func (f *feed) passed(p api.TrafficPoint) {
	f.tell(func(w *watcher) bool {
		if w.wants.traffic {
			w.traffic = append(w.traffic, p)
		}
		return w.wants.traffic
	})
}

// note is called with w.mu held.
func (w *watcher) note(n noted) bool {
	if len(w.noted) >= maxNoted {
		w.skipped++
		return true
	}
	w.noted = append(w.noted, n)
	return true
}

// tell changes what watchers have to tell. Those that have nothing to tell sleep on.
func (f *feed) tell(change func(w *watcher) bool) {
	all := f.watchers.Load()
	if all == nil {
		return
	}
	for _, w := range *all {
		w.mu.Lock()
		changed := change(w)
		w.mu.Unlock()
		if !changed {
			continue
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// take returns what was collected. Connections that nothing is decided about stay for the next time.
func (w *watcher) take(q *connstore.Query) (b api.Batch, traffic []api.TrafficPoint, changed bool, undecided int) {
	w.mu.Lock()
	all := w.noted
	b.Skipped, traffic, changed = w.skipped, w.traffic, w.changed
	w.noted, w.skipped, w.traffic, w.changed = nil, 0, nil, false
	w.mu.Unlock()
	b.Rows = []api.Row{}
	at := make(map[conn.ID]int, len(all)) // where a row is, -1 for none
	var again []noted
	for i := range all {
		s := all[i].snapshot()
		if s.Live() && s.Verdict() == verdict.Undecided {
			again = append(again, all[i])
		}
		row, known := at[s.ID]
		if !known {
			row = -1
		}
		switch {
		case row >= 0:
			b.Rows[row] = api.RowOf(&s) // of a query the latest record counts
		case known && all[i].conn != nil || !q.Matches(&s):
		case len(b.Rows) >= maxBatch:
			b.Skipped++
		default:
			row = len(b.Rows)
			b.Rows = append(b.Rows, api.RowOf(&s))
		}
		at[s.ID] = row
	}
	w.mu.Lock()
	w.noted = append(again, w.noted...)
	w.mu.Unlock()
	return b, traffic, changed, len(again)
}

// Watch implements api.Backend.
func (b backend) Watch(ctx context.Context, r api.WatchRequest, send func(api.Event) error) error {
	q := r.Query()
	w := b.d.feed.add(interestOf(&r))
	defer b.d.feed.remove(w)
	notices := b.d.notices.Changes().Subscribe("api", 64)
	defer notices.Cancel()
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	due := false // a batch, and not only a sign of life
	soon := func() {
		if !due {
			due = true
			timer.Reset(batchPause)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return send(api.Event{Name: b.d.endName()})
		case <-b.d.exit.Done():
			return send(api.Event{Name: b.d.endName()})
		case <-w.wake:
			soon()
		case <-notices.C():
			if len(r.Only) > 0 && !slices.Contains(r.Only, "notifications") {
				continue
			}
			list, err := b.Notifications(ctx)
			if err == nil {
				err = send(api.Event{Name: "notifications", Data: list})
			}
			if err != nil {
				return err
			}
		case <-timer.C:
			timer.Reset(quiet)
			if !due {
				if err := send(api.Event{}); err != nil {
					return err
				}
				continue
			}
			due = false
			batch, traffic, changed, undecided := w.take(&q)
			if undecided > 0 {
				soon()
			}
			if err := sendAll(batch, traffic, changed, send); err != nil {
				return err
			}
		}
	}
}

func sendAll(batch api.Batch, traffic []api.TrafficPoint, changed bool, send func(api.Event) error) error { //nolint:revive // it was noted
	if len(batch.Rows) > 0 || batch.Skipped > 0 {
		if err := send(api.Event{Name: "connections", Data: batch}); err != nil {
			return err
		}
	}
	for _, p := range traffic {
		if err := send(api.Event{Name: "traffic", Data: p}); err != nil {
			return err
		}
	}
	if changed {
		return send(api.Event{Name: "changed", Data: struct{}{}})
	}
	return nil
}

// endName names the end that refd comes to: a signal is a shutdown.
func (d *Daemon) endName() string {
	if r := d.exit.Request(); r.Ending == module.Restart {
		return module.Restart.String()
	}
	return module.Shutdown.String()
}
