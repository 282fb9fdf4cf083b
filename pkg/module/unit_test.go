package module_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/module"
)

func TestNewChecksItsConfig(t *testing.T) {
	for _, cfg := range []module.Config{{}, {Name: "u", StopTimeout: -1}} {
		_, err := module.New(cfg)
		errorIs(t, err, module.ErrConfig)
	}
}

func TestUnitLife(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := &diary{}
		cfg := d.member("u")
		cfg.Release = func(context.Context) error { d.note("release"); return nil }
		u := newUnit(t, cfg)
		stop(t, u)
		empty(t, d.take(), "stop before start")
		for range 2 { // It can start again.
			equal(t, module.Stopped, u.Phase())
			mustNoError(t, u.Start(t.Context()))
			equal(t, module.Running, u.Phase())
			errorIs(t, u.Start(t.Context()), module.ErrRunning)
			mustNoError(t, u.Go("w", func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(time.Second)
				d.note("worker ended")
				return nil
			}))
			u.States().Add(module.State{ID: "s"})
			stop(t, u)
			stop(t, u)
			equal(t, []string{"start u", "stop u", "worker ended", "release"}, d.take())
			empty(t, u.States().All(), "stop clears states")
		}
	})
}

func TestStartContextBoundsStartingOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		type key struct{}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		u := newUnit(t, module.Config{})
		mustNoError(t, u.Start(ctx))
		cancel()
		mustNoError(t, u.Context().Err())
		equal[any](t, "value", u.Context().Value(key{}))
		stop(t, u)
	})
}

func TestFailedStartStopsItself(t *testing.T) {
	for name, fail := range map[string]func() error{
		"error": func() error { return errTest },
		"panic": func() error { panic(errTest) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				d := &diary{}
				var u *module.Unit
				cfg := d.member("u")
				healed := false
				cfg.Start = func(context.Context) error {
					mustNoError(t, u.Go("w", untilDone))
					if healed {
						return nil
					}
					return fail()
				}
				u = newUnit(t, cfg)
				errorIs(t, u.Start(t.Context()), errTest)
				equal(t, []string{"stop u"}, d.take())
				empty(t, u.Workers())
				equal(t, module.Stopped, u.Phase())
				healed = true
				start(t, u)
			})
		})
	}
}

func TestStopIsBoundedAndNamesWorkers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		d := &diary{}
		u := newUnit(t, module.Config{
			Stop:    func(context.Context) error { return errTest },
			Release: func(context.Context) error { d.note("release"); return nil },
		})
		mustNoError(t, u.Start(t.Context()))
		mustNoError(t, u.Go("stubborn", func(context.Context) error { <-release; return nil }))
		mustNoError(t, u.Go("well behaved", untilDone))
		begin := time.Now()
		err := u.Stop(t.Context())
		equal(t, time.Minute, time.Since(begin))
		errorIs(t, err, module.ErrStillRunning)
		var still *module.StillRunningError
		mustErrorAs(t, err, &still)
		equal(t, []string{"unit/stubborn"}, still.Workers)
		equal(t, module.Stopping, u.Phase())

		errorIs(t, u.Start(t.Context()), module.ErrStillRunning, "two generations never run together")
		empty(t, d.take(), "nothing is released under a worker")
		close(release)
		synctest.Wait()
		errorIs(t, u.Stop(t.Context()), errTest, "the error of Config.Stop comes in the end")
		equal(t, []string{"release"}, d.take())
		mustNoError(t, u.Start(t.Context()))
		errorIs(t, u.Stop(t.Context()), errTest)
	})
}

func TestStartFinishesAnUnfinishedStop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := &diary{}
		u := newUnit(t, module.Config{
			StopTimeout: time.Second,
			Release:     func(context.Context) error { d.note("release"); return nil },
		})
		mustNoError(t, u.Start(t.Context()))
		mustNoError(t, u.Go("slow", func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Minute); return nil }))
		errorIs(t, u.Stop(t.Context()), module.ErrStillRunning)
		after(time.Hour)
		start(t, u)
		equal(t, []string{"release"}, d.take())
	})
}

func TestStopFunctionThatHangsHasAName(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		u := newUnit(t, module.Config{Stop: func(context.Context) error { <-release; return nil }})
		mustNoError(t, u.Start(t.Context()))
		var still *module.StillRunningError
		mustErrorAs(t, u.Stop(t.Context()), &still)
		equal(t, []string{"unit/stop"}, still.Workers)
		close(release)
		stop(t, u)
	})
}

func TestStopWithACancelledContextStillWaitsABit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUnit(t, module.Config{})
		mustNoError(t, u.Start(t.Context()))
		mustNoError(t, u.Go("w", func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Second / 2); return nil }))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		mustNoError(t, u.Stop(ctx))
	})
}

func TestStopByOwnWorkerDoesNotDeadlock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUnit(t, module.Config{})
		for range 3 {
			mustNoError(t, u.Start(t.Context()))
			begin := time.Now()
			mustNoError(t, u.Go("w", func(ctx context.Context) error {
				noError(t, u.Stop(ctx))
				return u.Stop(ctx) // Asking twice is fine.
			}))
			synctest.Wait()
			equal(t, module.Stopped, u.Phase())
			equal(t, 0, time.Since(begin))
		}
	})
}

func TestStopFromInsideReportsItsErrorLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := &logs{}
		u := newUnit(t, module.Config{Logger: l.logger(), Stop: func(context.Context) error { return errTest }})
		suicide := func() {
			mustNoError(t, u.Start(t.Context()))
			mustNoError(t, u.Do(t.Context(), "w", func(ctx context.Context) error { return u.Stop(ctx) }))
		}
		suicide()
		errorIs(t, u.Stop(t.Context()), errTest, "the next stop from outside")
		stop(t, u)
		suicide()
		suicide()
		mustLen(t, l.records(t, "the stop before this start had errors"), 1)
		errorIs(t, u.Stop(t.Context()), errTest)
	})
}

func TestStartFromInside(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := startUnit(t, module.Config{})
		errorIs(t, u.Do(t.Context(), "w", u.Start), module.ErrRunning)
	})
}

func TestStopInsideOfStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var u *module.Unit
		u = newUnit(t, module.Config{Start: func(ctx context.Context) error {
			noError(t, u.Stop(ctx))
			return ctx.Err()
		}})
		errorIs(t, u.Start(t.Context()), context.Canceled)
		synctest.Wait()
		equal(t, module.Stopped, u.Phase())
	})
}

func TestStopGivesUpAStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUnit(t, module.Config{Start: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
		var got atomic.Value
		go func() { got.Store(u.Start(t.Context())) }()
		synctest.Wait()
		equal(t, module.Starting, u.Phase())
		stop(t, u)
		synctest.Wait()
		errorIs(t, got.Load().(error), context.Canceled)
		equal(t, module.Stopped, u.Phase())
	})
}

func TestWaitingForATurnIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		u := newUnit(t, module.Config{Start: func(context.Context) error { <-release; return nil }})
		go func() { noError(t, u.Start(t.Context())) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		errorIs(t, u.Start(ctx), context.DeadlineExceeded)
		errorIs(t, u.Stop(t.Context()), context.DeadlineExceeded)
		close(release)
		synctest.Wait()
		stop(t, u)
	})
}

func TestLogRecordsCarryModuleWorkerAndCaller(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := &logs{}
		u := startUnit(t, module.Config{Name: "dns", Logger: l.logger()})
		var place string
		mustNoError(t, u.Do(t.Context(), "reader", func(ctx context.Context) error {
			place = here(1)
			u.Logger().InfoContext(ctx, "by context")
			module.Log(ctx).Info("by Log")
			module.Log(ctx).With("a", 1).WithGroup("g").With("b", 2).WithGroup("").With().InfoContext(ctx, "grouped", "c", 3)
			return nil
		}))
		u.Logger().Info("outside")
		module.Log(t.Context()).Info("silent")

		for i, msg := range []string{"by context", "by Log", "grouped"} {
			r := l.records(t, msg)
			mustLen(t, r, 1, msg)
			equal[any](t, "dns", r[0]["module"], msg)
			equal[any](t, "reader", r[0]["worker"], msg)
			equal[any](t, place[:len(place)-1]+string(place[len(place)-1]+byte(i)), r[0]["caller"], msg)
		}
		equal[any](t, 1.0, l.records(t, "grouped")[0]["a"])
		equal[any](t, map[string]any{"b": 2.0, "c": 3.0}, l.records(t, "grouped")[0]["g"])
		equal[any](t, nil, l.records(t, "outside")[0]["worker"])
		empty(t, l.records(t, "silent"))
	})
}

func TestNilLoggerIsSilent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := startUnit(t, module.Config{})
		isFalse(t, u.Logger().Enabled(t.Context(), slog.LevelError))
		mustNoError(t, u.Do(t.Context(), "w", func(ctx context.Context) error {
			module.Log(ctx).Error("nothing")
			return nil
		}))
	})
}
