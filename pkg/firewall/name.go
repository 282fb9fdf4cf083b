package firewall

import (
	"context"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// awaitName returns s with its name. Only a new connection waits for one: that
// of an old one has come, or will not.
func (f *Firewall) awaitName(ctx context.Context, s *conn.Snapshot, mode waitMode) (*conn.Snapshot, bool) {
	wait := f.cfg.NameWait
	if mode == again {
		wait = 0
	}
	n, ok := f.cfg.Names.FindName(ctx, s, wait)
	if !ok {
		return s, false
	}
	named := *s
	named.Domain, named.CNAMEs = n.Domain, n.CNAMEs
	return &named, true
}

// wayNeedsName reports whether it is worth waiting for the name of a connection that is about to be accepted, because of the
// split tunnel.
func (f *Firewall) wayNeedsName(r *filtered) bool {
	if f.needer == nil || r.waited || r.SkipTunnel || r.ask == nil && r.Decision.Verdict != verdict.Accept {
		return false
	}
	s := r.About
	return s.Direction == packet.Outbound && !s.Internal && leaves(s) && f.needer.NeedsName(s)
}

// nameLooks are the times from a connection's decision to the first new look for its name, and from there to the second. An answer and the event that
// tells it race: about half of the names come after the first packet, and a loaded resolver takes its time.
var nameLooks = [2]time.Duration{100 * time.Millisecond, 2 * time.Second}

// nameRace is how long after a first packet a report about the lookup that led to it may come: 23 ms were the worst seen with
// systemd-resolved.
const nameRace = 25 * time.Millisecond

// maxNameless bounds how many connections are looked at again: a flood goes without names.
const maxNameless = 4096

// namelessTable holds connections that were decided without a name, or with one that may be wrong.
type namelessTable struct {
	// wake gets a value when there is something after there was nothing; it has
	// room for one.
	wake chan struct{}
	mu   sync.Mutex // guards what follows
	n    int
	// waiting has those that wait for each of nameLooks, in order of time.
	waiting [len(nameLooks)][]nameless
}

type nameless struct {
	conn *conn.Conn
	due  time.Time
}

// noteName notes a connection whose name, or another one, may come.
func (f *Firewall) noteName(c *conn.Conn) {
	if f.cfg.Names == nil {
		return
	}
	if s := c.State(); s.Direction == packet.Outbound && !s.Internal && s.Live() && !toSelf(s) {
		f.nameless.note(0, c, time.Now())
	}
}

func (t *namelessTable) note(look int, c *conn.Conn, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n >= maxNameless {
		return
	}
	t.waiting[look] = append(t.waiting[look], nameless{c, now.Add(nameLooks[look])})
	if t.n++; t.n == 1 {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

// next returns how long it takes until something is due; ok is false if nothing
// will be.
func (t *namelessTable) next(now time.Time) (wait time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, list := range t.waiting {
		if len(list) > 0 {
			if w := list[0].due.Sub(now); !ok || w < wait {
				wait, ok = w, true
			}
		}
	}
	return max(wait, namePause), ok
}

// namePause is between two looks at what is due: of many connections a part at a
// time.
const namePause = 20 * time.Millisecond

// take returns those that are due, and forgets them.
func (t *namelessTable) take(look int, now time.Time) (due []*conn.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.waiting[look]
	for len(list) > 0 && !list[0].due.After(now) {
		due = append(due, list[0].conn)
		list = list[1:]
		t.n--
	}
	if len(list) == 0 {
		list = nil // nothing keeps the connections that were in it
	}
	t.waiting[look] = list
	return due
}

// nameLate gives connections the names that came after they were decided, and
// decides again about them where that could change something.
func (f *Firewall) nameLate(ctx context.Context, now time.Time) {
	for look := range nameLooks {
		for _, c := range f.nameless.take(look, now) {
			if !f.nameAgain(ctx, c) && look+1 < len(nameLooks) {
				f.nameless.note(look+1, c, now)
			}
		}
	}
}

// nameAgain reports whether there is nothing to wait for any more.
func (f *Firewall) nameAgain(ctx context.Context, c *conn.Conn) bool {
	s := c.State()
	if !s.Live() {
		return true
	}
	n, ok := f.cfg.Names.FindName(ctx, s, 0)
	switch {
	case !ok:
		return s.Domain != ""
	case n.Domain == s.Domain:
		return true
	case s.Domain != "" && (!n.LookedUp.After(s.Started) || n.LookedUp.After(s.Started.Add(nameRace))):
		return true // this was not what led to the connection
	}
	c.Update(func(s *conn.Snapshot) { s.Domain, s.CNAMEs = n.Domain, n.CNAMEs })
	if judgedByPolicy(c.State()) {
		if _, err := f.reevaluate(ctx, c, pushChanges); err != nil {
			f.cfg.Logger.Warn("decide again about a connection whose name came late", "connection", s.Tuple, "err", err)
		}
	}
	return true
}
