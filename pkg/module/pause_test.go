package module_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/module"
)

// paused is a unit with a pauser whose callbacks write into a diary.
type paused struct {
	*module.Pauser
	diary
	unit    *module.Unit
	fail    atomic.Bool
	suspend atomic.Int64 // time that only the wall clock has seen
}

func newPaused(t *testing.T) *paused {
	t.Helper()
	p := &paused{unit: newUnit(t, module.Config{Name: "intercept"})}
	call := func(what string) func(context.Context) error {
		return func(context.Context) error {
			if p.note(what); p.fail.Load() {
				return errTest
			}
			return nil
		}
	}
	var err error
	p.Pauser, err = module.NewPauser(module.PauserConfig{Unit: p.unit, Name: "interception", Off: call("off"), On: call("on")})
	mustNoError(t, err)
	p.SetClock(func() time.Time { return time.Now().Add(time.Duration(p.suspend.Load())) })
	return p
}

func (p *paused) message(t *testing.T) string {
	t.Helper()
	states := p.unit.States().All()
	if len(states) == 0 {
		return ""
	}
	return states[0].Message
}

func TestNewPauserChecksItsConfig(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := startUnit(t, module.Config{})
		idle := newUnit(t, module.Config{})
		fn := func(context.Context) error { return nil }
		for _, cfg := range []module.PauserConfig{
			{Name: "p", Off: fn, On: fn},
			{Unit: idle, Off: fn, On: fn},
			{Unit: idle, Name: "p", On: fn},
			{Unit: idle, Name: "p", Off: fn},
			{Unit: u, Name: "p", Off: fn, On: fn},
		} {
			_, err := module.NewPauser(cfg)
			errorIs(t, err, module.ErrConfig)
		}
		p := newPaused(t)
		errorIs(t, p.Pause(t.Context(), 0), module.ErrConfig)
		errorIs(t, p.Pause(t.Context(), time.Second), module.ErrNotRunning)
		empty(t, p.take())
	})
}

func TestPauseAndResume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPaused(t)
		start(t, p.unit)
		board := module.NewNotifications(nil)
		defer board.Watch(p.unit)()
		begin := time.Now()
		mustNoError(t, p.Pause(t.Context(), 5*time.Minute))
		equal(t, []string{"off"}, p.take())
		equal(t, "interception is paused for another 5m0s", p.message(t))
		mustLen(t, board.All(), 1)
		equal(t, module.Warning, board.All()[0].Severity)
		until, err := p.Until(t.Context())
		mustNoError(t, err)
		isTrue(t, until.Equal(begin.Add(5*time.Minute)))
		equal(t, until.Round(0), until, "no monotonic clock, which stands still in suspend")

		after(time.Minute)
		equal(t, "interception is paused for another 4m0s", p.message(t))
		equal(t, "interception is paused for another 4m0s", board.All()[0].Message)
		equal[any](t, module.PauseInfo{Until: until, Left: 4 * time.Minute}, p.unit.States().All()[0].Data)
		isTrue(t, p.unit.States().All()[0].Time.Equal(begin), "the state began with the pause")
		mustNoError(t, board.Dismiss("intercept", "pause/interception"))
		after(4*time.Minute - time.Second)
		empty(t, board.All(), "less time left does not raise it again")
		empty(t, p.take())
		after(time.Second)
		equal(t, []string{"on"}, p.take(), "automatic resume")
		empty(t, p.unit.States().All())
		after(time.Hour)
		empty(t, p.take())
	})
}

func TestResumeEarly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPaused(t)
		start(t, p.unit)
		mustNoError(t, p.Resume(t.Context()), "nothing to resume")
		empty(t, p.take())
		mustNoError(t, p.Pause(t.Context(), time.Minute))
		mustNoError(t, p.Resume(t.Context()))
		equal(t, []string{"off", "on"}, p.take())
		empty(t, p.unit.States().All())
		until, err := p.Until(t.Context())
		mustNoError(t, err)
		isTrue(t, until.IsZero())
		after(time.Hour)
		empty(t, p.take())
	})
}

func TestPauseAgainReplacesTheTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPaused(t)
		start(t, p.unit)
		mustNoError(t, p.Pause(t.Context(), time.Minute))
		after(30 * time.Second)
		mustNoError(t, p.Pause(t.Context(), time.Minute))
		after(59 * time.Second)
		equal(t, []string{"off"}, p.take())
		after(time.Second)
		equal(t, []string{"on"}, p.take())
	})
}

func TestResumeAfterSuspend(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPaused(t)
		start(t, p.unit)
		mustNoError(t, p.Pause(t.Context(), time.Hour))
		after(time.Minute)
		// The machine sleeps: the wall clock goes on, timers do not.
		p.suspend.Store(int64(time.Hour))
		after(module.PauseTick)
		equal(t, []string{"off", "on"}, p.take())
		isTrue(t, module.PauseTick <= time.Second)
	})
}

func TestPauseOutlastsAStopOfTheUnit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPaused(t)
		mustNoError(t, p.unit.Start(t.Context()))
		mustNoError(t, p.Pause(t.Context(), time.Minute))
		stop(t, p.unit)
		empty(t, p.unit.States().All())
		after(time.Hour)
		equal(t, []string{"off"}, p.take())
		start(t, p.unit)
		after(module.PauseTick)
		equal(t, []string{"on"}, p.take())
		empty(t, p.unit.States().All())
	})
}

func TestPauseFailures(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPaused(t)
		start(t, p.unit)
		p.fail.Store(true)
		errorIs(t, p.Pause(t.Context(), time.Minute), errTest)
		equal(t, []string{"off", "on"}, p.take(), "half off is not off")
		empty(t, p.unit.States().All())

		p.fail.Store(false)
		mustNoError(t, p.Pause(t.Context(), time.Minute))
		p.fail.Store(true)
		errorIs(t, p.Resume(t.Context()), errTest)
		mustLen(t, p.unit.States().All(), 1, "still paused")
		p.take()
		after(62 * time.Second)
		equal(t, []string{"on", "on", "on"}, p.take(), "tried again each second")
		mustLen(t, p.unit.States().All(), 2, "paused, and a worker that fails")
		p.fail.Store(false)
		after(time.Second)
		empty(t, p.unit.States().All())
	})
}

func TestPauseWaitsForItsTurn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := startUnitWith(t, func(u *module.Unit) *module.Pauser {
			slow := func(context.Context) error { time.Sleep(time.Minute); return nil }
			p, err := module.NewPauser(module.PauserConfig{Unit: u, Name: "p", Off: slow, On: slow})
			mustNoError(t, err)
			return p
		})
		go func() { noError(t, u.Pause(t.Context(), time.Hour)) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		errorIs(t, u.Resume(ctx), context.DeadlineExceeded)
		_, err := u.Until(ctx)
		errorIs(t, err, context.DeadlineExceeded)
		after(time.Minute)
	})
}

func startUnitWith(t *testing.T, build func(*module.Unit) *module.Pauser) *module.Pauser {
	t.Helper()
	u := newUnit(t, module.Config{})
	p := build(u)
	start(t, u)
	return p
}
