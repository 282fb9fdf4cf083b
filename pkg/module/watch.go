package module

import (
	"sync"
)

// Exit statuses that [ExitCode] returns. 1 and 2 are left to failures of the program that asks.
const (
	ExitFine    = 0
	ExitHint    = 10
	ExitWarning = 11
	ExitError   = 12
)

// Walk calls fn for m and all modules in it, outer ones first, in the order in which they are started.
func Walk(m Module, fn func(Module)) {
	fn(m)
	if c, ok := m.(Container); ok {
		for _, in := range c.Modules() {
			Walk(in, fn)
		}
	}
}

// AllStates returns the states of m and of all modules in it.
func AllStates(m Module) []State {
	var all []State
	Walk(m, func(m Module) {
		if s, ok := m.(Stateful); ok {
			all = append(all, s.States().All()...)
		}
	})
	return all
}

// Worst returns the worst severity of the states, and [Fine] if there are none.
func Worst(states []State) Severity {
	worst := Fine
	for _, s := range states {
		if s.Severity.Worse(worst) {
			worst = s.Severity
		}
	}
	return worst
}

// ExitCode returns the exit status for a program that reports these states: [ExitFine], [ExitHint], [ExitWarning] or
// [ExitError], by the worst of them.
func ExitCode(states []State) int {
	switch Worst(states) {
	case Fine:
		return ExitFine
	case Hint:
		return ExitHint
	case Warning:
		return ExitWarning
	case Error:
	}
	return ExitError
}

// WatchStates calls fn for each change of the states of m and of all modules in it, and once for each module that has
// states now. Calls come one at a time, and in order for each module; whoever changes a state makes them, so fn must
// not wait for anything. fn may change states itself. No call begins after stop has returned.
func WatchStates(m Module, fn func(StateUpdate)) (stop func()) {
	w := &line[StateUpdate]{fn: fn}
	var watched []*States
	Walk(m, func(m Module) {
		if s, ok := m.(Stateful); ok {
			watched = append(watched, s.States())
		}
	})
	for _, s := range watched {
		s.watch(w)
	}
	return func() {
		w.close()
		for _, s := range watched {
			s.unwatch(w)
		}
	}
}

// line makes calls one at a time, in the order of push, without a goroutine and without a lock held: whoever finds
// nobody serving the line does it for all.
type line[T any] struct {
	fn func(T)

	mu      sync.Mutex // guards the fields below
	queue   []T
	serving bool
	closed  bool
}

// push may be called with locks held; serve must follow, without them.
func (l *line[T]) push(v T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.queue = append(l.queue, v)
	}
}

func (l *line[T]) serve() {
	if !l.claim() {
		return
	}
	done := false
	defer func() {
		if !done {
			l.unclaim() // fn panicked; the line must not stand still for ever.
		}
	}()
	for {
		v, ok := l.pop()
		if !ok {
			done = true
			return
		}
		l.fn(v)
	}
}

func (l *line[T]) claim() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.serving || len(l.queue) == 0 {
		return false
	}
	l.serving = true
	return true
}

func (l *line[T]) unclaim() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.serving = false
}

func (l *line[T]) pop() (T, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		l.serving = false
		var zero T
		return zero, false
	}
	v := l.queue[0]
	l.queue = l.queue[1:]
	return v, true
}

func (l *line[T]) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.queue = true, nil
}
