package module_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/module"
)

func newSwitch(t *testing.T, m module.Module, p module.Position) *module.Switch {
	t.Helper()
	s, err := module.NewSwitch(module.SwitchConfig{Name: "switch", Module: m, Position: p})
	mustNoError(t, err)
	return s
}

func positions(t *testing.T, s *module.Switch, wantIs, wantWish module.Position) {
	t.Helper()
	is, wish := s.Position()
	equal(t, []module.Position{wantIs, wantWish}, []module.Position{is, wish})
}

func TestNewSwitchChecksItsConfig(t *testing.T) {
	_, err := module.NewSwitch(module.SwitchConfig{Name: "s"})
	errorIs(t, err, module.ErrConfig)
	_, err = module.NewSwitch(module.SwitchConfig{Module: newUnit(t, module.Config{})})
	errorIs(t, err, module.ErrConfig)
}

func TestSwitch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := &diary{}
		s := newSwitch(t, newGroup(t, "g", abc(t, d)...), module.Off)
		mustNoError(t, s.Start(t.Context()))
		empty(t, d.take())
		s.Set(module.On)
		mustNoError(t, s.Settled(t.Context()))
		equal(t, []string{"start a", "start b", "start c"}, d.take())
		s.Set(module.Off)
		mustNoError(t, s.Settled(t.Context()))
		equal(t, []string{"stop c", "stop b", "stop a"}, d.take())
		s.Set(module.On)
		mustNoError(t, s.Settled(t.Context()))
		d.take()
		stop(t, s)
		equal(t, []string{"stop c", "stop b", "stop a"}, d.take(), "off while the switch does not run")
		positions(t, s, module.Off, module.On)
		mustNoError(t, s.Start(t.Context()))
		equal(t, []string{"start a", "start b", "start c"}, d.take(), "the wish lasts")
		stop(t, s)
	})
}

func TestSwitchIsSetBeforeStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSwitch(t, newUnit(t, module.Config{}), module.On)
		s.Set(module.Off)
		s.Set(module.On)
		start(t, s)
		positions(t, s, module.On, module.On)
	})
}

func TestTheLastWishWins(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := &diary{}
		cfg := d.member("slow")
		cfg.Start = func(ctx context.Context) error {
			d.note("start")
			select {
			case <-time.After(time.Minute):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		s := newSwitch(t, newUnit(t, cfg), module.Off)
		start(t, s)
		begin := time.Now()
		s.Set(module.On)
		synctest.Wait()
		s.Set(module.Off)
		mustNoError(t, s.Settled(t.Context()))
		synctest.Wait()
		equal(t, 0, time.Since(begin), "a start that is not wished for is given up")
		positions(t, s, module.Off, module.Off)
		equal(t, []string{"start", "stop slow"}, d.take())
		empty(t, s.States().All())

		for _, p := range []module.Position{module.On, module.Off, module.On} {
			s.Set(p)
			synctest.Wait()
		}
		mustNoError(t, s.Settled(t.Context()))
		equal(t, time.Minute, time.Since(begin))
		positions(t, s, module.On, module.On)
	})
}

func TestSwitchTriesAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var fail atomic.Bool
		begin := time.Now()
		c := newClock()
		u := newUnit(t, module.Config{Name: "u", Start: func(ctx context.Context) error {
			noError(t, c.note(ctx))
			if fail.Load() {
				return errTest
			}
			return nil
		}})
		s := newSwitch(t, u, module.Off)
		start(t, s)
		fail.Store(true)
		s.Set(module.On)
		after(10 * time.Second)
		equal(t, []int{0, 1, 3, 7}, c.times())
		states := s.States().All()
		mustLen(t, states, 1)
		contains(t, states[0].Message, "switch on u: test error")
		fail.Store(false)
		mustNoError(t, s.Settled(t.Context()))
		synctest.Wait()
		equal(t, 15*time.Second, time.Since(begin))
		empty(t, s.States().All())
	})
}

func TestSwitchThatCannotBeStartedAtStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSwitch(t, newUnit(t, module.Config{Start: func(context.Context) error { return errTest }}), module.On)
		errorIs(t, s.Start(t.Context()), errTest)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		errorIs(t, s.Settled(ctx), context.DeadlineExceeded)
	})
}

func TestSwitchOffWithErrorsIsOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newSwitch(t, newUnit(t, module.Config{Stop: func(context.Context) error { return errTest }}), module.On)
		mustNoError(t, s.Start(t.Context()))
		s.Set(module.Off)
		mustNoError(t, s.Settled(t.Context()))
		synctest.Wait()
		mustLen(t, s.States().All(), 1)
		s.Set(module.On)
		mustNoError(t, s.Settled(t.Context()))
		synctest.Wait()
		empty(t, s.States().All())
		errorIs(t, s.Stop(t.Context()), errTest)
	})
}

// TestHundredTogglesASecond runs in real time too: there the race detector and the scheduler do their worst.
func TestHundredTogglesASecond(t *testing.T) {
	for _, run := range []struct {
		name string
		in   func(*testing.T, func(*testing.T))
		gap  time.Duration
	}{
		{"fake time", bubble, 10 * time.Millisecond},
		{"no time", func(t *testing.T, fn func(*testing.T)) { t.Helper(); fn(t) }, 0},
	} {
		t.Run(run.name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			run.in(t, func(t *testing.T) {
				var alive atomic.Int32
				var u *module.Unit
				u = newUnit(t, module.Config{
					Name: "u",
					Start: func(context.Context) error {
						u.Repeat("tick", time.Second, func(context.Context) error { return nil })
						return u.Go("w", func(ctx context.Context) error {
							if n := alive.Add(1); n != 1 {
								t.Errorf("got %d generations; want 1", n)
							}
							defer alive.Add(-1)
							return untilDone(ctx)
						})
					},
				})
				s := newSwitch(t, newGroup(t, "g", u), module.Off)
				mustNoError(t, s.Start(t.Context()))
				for i := range 300 {
					s.Set(module.Position((i + 1) % 2))
					time.Sleep(run.gap)
				}
				mustNoError(t, s.Settled(t.Context()))
				positions(t, s, module.Off, module.Off)
				empty(t, u.Workers())
				equal(t, 0, u.Timers())
				stop(t, s)
				equal(t, 0, alive.Load())
			})
			for range 1000 { // Goroutines that have left their function may still be counted for a moment.
				if runtime.NumGoroutine() <= before {
					return
				}
				runtime.Gosched()
				time.Sleep(time.Millisecond)
			}
			t.Errorf("got %d goroutines; want %d", runtime.NumGoroutine(), before)
		})
	}
}

func TestWorkerOfASwitchedModuleStopsTheProgram(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUnit(t, module.Config{})
		s := newSwitch(t, u, module.Off)
		g := newGroup(t, "g", s)
		mustNoError(t, g.Start(t.Context()))
		s.Set(module.On)
		mustNoError(t, s.Settled(t.Context()))
		begin := time.Now()
		mustNoError(t, u.Go("w", func(ctx context.Context) error { return g.Stop(ctx) }))
		synctest.Wait()
		stop(t, g)
		equal(t, 0, time.Since(begin))
		empty(t, g.Workers())
	})
}
