package module

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// RunFunc is how the parts of this SDK run: it blocks, owns its goroutines, and has undone what it did when it
// returns. It calls ready once, when it works, and returns nil when ctx has ended.
type RunFunc func(ctx context.Context, ready func()) error

// Readiness says what the Start of a [Service] waits for.
type Readiness uint8

// The kinds of readiness.
const (
	// UntilReady makes Start wait until Run is ready, and fail if Run ends before.
	UntilReady Readiness = 0
	// AtOnce makes Start return at once. A Run that fails is tried again, from the first time on.
	AtOnce Readiness = 1
)

// ServiceConfig describes a [Service].
type ServiceConfig struct {
	// Name of the module, unique in the program. Required.
	Name string
	// Logger is where the service logs. Optional; nil is silence.
	Logger *slog.Logger
	// Run is the work. Required.
	Run RunFunc
	// Readiness says what Start waits for. Optional; UntilReady.
	Readiness Readiness
	// StopTimeout bounds Stop. Optional; 1 minute.
	StopTimeout time.Duration
	// Backoff is how long to wait before Run is called again. Optional.
	Backoff Backoff
	// OnError is told each failure, also those that lead to a restart. Optional.
	OnError func(worker string, err error)
	// Sleep is told each change of the sleep mode. Optional.
	Sleep func(Mode)
}

// Service makes a module of a [RunFunc]. Once it has been ready, Run is called again whenever it fails, panics, or
// returns although nobody asked it to ([ErrEnded]); from then until it is ready again the module has a state that says
// so.
type Service struct {
	*Unit
	cfg   ServiceConfig
	ready atomic.Bool
}

// NewService returns a service that does not run yet.
func NewService(cfg ServiceConfig) (*Service, error) {
	if cfg.Run == nil {
		return nil, bad("service %s: Run is required", cfg.Name)
	}
	s := &Service{cfg: cfg}
	u, err := New(Config{
		Name: cfg.Name, Logger: cfg.Logger, StopTimeout: cfg.StopTimeout, Backoff: cfg.Backoff,
		OnError: cfg.OnError, Sleep: cfg.Sleep, Start: s.start,
	})
	if err != nil {
		return nil, err
	}
	s.Unit = u
	return s, nil
}

// Ready reports whether the service works just now.
func (s *Service) Ready() bool { return s.ready.Load() }

func (s *Service) start(ctx context.Context) error {
	f := &firstRun{result: make(chan error, 1)}
	if s.cfg.Readiness == AtOnce {
		f.answer(nil)
	}
	err := s.spawn("run", func(ctx context.Context, label string) {
		s.keep(ctx, label, func(ctx context.Context, h *health) error { return s.run(ctx, label, h, f) })
	})
	if err != nil {
		return err
	}
	select {
	case err := <-f.result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s to be ready: %w", s.Name(), context.Cause(ctx))
	}
}

// run calls Run once.
func (s *Service) run(ctx context.Context, label string, h *health, first *firstRun) error {
	defer s.ready.Store(false)
	err := guard(func() error {
		return s.cfg.Run(ctx, sync.OnceFunc(func() {
			s.ready.Store(true)
			h.begin()
			s.states.Remove(workerState(label))
			first.answer(nil)
		}))
	})
	if err == nil && ctx.Err() == nil {
		err = ErrEnded
	}
	if err != nil && first.answer(err) {
		return nil // Start returns it, so it is not tried again.
	}
	return err
}

// firstRun carries the first outcome to Start.
type firstRun struct {
	done   atomic.Bool
	result chan error
}

// answer reports whether this was the first outcome.
func (f *firstRun) answer(err error) bool {
	first := f.done.CompareAndSwap(false, true)
	if first {
		f.result <- err
	}
	return first
}
