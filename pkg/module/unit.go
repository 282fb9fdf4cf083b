package module

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Module is what a [Group] starts and stops. A [Unit], or a type that embeds one, is a Module.
//
// Modules may have more abilities, see [Stateful], [Sleeper], [Operator], [Crewed] and [Container].
type Module interface {
	// Name is unique in a program.
	Name() string
	// Start returns when the module works. What it started goes on after ctx has ended: ctx bounds the starting
	// only. A Start that fails has undone what it did.
	Start(ctx context.Context) error
	// Stop undoes Start and waits until that is done or ctx has ended. Stopping what does not run is fine.
	Stop(ctx context.Context) error
}

// Crewed is a [Module] that knows its workers.
type Crewed interface {
	// Workers returns the names of all workers that run just now, written module/worker.
	Workers() []string
}

// Container is a [Module] that has modules in it.
type Container interface {
	Modules() []Module
}

// Config describes a [Unit].
type Config struct {
	// Name of the module, unique in the program. Required.
	Name string
	// Logger is where the module logs. Optional; nil is silence.
	Logger *slog.Logger
	// Start begins the work, most often by [Unit.Go]. Its context is for starting only: what goes on later uses
	// the workers' contexts or [Unit.Context]. Optional. If it fails, or panics, the unit is stopped.
	Start func(ctx context.Context) error
	// Stop makes workers end that do not look at their context; it is called after their contexts were
	// cancelled, and while they may still run. Optional.
	Stop func(ctx context.Context) error
	// Release gives up what workers use, such as a database. It is called when the last of them has ended; if
	// that is not before Stop's time is up, by the next Stop or Start after that. Optional.
	Release func(ctx context.Context) error
	// Sleep is told each change of the sleep mode. Optional; a [Ticker] needs no such help.
	Sleep func(Mode)
	// OnError is told each failure of each worker, also those that lead to a restart. Optional.
	OnError func(worker string, err error)
	// StopTimeout bounds Stop. Optional; 1 minute.
	StopTimeout time.Duration
	// Backoff is how long workers of Go wait before they are restarted. Optional.
	Backoff Backoff
	// Operation makes the program run this and nothing else, see [Operation]. Optional.
	Operation *Operation
}

// Unit is the base of a module: its name, logger, context, workers, tasks, states and sleep mode. All its methods may
// be called at any time, by anybody.
type Unit struct {
	cfg    Config
	log    *slog.Logger
	states *States
	life   *life
	crew   crew

	mu      sync.Mutex // guards the fields below
	phase   Phase
	ctx     context.Context
	cancel  context.CancelCauseFunc
	tasks   map[*Task]struct{}
	tickers map[*Ticker]struct{}
	mode    Mode
	stopErr error // what Config.Stop returned, until the stop is done
}

// New returns a unit that does not run yet. It starts no goroutine.
func New(cfg Config) (*Unit, error) {
	if cfg.Name == "" {
		return nil, bad("a module needs a name")
	}
	if cfg.StopTimeout < 0 {
		return nil, bad("module %s: negative stop timeout %v", cfg.Name, cfg.StopTimeout)
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = defaultStopTimeout
	}
	backoff, err := cfg.Backoff.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", cfg.Name, err)
	}
	cfg.Backoff = backoff
	log := newLogger(cfg.Logger, cfg.Name)
	u := &Unit{
		cfg: cfg, log: log, states: NewStates(cfg.Name), life: newLife(log),
		tasks: make(map[*Task]struct{}), tickers: make(map[*Ticker]struct{}),
	}
	u.ctx, u.cancel = context.WithCancelCause(context.Background())
	u.cancel(ErrNotRunning)
	return u, nil
}

// Name returns the name of the module.
func (u *Unit) Name() string { return u.cfg.Name }

// Logger returns the module's logger: its records carry module and the caller's file and line, and the worker if they
// are logged with a worker's context. See [Log] for a worker's own.
func (u *Unit) Logger() *slog.Logger { return u.log }

// States returns the module's states. Stop clears them: a module that does not run is in no state.
func (u *Unit) States() *States { return u.states }

// Operation returns the command line operation the module was built with, or nil.
func (u *Unit) Operation() *Operation { return u.cfg.Operation }

// Workers implements [Crewed].
func (u *Unit) Workers() []string {
	names := u.crew.list()
	for i, n := range names {
		names[i] = u.cfg.Name + "/" + n
	}
	return names
}

// Phase returns where the unit is in its life.
func (u *Unit) Phase() Phase {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.phase
}

// Context returns the context that ends when the unit is stopped. If the unit does not run it has ended, and its
// cause is [ErrNotRunning].
func (u *Unit) Context() context.Context {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.ctx
}

// Start starts the unit. It returns [ErrRunning] if it runs, and an error that wraps [ErrStillRunning] if workers of
// the last time have not ended yet. ctx bounds the starting only; its values are those of all workers.
func (u *Unit) Start(ctx context.Context) error { return u.life.start(ctx, u.start) }

// Stop ends all workers in at most Config.StopTimeout. Its error wraps a [StillRunningError] if some did not end;
// another Stop waits for them again. Called with the context of one of its own workers it only asks for the stop and
// returns nil at once, see the package's comment.
func (u *Unit) Stop(ctx context.Context) error { return u.life.stop(ctx, u.cfg.StopTimeout, u.stop) }

func (u *Unit) ended() <-chan struct{} { return u.life.ended() }

func (u *Unit) start(ctx context.Context) error {
	if err := u.begin(ctx); err != nil {
		return err
	}
	if err := u.callStart(ctx); err != nil {
		undo, cancel := bounded(context.WithoutCancel(ctx), u.cfg.StopTimeout)
		defer cancel()
		return errors.Join(err, u.stop(undo))
	}
	u.mu.Lock()
	u.phase = Running
	tasks := u.tasksLocked()
	u.mu.Unlock()
	for _, t := range tasks {
		t.wake()
	}
	u.log.Debug("started")
	return nil
}

// begin makes workers possible.
func (u *Unit) begin(ctx context.Context) error {
	phase := u.Phase()
	if phase == Stopping {
		if err := u.finish(ctx, u.crew.list()); err != nil {
			return fmt.Errorf("finish the last stop: %w", err)
		}
	} else if phase != Stopped {
		return ErrRunning
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.phase = Starting
	u.ctx, u.cancel = context.WithCancelCause(u.life.mark(context.WithoutCancel(ctx)))
	return nil
}

func (u *Unit) callStart(ctx context.Context) error {
	if u.cfg.Start == nil {
		return nil
	}
	return guard(func() error { return u.cfg.Start(u.life.mark(ctx)) })
}

func (u *Unit) stop(ctx context.Context) error {
	if u.Phase() == Stopped {
		return nil
	}
	if u.beginStop() {
		u.callStop(ctx)
	}
	if err := u.finish(ctx, u.crew.wait(ctx)); err != nil {
		return err
	}
	u.log.Debug("stopped")
	return nil
}

// beginStop ends contexts and schedules. It reports whether that was still to be done.
func (u *Unit) beginStop() bool {
	u.mu.Lock()
	if u.phase == Stopping {
		u.mu.Unlock()
		return false
	}
	u.phase = Stopping
	u.cancel(ErrNotRunning)
	tasks, tickers := u.tasksLocked(), u.tickersLocked()
	u.mu.Unlock()
	for _, t := range tasks {
		t.halt()
	}
	for _, t := range tickers {
		t.Stop()
	}
	return true
}

// callStop calls Config.Stop in a worker, so that Stop is bounded and a call that hangs has a name.
func (u *Unit) callStop(ctx context.Context) {
	if u.cfg.Stop == nil {
		return
	}
	label := u.crew.join("stop")
	go func() {
		defer u.crew.leave(label)
		err := guard(func() error { return u.cfg.Stop(u.inside(ctx)) })
		u.mu.Lock()
		defer u.mu.Unlock()
		u.stopErr = err
	}()
}

// inside makes the context of a stop one of the module's own: who stops a group from there must not wait for it.
func (u *Unit) inside(ctx context.Context) context.Context {
	return context.WithValue(ctx, insideKey{}, u.Context().Value(insideKey{}))
}

// finish is what is to be done when no worker is left.
func (u *Unit) finish(ctx context.Context, left []string) error {
	if len(left) > 0 {
		for i, n := range left {
			left[i] = u.cfg.Name + "/" + n
		}
		return &StillRunningError{Workers: left}
	}
	var err error
	if u.cfg.Release != nil {
		err = guard(func() error { return u.cfg.Release(u.inside(ctx)) })
	}
	u.states.Clear()
	u.mu.Lock()
	defer u.mu.Unlock()
	err = errors.Join(u.stopErr, err)
	u.phase, u.stopErr = Stopped, nil
	return err
}

func (u *Unit) tasksLocked() []*Task {
	list := make([]*Task, 0, len(u.tasks))
	for t := range u.tasks {
		list = append(list, t)
	}
	return list
}

func (u *Unit) tickersLocked() []*Ticker {
	list := make([]*Ticker, 0, len(u.tickers))
	for t := range u.tickers {
		list = append(list, t)
	}
	return list
}
