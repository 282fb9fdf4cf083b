package module_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/module"
)

// abc returns units a, b, c that write into the diary.
func abc(t *testing.T, d *diary) []module.Module {
	t.Helper()
	var ms []module.Module
	for _, n := range []string{"a", "b", "c"} {
		ms = append(ms, newUnit(t, d.member(n)))
	}
	return ms
}

func TestNewGroupChecksItsConfig(t *testing.T) {
	a := newUnit(t, module.Config{Name: "a"})
	b := newUnit(t, module.Config{Name: "b"})
	nested := newGroup(t, "nested", a)
	for name, build := range map[string]func() (*module.Group, error){
		"no name":       func() (*module.Group, error) { return module.NewGroup(module.GroupConfig{}) },
		"negative time": func() (*module.Group, error) { return module.NewGroup(module.GroupConfig{Name: "g", StopTimeout: -1}) },
		"nil":           func() (*module.Group, error) { return module.NewGroup(module.GroupConfig{Name: "g"}, a, nil) },
		"twice":         func() (*module.Group, error) { return module.NewGroup(module.GroupConfig{Name: "g"}, a, b, a) },
		"its own name":  func() (*module.Group, error) { return module.NewGroup(module.GroupConfig{Name: "a"}, a) },
		"nested twice":  func() (*module.Group, error) { return module.NewGroup(module.GroupConfig{Name: "g"}, nested, a) },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := build()
			errorIs(t, err, module.ErrConfig)
		})
	}
}

func TestGroupStartsInOrderAndStopsInReverse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := &diary{}
		g := newGroup(t, "g", abc(t, d)...)
		for range 2 { // It can start again.
			mustNoError(t, g.Start(t.Context()))
			equal(t, []string{"start a", "start b", "start c"}, d.take())
			equal(t, module.Running, g.Phase())
			errorIs(t, g.Start(t.Context()), module.ErrRunning)
			stop(t, g)
			stop(t, g)
			equal(t, []string{"stop c", "stop b", "stop a"}, d.take())
			equal(t, module.Stopped, g.Phase())
		}
	})
}

func TestFailedStartStopsAllBeforeItInReverse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := &diary{}
		ms := abc(t, d)
		fail := true
		cfg := d.member("bad")
		cfg.Start = func(context.Context) error {
			if d.note("start bad"); fail {
				return errTest
			}
			return nil
		}
		g := newGroup(t, "g", ms[0], ms[1], newUnit(t, cfg), ms[2])
		err := g.Start(t.Context())
		errorIs(t, err, errTest)
		contains(t, err, "start bad: test error")
		equal(t, []string{"start a", "start b", "start bad", "stop bad", "stop b", "stop a"}, d.take())
		equal(t, module.Stopped, g.Phase())
		fail = false
		start(t, g)
	})
}

// plain is a module that is no Unit.
type plain struct {
	name        string
	start, stop func(context.Context) error
}

func (p *plain) Name() string                    { return p.name }
func (p *plain) Start(ctx context.Context) error { return p.start(ctx) }
func (p *plain) Stop(ctx context.Context) error  { return p.stop(ctx) }

func TestModuleThatPanics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := &diary{}
		boom := func(context.Context) error { panic("boom") }
		g := newGroup(t, "g", newUnit(t, d.member("a")), &plain{name: "p", start: boom, stop: boom})
		err := g.Start(t.Context())
		var p *module.PanicError
		mustErrorAs(t, err, &p)
		contains(t, err, "start p: panic at module/group_test.go")
		contains(t, err, "stop p: panic")
		equal(t, []string{"start a", "stop a"}, d.take())
	})
}

func TestStopGoesOnAfterErrorsAndNamesWorkers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := &diary{}
		release := make(chan struct{})
		ms := abc(t, d)
		stubborn := newUnit(t, module.Config{Name: "stubborn"})
		failing := newUnit(t, module.Config{Name: "failing", Stop: func(context.Context) error { return errTest }})
		g := newGroup(t, "g", ms[0], stubborn, ms[1], failing, ms[2])
		mustNoError(t, g.Start(t.Context()))
		mustNoError(t, stubborn.Go("w", func(context.Context) error { <-release; return nil }))
		late := ms[0].(*module.Unit)
		mustNoError(t, late.Go("late", func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Second / 2); return nil }))
		d.take()
		begin := time.Now()
		err := g.Stop(t.Context())
		equal(t, time.Minute+time.Second/2, time.Since(begin), "bounded")
		errorIs(t, err, errTest)
		var still *module.StillRunningError
		mustErrorAs(t, err, &still)
		equal(t, []string{"stubborn/w"}, still.Workers)
		isFalse(t, strings.Contains(err.Error(), "late"), "who comes after one that hangs has time to end")
		equal(t, []string{"stop c", "stop b", "stop a"}, d.take())
		equal(t, []string{"stubborn/w"}, g.Workers())

		errorIs(t, g.Start(t.Context()), module.ErrStillRunning)
		close(release)
		synctest.Wait()
		start(t, failingLast(t, g, failing))
	})
}

// failingLast lets the clean-up of a test pass although one module cannot be stopped without an error.
func failingLast(t *testing.T, g *module.Group, failing module.Module) module.Module {
	t.Helper()
	return &plain{name: "wrapper", start: g.Start, stop: func(ctx context.Context) error {
		if err := g.Stop(ctx); !errors.Is(err, errTest) {
			t.Errorf("stop %s: got %v; want %v", failing.Name(), err, errTest)
		}
		return nil
	}}
}

func TestStopThatIgnoresItsContextIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		nothing := func(context.Context) error { return nil }
		d := &diary{}
		hangs := &plain{name: "p", start: nothing, stop: func(context.Context) error { <-release; return nil }}
		g, err := module.NewGroup(module.GroupConfig{Name: "g", StopTimeout: 10 * time.Second}, newUnit(t, d.member("a")), hangs)
		mustNoError(t, err)
		mustNoError(t, g.Start(t.Context()))
		var still *module.StillRunningError
		mustErrorAs(t, g.Stop(t.Context()), &still)
		equal(t, []string{"g/stop of p"}, still.Workers)
		equal(t, []string{"start a", "stop a"}, d.take())
		errorIs(t, g.Start(t.Context()), module.ErrStillRunning)
		close(release)
		synctest.Wait()
		mustNoError(t, g.Start(t.Context()))
		stop(t, g)
	})
}

func TestGroupsNest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := &diary{}
		ms := abc(t, d)
		inner := newGroup(t, "inner", ms[1], ms[2])
		outer := newGroup(t, "outer", ms[0], inner, newUnit(t, d.member("z")))
		mustNoError(t, outer.Start(t.Context()))
		mustNoError(t, ms[2].(*module.Unit).Go("w", untilDone))
		equal(t, []string{"c/w"}, outer.Workers())
		stop(t, outer)
		equal(t, []string{"start a", "start b", "start c", "start z", "stop z", "stop c", "stop b", "stop a"}, d.take())
		var names []string
		module.Walk(outer, func(m module.Module) { names = append(names, m.Name()) })
		equal(t, []string{"outer", "a", "inner", "b", "c", "z"}, names)
	})
}

func TestStopOfAGroupByItsOwnWorker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := &diary{}
		ms := abc(t, d)
		inner := newGroup(t, "inner", ms[1])
		outer := newGroup(t, "outer", ms[0], inner, ms[2])
		b := ms[1].(*module.Unit)
		for _, target := range []module.Module{outer, inner, b} {
			mustNoError(t, outer.Start(t.Context()))
			begin := time.Now()
			mustNoError(t, b.Go("w", func(ctx context.Context) error { return target.Stop(ctx) }))
			synctest.Wait()
			stop(t, outer)
			equal(t, 0, time.Since(begin), "no deadlock when stopping", target.Name())
			equal(t, 6, len(d.take()))
			empty(t, outer.Workers())
		}
	})
}

func TestStopOfAGroupByItsOwnStopFunction(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var g *module.Group
		u := newUnit(t, module.Config{Stop: func(ctx context.Context) error { return g.Stop(ctx) }})
		g = newGroup(t, "g", u)
		for _, first := range []module.Module{g, u} {
			mustNoError(t, g.Start(t.Context()))
			begin := time.Now()
			stop(t, first)
			stop(t, g)
			equal(t, 0, time.Since(begin), "no deadlock when stopping", first.Name())
		}
	})
}

func TestStopOfAGroupDuringStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := &diary{}
		cfg := d.member("slow")
		cfg.Start = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		g := newGroup(t, "g", newUnit(t, d.member("a")), newUnit(t, cfg), newUnit(t, d.member("z")))
		var got atomic.Value
		go func() { got.Store(g.Start(t.Context())) }()
		synctest.Wait()
		stop(t, g)
		synctest.Wait()
		errorIs(t, got.Load().(error), context.Canceled)
		equal(t, []string{"start a", "stop slow", "stop a"}, d.take())
	})
}

func TestGroupSleep(t *testing.T) {
	d := &diary{}
	a := newUnit(t, module.Config{Name: "a", Sleep: func(m module.Mode) { d.note("a " + m.String()) }})
	b := newUnit(t, module.Config{Name: "b", Sleep: func(m module.Mode) { d.note("b " + m.String()) }})
	never := &plain{name: "no sleeper"}
	sw, err := module.NewSwitch(module.SwitchConfig{Name: "s", Module: b})
	mustNoError(t, err)
	g := newGroup(t, "g", a, never, newGroup(t, "inner", sw))
	g.SetSleep(module.Asleep)
	g.SetSleep(module.Asleep)
	g.SetSleep(module.Awake)
	equal(t, []string{"a asleep", "b asleep", "a awake", "b awake"}, d.take())
}
