package module

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// GroupConfig describes a [Group].
type GroupConfig struct {
	// Name of the group, unique among all modules. Required.
	Name string
	// Logger is where the group logs. Optional; nil is silence.
	Logger *slog.Logger
	// StopTimeout bounds Stop for all modules together. When it is used up, each module that is left still gets
	// a 60th of it. Optional; 1 minute.
	StopTimeout time.Duration
}

// Group starts modules in order and stops them in reverse. It is a [Module] itself, so groups nest.
type Group struct {
	cfg     GroupConfig
	log     *slog.Logger
	life    *life
	modules []Module
	op      *Operation
	calls   crew // calls of Stop

	mu    sync.Mutex // guards phase
	phase Phase
}

// NewGroup returns a group of modules that are not running. They must have different names. If more than one of them
// has an [Operation] the error wraps [ErrOperations].
func NewGroup(cfg GroupConfig, modules ...Module) (*Group, error) {
	if cfg.Name == "" {
		return nil, bad("a group needs a name")
	}
	if cfg.StopTimeout < 0 {
		return nil, bad("group %s: negative stop timeout %v", cfg.Name, cfg.StopTimeout)
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = defaultStopTimeout
	}
	log := newLogger(cfg.Logger, cfg.Name)
	g := &Group{cfg: cfg, log: log, life: newLife(log), modules: slices.Clone(modules)}
	if slices.Contains(modules, nil) {
		return nil, bad("group %s: nil is no module", cfg.Name)
	}
	if err := checkNames(g); err != nil {
		return nil, err
	}
	op, err := findOperation(g)
	if err != nil {
		return nil, fmt.Errorf("group %s: %w", cfg.Name, err)
	}
	g.op = op
	return g, nil
}

// checkNames makes sure that a name is enough to find a module.
func checkNames(g *Group) error {
	names := make(map[string]struct{})
	var err error
	Walk(g, func(m Module) {
		_, taken := names[m.Name()]
		if taken || m.Name() == "" {
			err = bad("group %s: the name %q is empty or taken", g.cfg.Name, m.Name())
		}
		names[m.Name()] = struct{}{}
	})
	return err
}

// Name returns the name of the group.
func (g *Group) Name() string { return g.cfg.Name }

// Modules returns the modules in the order in which they are started.
func (g *Group) Modules() []Module { return slices.Clone(g.modules) }

// Phase returns where the group is in its life.
func (g *Group) Phase() Phase {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.phase
}

// Workers implements [Crewed] for all modules in the group, and calls of Stop that hang.
func (g *Group) Workers() []string {
	var names []string
	for _, m := range g.modules {
		if c, ok := m.(Crewed); ok {
			names = append(names, c.Workers()...)
		}
	}
	return append(names, g.hanging()...)
}

// AllStates returns the states of all modules in the group.
func (g *Group) AllStates() []State { return AllStates(g) }

// SetSleep passes the mode on to all modules that are a [Sleeper].
func (g *Group) SetSleep(mode Mode) {
	for _, m := range g.modules {
		if s, ok := m.(Sleeper); ok {
			s.SetSleep(mode)
		}
	}
}

// Start starts the modules in order. If one fails, that one and all before it are stopped in reverse, and the error
// has all that went wrong; the group can be started again then. It returns [ErrRunning] if the group runs. ctx bounds
// the starting only.
func (g *Group) Start(ctx context.Context) error { return g.life.start(ctx, g.start) }

// Stop stops the modules in reverse, all together in at most GroupConfig.StopTimeout, and goes on after errors. The
// error wraps a [StillRunningError] for each module that has workers that did not end. A Start that is under way is
// given up. Called with the context of one of its own workers it only asks for the stop and returns nil at once, see
// the package's comment.
func (g *Group) Stop(ctx context.Context) error { return g.life.stop(ctx, g.cfg.StopTimeout, g.stop) }

func (g *Group) ended() <-chan struct{} { return g.life.ended() }

func (g *Group) setPhase(p Phase) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.phase = p
}

func (g *Group) hanging() []string {
	names := g.calls.list()
	for i, n := range names {
		names[i] = g.cfg.Name + "/" + n
	}
	return names
}

func (g *Group) start(ctx context.Context) error {
	if g.Phase() != Stopped {
		return ErrRunning
	}
	if names := g.hanging(); len(names) > 0 {
		return fmt.Errorf("finish the last stop: %w", &StillRunningError{Workers: names})
	}
	g.setPhase(Starting)
	for i, m := range g.modules {
		if err := g.startOne(ctx, m); err != nil {
			g.setPhase(Stopping)
			undo, cancel := bounded(context.WithoutCancel(ctx), g.cfg.StopTimeout)
			defer cancel()
			err = errors.Join(err, g.stopFrom(undo, i))
			g.setPhase(Stopped)
			return err
		}
	}
	g.setPhase(Running)
	return nil
}

func (g *Group) startOne(ctx context.Context, m Module) error {
	if ctx.Err() != nil {
		return fmt.Errorf("before the start of %s: %w", m.Name(), context.Cause(ctx))
	}
	if err := guard(func() error { return m.Start(g.life.mark(ctx)) }); err != nil {
		return fmt.Errorf("start %s: %w", m.Name(), err)
	}
	g.log.Debug("module started", "started", m.Name())
	return nil
}

func (g *Group) stop(ctx context.Context) error {
	if g.Phase() == Stopped {
		return nil
	}
	g.setPhase(Stopping)
	defer g.setPhase(Stopped)
	return g.stopFrom(ctx, len(g.modules)-1)
}

// stopFrom stops modules in reverse, beginning with number last.
func (g *Group) stopFrom(ctx context.Context, last int) error {
	var errs []error
	for i := last; i >= 0; i-- {
		m := g.modules[i]
		if err := g.stopOne(ctx, m); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", m.Name(), err))
			continue
		}
		g.log.Debug("module stopped", "stopped", m.Name())
	}
	return errors.Join(errs...)
}

// stopOne is bounded also if the module's Stop does not look at its context. Such a call goes on, and has a name.
func (g *Group) stopOne(ctx context.Context, m Module) error {
	ctx, cancel := bounded(ctx, g.cfg.StopTimeout)
	label := g.calls.join("stop of " + m.Name())
	result := make(chan error, 1)
	go func() {
		defer cancel()
		err := guard(func() error { return m.Stop(g.life.mark(ctx)) })
		g.calls.leave(label)
		result <- err
	}()
	deadline, _ := ctx.Deadline()
	// A module that is bounded itself answers at the deadline, and its answer says more than ours.
	patience := time.NewTimer(time.Until(deadline) + g.cfg.StopTimeout/graceShare)
	defer patience.Stop()
	select {
	case err := <-result:
		return err
	case <-patience.C:
		return &StillRunningError{Workers: []string{g.cfg.Name + "/" + label}}
	}
}
