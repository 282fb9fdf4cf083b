package module

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/pprof"
	"sync"
	"time"
)

// Func is the work of a worker. It must return soon after ctx has ended.
type Func func(ctx context.Context) error

// Go runs fn in a goroutine until it returns nil or the unit is stopped. If it fails or panics it is restarted after a
// wait, see [Backoff]; until it has recovered, the module has a state that says so. That fn returns
// [context.Canceled] is a failure unless the unit is being stopped: a worker must not end because something else did.
//
// It returns [ErrNotRunning] if the unit does not run.
func (u *Unit) Go(name string, fn Func) error {
	return u.spawn(name, func(ctx context.Context, label string) {
		u.keep(ctx, label, func(ctx context.Context, h *health) error {
			h.begin()
			return fn(ctx)
		})
	})
}

// Do runs fn here and now as a worker of this unit and returns its error; it never restarts. fn's context ends with
// ctx and when the unit is stopped. A panic becomes a [PanicError].
//
// It returns [ErrNotRunning] if the unit does not run.
func (u *Unit) Do(ctx context.Context, name string, fn Func) error {
	label, life, err := u.enter(name)
	if err != nil {
		return err
	}
	defer u.crew.leave(label)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(life, func() { cancel(context.Cause(life)) })()
	ctx = u.workerContext(u.life.mark(ctx), label)
	err = guard(func() error { return fn(ctx) })
	var p *PanicError
	switch {
	case errors.As(err, &p):
		u.report(name, err, 0)
	case err == nil:
		u.states.Remove(workerState(name))
	}
	return err
}

// spawn runs body in a goroutine that Stop waits for. Nothing else in this package starts a worker.
func (u *Unit) spawn(name string, body func(ctx context.Context, label string)) error {
	label, ctx, err := u.enter(name)
	if err != nil {
		return err
	}
	go func() {
		defer u.crew.leave(label)
		ctx := u.workerContext(ctx, label)
		// So that a dump of all goroutines says whose they are.
		pprof.SetGoroutineLabels(pprof.WithLabels(ctx, pprof.Labels(LogModule, u.cfg.Name, LogWorker, label)))
		body(ctx, label)
	}()
	return nil
}

// enter counts a worker in. Under the unit's lock: once the phase is Stopping, nobody joins the crew any more.
func (u *Unit) enter(name string) (label string, ctx context.Context, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.phase != Starting && u.phase != Running {
		return "", nil, fmt.Errorf("worker %s of %s: %w", name, u.cfg.Name, ErrNotRunning)
	}
	return u.crew.join(name), u.ctx, nil
}

func (u *Unit) workerContext(ctx context.Context, label string) context.Context {
	return context.WithValue(ctx, workerKey{}, &workerInfo{name: label, log: workerLogger(u.log, label)})
}

// keep calls fn again and again until it ends well or the unit is stopped.
func (u *Unit) keep(ctx context.Context, label string, fn func(context.Context, *health) error) {
	tries := retries{Backoff: u.cfg.Backoff}
	for {
		h := &health{after: u.cfg.Backoff.Healthy, recovered: func() { u.states.Remove(workerState(label)) }}
		err := guard(func() error { return fn(ctx, h) })
		healthy := h.end()
		if err == nil || ctx.Err() != nil {
			u.states.Remove(workerState(label))
			u.parting(ctx, err)
			return
		}
		wait := tries.next(healthy)
		u.report(label, err, wait)
		if !pause(ctx, wait) {
			return
		}
	}
}

// parting notes errors that came with the end. They are most often a consequence of it, so they are no failure; only
// a panic is always somebody's mistake.
func (u *Unit) parting(ctx context.Context, err error) {
	var p *PanicError
	if errors.As(err, &p) {
		logPanic(Log(ctx), p, "during", "stop")
		return
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		Log(ctx).Debug("worker ended with an error while stopping", "error", err)
	}
}

// report makes a failure known: a log record, a state, and the callback. retry is 0 if nobody tries again.
func (u *Unit) report(label string, err error, retry time.Duration) {
	log, then := workerLogger(u.log, label), ""
	if retry > 0 {
		log, then = log.With("retry_in", retry), fmt.Sprintf("; next try in %v", retry)
	}
	s := State{ID: workerState(label), Name: "Worker failed", Severity: Warning}
	var p *PanicError
	if errors.As(err, &p) {
		s.Name, s.Severity = "Worker panicked", Error
		logPanic(log, p)
	} else {
		log.Warn("worker failed", "error", err)
	}
	s.Message = fmt.Sprintf("%s/%s: %v%s", u.cfg.Name, label, err, then)
	u.states.Add(s)
	if u.cfg.OnError != nil {
		u.callback("error callback", func() { u.cfg.OnError(label, err) })
	}
}

// callback calls what must not take a worker down.
func (u *Unit) callback(what string, fn func()) {
	err := guard(func() error {
		fn()
		return nil
	})
	var p *PanicError
	if errors.As(err, &p) {
		logPanic(u.log, p, "during", what)
	}
}

func logPanic(log *slog.Logger, p *PanicError, args ...any) {
	log.With(args...).Error("panic", "place", p.Place, "value", fmt.Sprint(p.Value), "stack", string(p.Stack))
}

// workerState is the ID of the state of a worker that failed.
func workerState(label string) string { return "worker/" + label }

// health measures how long one run of a worker has been well, and calls recovered when that is long enough.
type health struct {
	after     time.Duration
	recovered func()

	mu    sync.Mutex // guards the fields below
	since time.Time
	timer *time.Timer
	ended bool
	calls sync.WaitGroup
}

// begin says that the worker is well from now on.
func (h *health) begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended || h.timer != nil {
		return
	}
	h.since = time.Now()
	h.calls.Add(1)
	h.timer = time.AfterFunc(h.after, func() {
		defer h.calls.Done()
		h.recovered()
	})
}

// end says that the run is over and returns how long it was well. recovered is not called afterwards.
func (h *health) end() time.Duration {
	h.mu.Lock()
	h.ended = true
	timer, since := h.timer, h.since
	h.mu.Unlock()
	if timer == nil {
		return 0
	}
	if timer.Stop() {
		h.calls.Done()
	}
	h.calls.Wait()
	return time.Since(since)
}
