package module

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	defaultStopTimeout = time.Minute
	// graceShare of the stop timeout is what a module gets if the time was used up by others before: one that
	// hangs must not cost the rest its clean stop.
	graceShare = 60
)

// Phase is where a module is in its life.
type Phase uint8

// The phases, in the order in which a module goes through them. It begins and ends with Stopped.
const (
	Stopped  Phase = 0
	Starting Phase = 1
	Running  Phase = 2
	Stopping Phase = 3
)

// String returns the name of the phase.
func (p Phase) String() string {
	switch p {
	case Stopped:
		return "stopped"
	case Starting:
		return "starting"
	case Running:
		return "running"
	case Stopping:
		return "stopping"
	}
	return fmt.Sprintf("phase %d", uint8(p))
}

// life takes the starts and stops of one module in turns.
type life struct {
	log *slog.Logger
	// turn holds one token while a start or a stop works. It is a channel and no mutex because waiting for it is
	// bounded by a context.
	turn chan struct{}

	mu          sync.Mutex         // guards the fields below
	cancelStart context.CancelFunc // ends the start that is under way
	asked       *askedStop         // the last stop that was asked for from inside
	over        chan struct{}      // closed when the module was stopped; nil if it does not run
}

// askedStop is a stop in a goroutine of its own. The next start or stop waits for it.
type askedStop struct {
	done chan struct{}
	err  error // of the goroutine until done, then free to read
}

func newLife(log *slog.Logger) *life { return &life{log: log, turn: make(chan struct{}, 1)} }

type insideKey struct{}

// inside is a list of the modules a context belongs to, innermost first.
type inside struct {
	of *life
	up *inside
}

// mark returns a context that belongs to this module.
func (l *life) mark(ctx context.Context) context.Context {
	up, _ := ctx.Value(insideKey{}).(*inside)
	return context.WithValue(ctx, insideKey{}, &inside{of: l, up: up})
}

// unmark returns a context that belongs only to the modules around this one.
func (l *life) unmark(ctx context.Context) context.Context {
	in, _ := ctx.Value(insideKey{}).(*inside)
	around := in
	for ; in != nil; in = in.up {
		if in.of == l {
			around = in.up
		}
	}
	return context.WithValue(ctx, insideKey{}, around)
}

// holds reports whether ctx belongs to this module, or to one in it.
func (l *life) holds(ctx context.Context) bool {
	in, _ := ctx.Value(insideKey{}).(*inside)
	for ; in != nil; in = in.up {
		if in.of == l {
			return true
		}
	}
	return false
}

// start runs fn when it is its turn. A stop that comes meanwhile cancels fn's context.
func (l *life) start(ctx context.Context, fn func(context.Context) error) error {
	if l.holds(ctx) {
		return ErrRunning // To wait for the turn would be to wait for ourselves.
	}
	stopErr, err := l.settle(ctx)
	if stopErr != nil {
		// Nobody who could be told called that stop.
		l.log.Error("the stop before this start had errors", "error", stopErr)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := l.take(ctx); err != nil {
		return err
	}
	defer l.give()
	l.mu.Lock()
	l.cancelStart = cancel
	l.mu.Unlock()
	err = fn(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cancelStart = nil
	if err == nil {
		l.over = make(chan struct{})
	}
	return err
}

// stop gives up a start that is under way and runs fn when it is its turn, for at most timeout. If ctx is one of the
// module's own, it only asks for that, because the caller is one of those fn has to wait for.
func (l *life) stop(ctx context.Context, timeout time.Duration, fn func(context.Context) error) error {
	if l.holds(ctx) {
		l.ask(context.WithoutCancel(ctx), timeout, fn)
		return nil
	}
	ctx, cancel := bounded(ctx, timeout)
	defer cancel()
	l.giveUpStart()
	asked, err := l.settle(ctx)
	if err != nil {
		return err
	}
	return errors.Join(asked, l.stopNow(ctx, fn))
}

func (l *life) stopNow(ctx context.Context, fn func(context.Context) error) error {
	if err := l.take(ctx); err != nil {
		return err
	}
	defer l.give()
	err := fn(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil {
		close(l.over)
		l.over = nil
	}
	return err
}

// ask stops in the background, unless that is going on already.
func (l *life) ask(ctx context.Context, timeout time.Duration, fn func(context.Context) error) {
	l.giveUpStart()
	a := l.newAsked()
	if a == nil {
		return
	}
	go func() {
		defer close(a.done)
		ctx, cancel := bounded(l.unmark(ctx), timeout)
		defer cancel()
		a.err = errors.Join(a.err, l.stopNow(ctx, fn))
	}()
}

// newAsked returns nil if a stop is under way. It takes over the error of the last one if nobody has seen it yet.
func (l *life) newAsked() *askedStop {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := &askedStop{done: make(chan struct{})}
	if l.asked != nil {
		select {
		case <-l.asked.done:
			a.err = l.asked.err
		default:
			return nil
		}
	}
	l.asked = a
	return a
}

func (l *life) giveUpStart() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cancelStart != nil {
		l.cancelStart()
	}
}

// settle waits for a stop that was asked for from inside, and returns its error once.
func (l *life) settle(ctx context.Context) (stopErr, err error) {
	l.mu.Lock()
	a := l.asked
	l.mu.Unlock()
	if a == nil {
		return nil, nil
	}
	select {
	case <-a.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a stop that was asked for: %w", context.Cause(ctx))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked != a {
		return nil, nil // Somebody else has its error.
	}
	l.asked = nil
	return a.err, nil
}

func (l *life) take(ctx context.Context) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another start or stop: %w", context.Cause(ctx))
	}
}

func (l *life) give() { <-l.turn }

// ended returns a channel that is closed when the module was stopped, by whomever, or if it does not run.
func (l *life) ended() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over == nil {
		over := make(chan struct{})
		close(over)
		return over
	}
	return l.over
}

// bounded returns a context that ends after the timeout at the latest. One that has ended already becomes one with a
// short grace: that the program is in a hurry is no reason not to wait for what ends at once.
func bounded(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	// By the clock: the timer of a deadline that has just passed may not have run yet.
	deadline, ok := ctx.Deadline()
	if ctx.Err() != nil || ok && time.Until(deadline) <= 0 {
		return context.WithTimeout(context.WithoutCancel(ctx), timeout/graceShare)
	}
	return context.WithTimeout(ctx, timeout)
}
