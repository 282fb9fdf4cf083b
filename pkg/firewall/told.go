package firewall

import (
	"slices"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/conn"
)

// tellAgain tells the kernel once more what it was told about c.
func (f *Firewall) tellAgain(c *conn.Conn) {
	lock := &f.again[c.State().ID%againLocks]
	lock.Lock()
	defer lock.Unlock()
	s := c.State()
	if !s.Live() {
		return
	}
	if err := f.push(s, s); err != nil {
		f.cfg.Logger.Debug("tell the kernel again", "connection", s.Tuple, "err", err)
	}
	f.overtaken(c)
}

// lateVerdict is how long a packet's verdict may take from Lookup or Handle to
// the kernel. A permanent one that was looked up before a re-evaluation, and
// gets there after it, undoes what the kernel was told.
const lateVerdict = time.Second

// toldTable holds the connections that the kernel was told about lately.
type toldTable struct {
	// wake gets a value when there is something after there was nothing; it has
	// room for one.
	wake chan struct{}
	mu   sync.Mutex // guards all
	all  []told
}

type told struct {
	conn *conn.Conn
	at   time.Time
}

func (t *toldTable) note(c *conn.Conn, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, told{c, at})
	if len(t.all) == 1 {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

// toldPause is between two looks at what is due: of a re-evaluation of many
// connections a part at a time.
const toldPause = 50 * time.Millisecond

// next returns how long it takes until something is due; ok is false if nothing
// will be.
func (t *toldTable) next(now time.Time) (wait time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.all) == 0 {
		return 0, false
	}
	return max(t.all[0].at.Add(lateVerdict).Sub(now), toldPause), true
}

// due returns those for which late verdicts are over, if there may have been
// any, and forgets them.
func (t *toldTable) due(now time.Time) []*conn.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	var due []*conn.Conn
	t.all = slices.DeleteFunc(t.all, func(x told) bool {
		if now.Sub(x.at) < lateVerdict {
			return false
		}
		if x.conn.LastSeen().After(x.at.Add(-lateVerdict)) {
			due = append(due, x.conn)
		}
		return true
	})
	return due
}
