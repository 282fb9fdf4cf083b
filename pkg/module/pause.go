package module

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// PauserConfig describes a [Pauser].
type PauserConfig struct {
	// Unit is the module that can be paused, or the one that can pause: the work runs there, and it has the
	// state. It must not have been started yet. Required.
	Unit *Unit
	// Name says what is paused, such as "interception". It is for people, and part of the state's ID. Required.
	Name string
	// Off and On end and begin what is paused. They are never called at the same time. Required.
	Off, On func(ctx context.Context) error
	// Severity is that of the state while paused. Optional; Warning.
	Severity Severity
}

// PauseInfo is the data of the state of a [Pauser].
type PauseInfo struct {
	// Until is when it resumes by itself.
	Until time.Time `json:"until"`
	// Left is the time until then, in nanoseconds.
	Left time.Duration `json:"left"`
}

// Pauser switches something off for a time. It resumes by the wall clock: time that the machine spends in suspend
// counts. While it pauses there is a state with the time left. A pause outlasts a stop of the unit: if its time is
// over by the next start, it resumes then.
type Pauser struct {
	cfg  PauserConfig
	id   string
	task *Task
	now  func() time.Time // the wall clock; a seam for tests

	turn  chan struct{} // holds one token while somebody uses the fields below
	until time.Time     // without monotonic clock, which stands still in suspend; zero: not paused
}

// pauseTick is how often the clock is looked at. It is also how late a resume can be after a suspend.
const pauseTick = time.Second

// NewPauser returns a pauser that does not pause.
func NewPauser(cfg PauserConfig) (*Pauser, error) {
	switch {
	case cfg.Unit == nil:
		return nil, bad("a pauser needs a unit")
	case cfg.Name == "":
		return nil, bad("a pauser needs a name")
	case cfg.Off == nil, cfg.On == nil:
		return nil, bad("pauser %s: Off and On are required", cfg.Name)
	case cfg.Unit.Phase() != Stopped:
		return nil, bad("pauser %s: its unit runs already", cfg.Name)
	}
	if cfg.Severity == Fine {
		cfg.Severity = Warning
	}
	p := &Pauser{cfg: cfg, id: "pause/" + cfg.Name, now: time.Now, turn: make(chan struct{}, 1)}
	p.task = cfg.Unit.Task("pause "+cfg.Name, p.tick)
	return p, nil
}

// Pause switches off for d, which must be more than 0. If it pauses already, d counts from now instead. It returns
// [ErrNotRunning] if the unit does not run: nobody would resume.
func (p *Pauser) Pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return bad("pause %s: %v is no duration", p.cfg.Name, d)
	}
	return p.do(ctx, "pause", func(ctx context.Context) error {
		if p.until.IsZero() {
			if err := p.cfg.Off(ctx); err != nil {
				// Half off is not off.
				return errors.Join(fmt.Errorf("switch off: %w", err), p.cfg.On(ctx))
			}
		}
		p.until = p.wall().Add(d)
		p.cfg.Unit.States().Add(p.state())
		p.task.Repeat(pauseTick)
		return nil
	})
}

// Resume ends the pause early. If there is none, nothing happens.
func (p *Pauser) Resume(ctx context.Context) error { return p.do(ctx, "resume", p.resume) }

// Until returns when it resumes by itself, or zero if it does not pause. It may have to wait for a Pause or Resume
// that is under way; if ctx ends before, it returns its error.
func (p *Pauser) Until(ctx context.Context) (time.Time, error) {
	var until time.Time
	err := p.inTurn(ctx, func() error {
		until = p.until
		return nil
	})
	return until, err
}

// do calls fn as a worker of the unit.
func (p *Pauser) do(ctx context.Context, what string, fn Func) error {
	err := p.cfg.Unit.Do(ctx, what+" "+p.cfg.Name, func(ctx context.Context) error {
		return p.inTurn(ctx, func() error { return fn(ctx) })
	})
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, p.cfg.Name, err)
	}
	return nil
}

func (p *Pauser) inTurn(ctx context.Context, fn func() error) error {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for another pause or resume: %w", context.Cause(ctx))
	}
	defer func() { <-p.turn }()
	return fn()
}

// tick is the task that looks at the clock.
func (p *Pauser) tick(ctx context.Context) error {
	return p.inTurn(ctx, func() error {
		switch {
		case p.until.IsZero():
			return nil
		case p.wall().Before(p.until):
			p.cfg.Unit.States().Update(p.state())
			return nil
		}
		return p.resume(ctx)
	})
}

// resume leaves everything as it is if On fails, so that the next tick tries again.
func (p *Pauser) resume(ctx context.Context) error {
	if p.until.IsZero() {
		return nil
	}
	if err := p.cfg.On(ctx); err != nil {
		return fmt.Errorf("switch on: %w", err)
	}
	p.until = time.Time{}
	p.task.Repeat(0)
	p.cfg.Unit.States().Remove(p.id)
	return nil
}

// wall returns the time without its monotonic part.
func (p *Pauser) wall() time.Time { return p.now().Round(0) }

func (p *Pauser) state() State {
	left := max(p.until.Sub(p.wall()), 0)
	return State{
		ID: p.id, Name: "Paused: " + p.cfg.Name, Severity: p.cfg.Severity,
		Message: fmt.Sprintf("%s is paused for another %v", p.cfg.Name, left.Round(time.Second)),
		Data:    PauseInfo{Until: p.until, Left: left},
	}
}
