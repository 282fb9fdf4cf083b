package module

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Position is what a [Switch] can be.
type Position uint8

// The positions.
const (
	Off Position = 0
	On  Position = 1
)

// String returns the name of the position.
func (p Position) String() string {
	switch p {
	case Off:
		return "off"
	case On:
		return "on"
	}
	return fmt.Sprintf("position %d", uint8(p))
}

// SwitchConfig describes a [Switch].
type SwitchConfig struct {
	// Name of the switch, unique among all modules. Required.
	Name string
	// Logger is where the switch logs. Optional; nil is silence.
	Logger *slog.Logger
	// Module is what is switched, most often a [Group]. Nobody else may start or stop it. Required.
	Module Module
	// Position is the first wish. Optional; off.
	Position Position
	// StopTimeout bounds Stop. Optional; 1 minute.
	StopTimeout time.Duration
	// Backoff is how long to wait before a start that failed is tried again. Optional.
	Backoff Backoff
}

// Switch is a module that turns another one on and off at run time, by a setting. The last wish wins: what was wished
// for in between need not happen.
type Switch struct {
	*Unit
	inner Module
	task  *Task
	turn  chan struct{} // holds one token while somebody moves the module

	mu      sync.Mutex // guards the fields below
	wish    Position
	is      Position
	moving  bool // what comes of a start or stop that is under way is not known yet
	tries   retries
	giveUp  context.CancelFunc // ends the start that is under way
	settled chan struct{}      // closed when it is as wished for, for good; nil if nobody waits
}

// NewSwitch returns a switch that does not run yet. While it does not run, the module is off.
func NewSwitch(cfg SwitchConfig) (*Switch, error) {
	if cfg.Module == nil {
		return nil, bad("switch %s: a module is required", cfg.Name)
	}
	s := &Switch{inner: cfg.Module, wish: cfg.Position, turn: make(chan struct{}, 1)}
	u, err := New(Config{
		Name: cfg.Name, Logger: cfg.Logger, StopTimeout: cfg.StopTimeout, Backoff: cfg.Backoff,
		Start: s.start, Release: s.release,
	})
	if err != nil {
		return nil, err
	}
	s.Unit = u
	s.tries = retries{Backoff: u.cfg.Backoff}
	s.task = u.Task("switch", s.follow)
	return s, nil
}

// Set wishes for a position and returns at once. It is legal before Start, too. A start that is under way and is not
// wished for any more is given up. If the module cannot be started there is a state that says so, and it is tried
// again.
func (s *Switch) Set(p Position) {
	s.mu.Lock()
	if s.wish != p {
		s.tries.last = 0
		if s.giveUp != nil {
			s.giveUp()
		}
	}
	s.wish = p
	s.checkSettledLocked()
	s.mu.Unlock()
	if s.Phase() != Stopped { // Start looks at the wish anyway.
		s.task.Trigger()
	}
}

// Position returns what the module is, and what was wished for last.
func (s *Switch) Position() (is, wish Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.is, s.wish
}

// Settled waits until the module is what was wished for. Its error is that of ctx.
func (s *Switch) Settled(ctx context.Context) error {
	for {
		settled := s.waitSettled()
		if settled == nil {
			return nil
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return fmt.Errorf("wait for switch %s: %w", s.Name(), context.Cause(ctx))
		}
	}
}

// Modules implements [Container].
func (s *Switch) Modules() []Module { return []Module{s.inner} }

// Workers implements [Crewed], also for the module that is switched.
func (s *Switch) Workers() []string {
	names := s.Unit.Workers()
	if c, ok := s.inner.(Crewed); ok {
		names = append(names, c.Workers()...)
	}
	return names
}

// SetSleep passes the mode on, also while the module is off.
func (s *Switch) SetSleep(mode Mode) {
	s.Unit.SetSleep(mode)
	if in, ok := s.inner.(Sleeper); ok {
		in.SetSleep(mode)
	}
}

func (s *Switch) waitSettled() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settledLocked() {
		return nil
	}
	if s.settled == nil {
		s.settled = make(chan struct{})
	}
	return s.settled
}

// start fails if the module cannot be started: at the start of a program that is worth an end.
func (s *Switch) start(ctx context.Context) error { return s.settle(ctx) }

// release turns the module off whatever the wish is.
func (s *Switch) release(ctx context.Context) error {
	if is, _ := s.Position(); is == Off {
		return nil
	}
	err := s.inner.Stop(ctx)
	s.moved(Off)
	if err != nil {
		return fmt.Errorf("switch off %s: %w", s.inner.Name(), err)
	}
	return nil
}

// follow is the task that makes the wish come true.
func (s *Switch) follow(ctx context.Context) error {
	err := s.settle(ctx)
	if err != nil && ctx.Err() == nil {
		s.mu.Lock()
		wait := s.tries.next(0)
		s.mu.Unlock()
		s.task.Delay(wait)
	}
	return err
}

// settle moves the module until it is what is wished for, or it cannot be.
func (s *Switch) settle(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return fmt.Errorf("wait for another move: %w", context.Cause(ctx))
	}
	var errs []error
	for {
		to, moving, done := s.next(ctx)
		if moving == nil {
			return errors.Join(errs...)
		}
		err := s.move(moving, to)
		if err == nil || to == Off { // Off with errors is off as far as it can be, and no reason to try again.
			s.moved(to)
		}
		given := moving.Err() != nil
		done()
		switch {
		case err == nil:
		case to == Off:
			errs = append(errs, err)
		case given && ctx.Err() == nil: // The wish has changed meanwhile.
		default:
			return errors.Join(append(errs, err)...)
		}
	}
}

// next returns where to move and the context for it, which is nil if all is as wished.
func (s *Switch) next(ctx context.Context) (to Position, moving context.Context, done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wish == s.is {
		return s.is, nil, nil
	}
	cancel := func() {}
	if s.wish == Off {
		// A stop that has begun is bounded by itself, and is never given up.
		moving = context.WithoutCancel(ctx)
	} else {
		moving, cancel = context.WithCancel(ctx)
		s.giveUp = cancel
	}
	s.moving = true
	return s.wish, moving, func() {
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.moving, s.giveUp = false, nil
		s.checkSettledLocked()
	}
}

func (s *Switch) move(ctx context.Context, to Position) error {
	var err error
	if to == Off {
		err = s.inner.Stop(ctx)
	} else {
		err = s.inner.Start(ctx)
	}
	if err != nil {
		return fmt.Errorf("switch %s %s: %w", to, s.inner.Name(), err)
	}
	s.log.Info("switched", "switched", s.inner.Name(), "position", to.String())
	return nil
}

// moved notes where the module is.
func (s *Switch) moved(to Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.is = to
	if to == On {
		s.tries.last = 0
	}
	s.checkSettledLocked()
}

func (s *Switch) settledLocked() bool { return s.is == s.wish && !s.moving }

func (s *Switch) checkSettledLocked() {
	if s.settledLocked() && s.settled != nil {
		close(s.settled)
		s.settled = nil
	}
}
