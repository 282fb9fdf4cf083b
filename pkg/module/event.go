package module

import (
	"context"
	"log/slog"
	"slices"
	"sync"
)

// callbackQueue is how many values may wait for one callback.
const callbackQueue = 256

// Event tells everybody who wants to know, and waits for nobody. Subscribing is legal at any time, so also between New
// and Start.
type Event[T any] struct {
	name string
	log  *slog.Logger

	mu        sync.Mutex // guards the fields below
	subs      []*Subscription[T]
	callbacks []*callback[T]
}

// NewEvent returns an event. The name and the optional logger are for the warnings about values that were dropped.
func NewEvent[T any](name string, log *slog.Logger) *Event[T] {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Event[T]{name: name, log: log}
}

// Submit tells v to all subscribers and callbacks and returns without waiting for any of them. For one that cannot
// keep up, v is dropped and a warning is logged.
func (e *Event[T]) Submit(v T) {
	e.mu.Lock()
	var full []*Subscription[T]
	for _, s := range e.subs {
		if !s.sendLocked(v) {
			full = append(full, s)
		}
	}
	callbacks := slices.Clone(e.callbacks)
	for _, c := range callbacks {
		c.push(v)
	}
	e.mu.Unlock()
	for _, s := range full {
		e.warn(s.name)
	}
	for _, c := range callbacks {
		c.launch()
	}
}

func (e *Event[T]) warn(name string) {
	e.log.Warn("event dropped: the subscriber is too slow", "event", e.name, "subscriber", name)
}

// Subscription receives the values of an [Event] by a channel.
type Subscription[T any] struct {
	event *Event[T]
	name  string
	c     chan T

	dropped uint64 // guarded by event.mu, like the two below
	full    bool   // the last value was dropped, and the warning logged
	ended   bool
}

// Subscribe returns a subscription that keeps up to size values (at least 1) that nobody has received yet; what comes
// when it is full is dropped. The first of such values in a row is logged as a warning. name is for that warning.
func (e *Event[T]) Subscribe(name string, size int) *Subscription[T] {
	s := &Subscription[T]{event: e, name: name, c: make(chan T, max(size, 1))}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.subs = append(e.subs, s)
	return s
}

// C returns the channel. It is closed by Cancel, after which what it holds can still be received. (The style of this
// SDK keeps channels out of APIs; here receivers need select, as they do with [time.Ticker].)
func (s *Subscription[T]) C() <-chan T { return s.c }

// Dropped returns how many values were dropped.
func (s *Subscription[T]) Dropped() uint64 {
	s.event.mu.Lock()
	defer s.event.mu.Unlock()
	return s.dropped
}

// Cancel ends the subscription and closes the channel. Cancelling twice is fine.
func (s *Subscription[T]) Cancel() {
	s.event.mu.Lock()
	defer s.event.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	close(s.c)
	s.event.subs = slices.DeleteFunc(s.event.subs, func(o *Subscription[T]) bool { return o == s })
}

// sendLocked reports false if a warning is due.
func (s *Subscription[T]) sendLocked(v T) bool {
	select {
	case s.c <- v:
		s.full = false
		return true
	default:
		s.dropped++
		warned := s.full
		s.full = true
		return warned
	}
}

// callback calls a function in a worker of a unit, one value after the other.
type callback[T any] struct {
	event *Event[T]
	unit  *Unit
	name  string
	fn    func(context.Context, T) (bool, error)

	mu      sync.Mutex // guards the fields below; taken after Event.mu and before Unit.mu
	queue   []T
	busy    bool // a worker is there
	full    bool // a value was dropped since the queue was last empty
	warn    bool // ... and that is still to be logged
	removed bool
}

// Call calls fn with each value, one after the other and in order, in a worker of u. What comes while u does not run
// is not told to it, nor what is still waiting when u stops. fn ends this by returning cancel; an error, or a panic,
// is a failure of that worker and does not end it. remove ends it from outside; a call that is under way goes on.
func (e *Event[T]) Call(u *Unit, name string, fn func(ctx context.Context, v T) (cancel bool, err error)) (remove func()) {
	c := &callback[T]{event: e, unit: u, name: name, fn: fn}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.callbacks = append(e.callbacks, c)
	return c.remove
}

func (c *callback[T]) remove() {
	c.event.mu.Lock()
	c.event.callbacks = slices.DeleteFunc(c.event.callbacks, func(o *callback[T]) bool { return o == c })
	c.event.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removed, c.queue = true, nil
}

func (c *callback[T]) push(v T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.removed:
	case len(c.queue) < callbackQueue:
		c.queue = append(c.queue, v)
	default:
		c.warn = !c.full
		c.full = true
	}
}

// launch makes sure that somebody serves the queue.
func (c *callback[T]) launch() {
	c.mu.Lock()
	warn := c.warn
	c.warn = false
	if !c.busy && len(c.queue) > 0 {
		if err := c.unit.spawn(c.worker(), c.serve); err != nil {
			c.queue = nil // The unit does not run, so it hears nothing.
		} else {
			c.busy = true
		}
	}
	c.mu.Unlock()
	if warn {
		c.event.warn(c.name)
	}
}

// serve is the worker. It ends when the queue is empty.
func (c *callback[T]) serve(ctx context.Context, _ string) {
	idle := false
	defer func() {
		if !idle {
			c.drop() // fn left by runtime.Goexit.
		}
	}()
	for {
		v, ok := c.pop(ctx)
		if !ok {
			idle = true
			return
		}
		c.call(ctx, v)
	}
}

func (c *callback[T]) worker() string { return "event " + c.event.name + " " + c.name }

func (c *callback[T]) call(ctx context.Context, v T) {
	cancel := false
	err := guard(func() (err error) {
		cancel, err = c.fn(ctx, v)
		return err
	})
	switch {
	case err == nil:
		c.unit.states.Remove(workerState(c.worker()))
	case ctx.Err() != nil:
		c.unit.parting(ctx, err)
	default:
		c.unit.report(c.worker(), err, 0)
	}
	if cancel {
		c.remove()
	}
}

func (c *callback[T]) pop(ctx context.Context) (T, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil {
		c.queue = nil
	}
	if len(c.queue) == 0 {
		c.busy, c.full = false, false
		var zero T
		return zero, false
	}
	v := c.queue[0]
	c.queue = c.queue[1:]
	return v, true
}

func (c *callback[T]) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy, c.queue = false, nil
}
