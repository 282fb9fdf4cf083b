package conn

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Conn is a connection. All methods may be called from any goroutine.
type Conn struct {
	// fast is what the packet path needs: decided bit, action, route.
	fast atomic.Uint32
	// lastSeen is in nanoseconds of the Unix epoch, 0 if unknown.
	lastSeen   atomic.Int64
	packets    atomic.Uint64
	received   atomic.Uint64
	sent       atomic.Uint64
	snapshot   atomic.Pointer[Snapshot]
	observed   atomic.Bool
	inspection atomic.Uint32
	// watch is set before anybody else knows the connection; nil is nobody.
	watch func(*Conn)
	// mu serialises writers of snapshot; readers need no lock.
	mu sync.Mutex

	usage usage
}

const fastDecided uint32 = 1 << 31

// New returns a connection that is described by first, which New takes over.
func New(first *Snapshot) *Conn {
	c := &Conn{}
	c.lastSeen.Store(stamp(first.Started))
	c.snapshot.Store(first)
	return c
}

// NewWatched is New for a connection of which somebody wants to know each change: watch is called after each Update. It must not
// block; see Update for who may have called.
func NewWatched(first *Snapshot, watch func(c *Conn)) *Conn {
	c := New(first)
	c.watch = watch
	return c
}

// State returns the state that was published last, without the live figures.
// It costs one atomic load. The result must not be changed.
func (c *Conn) State() *Snapshot { return c.snapshot.Load() }

// Snapshot returns a copy of the state with the live figures.
func (c *Conn) Snapshot() Snapshot { return c.WithFigures(c.snapshot.Load()) }

// WithFigures returns a copy of a state of c with the live figures.
func (c *Conn) WithFigures(state *Snapshot) Snapshot {
	s := *state
	s.LastSeen = c.LastSeen()
	s.Packets = c.packets.Load()
	s.ReceivedBytes, s.SentBytes = c.Usage()
	if s.Live() {
		s.ReceivedRate, s.SentRate = c.Rates()
	}
	return s
}

// Usage returns the bytes that were transferred, as far as reports tell.
func (c *Conn) Usage() (received, sent uint64) { return c.received.Load(), c.sent.Load() }

// Update publishes a changed state: change gets a copy to work on. It runs
// under the connection's writer lock, so it must be short and must not call
// methods of c that write.
func (c *Conn) Update(change func(s *Snapshot)) *Snapshot {
	s := c.publish(change)
	if c.watch != nil {
		c.watch(c)
	}
	return s
}

func (c *Conn) publish(change func(s *Snapshot)) *Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := *c.snapshot.Load()
	change(&s)
	c.snapshot.Store(&s)
	return &s
}

// SetAction tells the packet path what to do with the connection's packets. An
// action that does not exist is a drop.
func (c *Conn) SetAction(action verdict.Action, route uint8) {
	if action >= verdict.NumActions {
		action = verdict.ActionDrop
	}
	c.fast.Store(fastDecided | uint32(route)<<8 | uint32(action))
}

// ClearAction makes the packet path hand over the connection's next packet.
func (c *Conn) ClearAction() { c.fast.Store(0) }

// Action returns what SetAction set; ok is false if there is nothing.
func (c *Conn) Action() (action verdict.Action, route uint8, ok bool) {
	f := c.fast.Load()
	return verdict.Action(f & 0xff), uint8(f >> 8), f&fastDecided != 0
}

// Observe marks that somebody wants to see every packet of the connection, for as long as it lives.
func (c *Conn) Observe() { c.observed.Store(true) }

// Observed reports whether Observe was called.
func (c *Conn) Observed() bool { return c.observed.Load() }

// Inspection says whether somebody decides about each packet of a connection.
type Inspection uint32

// The stages of an Inspection.
const (
	// NotInspected is the zero value: nobody has asked for it.
	NotInspected Inspection = iota
	// Inspected: each packet gets its own verdict.
	Inspected
	// InspectionDone: the inspector has seen enough, and said what holds from then on.
	InspectionDone
)

// SetInspection notes how far an inspection is.
func (c *Conn) SetInspection(i Inspection) { c.inspection.Store(uint32(i)) }

// Inspection returns how far an inspection is.
func (c *Conn) Inspection() Inspection { return Inspection(c.inspection.Load()) }

// Saw counts a packet that the packet path saw, and takes its time if it has
// one.
func (c *Conn) Saw(i *packet.Info) {
	c.packets.Add(1)
	// a store costs more than a load on a shared cache line: a burst has one time
	if now := stamp(i.Seen); now != 0 && c.lastSeen.Load() != now {
		c.lastSeen.Store(now)
	}
}

// LastSeen returns when the packet path last saw a packet, or when the
// connection started. It is zero if both are unknown.
func (c *Conn) LastSeen() time.Time {
	n := c.lastSeen.Load()
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// stamp returns nanoseconds of the Unix epoch, and 0 for the zero time, whose
// UnixNano is not defined.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
