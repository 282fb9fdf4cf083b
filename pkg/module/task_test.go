package module_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/module"
)

// clock notes when something happened, in seconds since it was made.
type clock struct {
	begin time.Time
	mu    sync.Mutex // guards at
	at    []int
}

func newClock() *clock { return &clock{begin: time.Now()} }

func (c *clock) note(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = append(c.at, int(time.Since(c.begin).Seconds()))
	return nil
}

func (c *clock) times() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.at)
}

func TestTaskSchedules(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name string
		do   func(u *module.Unit, c *clock)
		want []int
	}{
		{"delay runs once", func(u *module.Unit, c *clock) { u.Delay("t", 3*s, c.note) }, []int{3}},
		{"repeat", func(u *module.Unit, c *clock) { u.Repeat("t", 10*s, c.note) }, []int{10, 20, 30}},
		{"trigger runs now", func(u *module.Unit, c *clock) { u.Task("t", c.note).Trigger() }, []int{0}},
		{"trigger leaves repeat alone", func(u *module.Unit, c *clock) {
			t := u.Repeat("t", 10*s, c.note)
			time.Sleep(4 * s)
			t.Trigger()
		}, []int{4, 10, 20, 30}},
		{"a delay, then repeat resumes", func(u *module.Unit, c *clock) {
			u.Repeat("t", 10*s, c.note).Delay(3 * s)
		}, []int{3, 13, 23, 33}},
		{"repeat does not end a delay", func(u *module.Unit, c *clock) {
			u.Delay("t", 15*s, c.note).Repeat(10 * s)
		}, []int{15, 25, 35}},
		{"a delay replaces a delay", func(u *module.Unit, c *clock) { u.Delay("t", 3*s, c.note).Delay(5 * s) }, []int{5}},
		{"repeat replaces repeat", func(u *module.Unit, c *clock) { u.Repeat("t", s, c.note).Repeat(15 * s) }, []int{15, 30}},
		{"0 switches a delay off", func(u *module.Unit, c *clock) { u.Delay("t", 3*s, c.note).Delay(0) }, nil},
		{"0 switches repeat off", func(u *module.Unit, c *clock) {
			t := u.Repeat("t", 10*s, c.note)
			time.Sleep(25 * s)
			t.Repeat(0)
		}, []int{10, 20}},
		{"delay 0 brings repeat back", func(u *module.Unit, c *clock) {
			u.Repeat("t", 10*s, c.note).Delay(35 * s).Delay(0)
		}, []int{10, 20, 30}},
		{"stop", func(u *module.Unit, c *clock) {
			t := u.Repeat("t", 10*s, c.note)
			time.Sleep(15 * s)
			t.Stop()
			t.Trigger()
			t.Delay(s)
			t.Repeat(s)
		}, []int{10}},
		{"repeat leaves out what would overlap", func(u *module.Unit, c *clock) {
			u.Repeat("t", 10*s, func(ctx context.Context) error {
				time.Sleep(15 * s)
				return c.note(ctx)
			})
		}, []int{25, 45}},
		{"a delay that ends during a run makes for another run", func(u *module.Unit, c *clock) {
			t := u.Task("t", func(ctx context.Context) error {
				time.Sleep(5 * s)
				return c.note(ctx)
			})
			t.Trigger()
			t.Delay(2 * s)
		}, []int{5, 10}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				u := newUnit(t, module.Config{})
				mustNoError(t, u.Start(t.Context()))
				c := newClock()
				tt.do(u, c)
				after(time.Until(c.begin.Add(39 * s)))
				stop(t, u)
				equal(t, tt.want, c.times())
				after(time.Hour)
				equal(t, tt.want, c.times(), "nothing runs after Stop")
				equal(t, 0, u.Timers(), "nothing is kept")
			})
		})
	}
}

func TestTriggersDuringARunMeanOneMoreRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := startUnit(t, module.Config{})
		c := newClock()
		task := u.Task("t", func(ctx context.Context) error {
			time.Sleep(10 * time.Second)
			return c.note(ctx)
		})
		task.Trigger()
		for range 100 {
			time.Sleep(50 * time.Millisecond)
			task.Trigger()
		}
		isTrue(t, task.Status().Queued)
		after(time.Hour)
		equal(t, []int{10, 20}, c.times())
		equal(t, 2, task.Status().Runs)
	})
}

func TestTaskTriggersItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := startUnit(t, module.Config{})
		var task *module.Task
		runs := 0
		task = u.Task("t", func(context.Context) error {
			if runs++; runs < 5 {
				task.Trigger()
			}
			return nil
		})
		task.Trigger()
		synctest.Wait()
		equal(t, 5, runs)
	})
}

func TestTaskStatusAndErrors(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var unitTold atomic.Int32
		u := startUnit(t, module.Config{OnError: func(string, error) { unitTold.Add(1) }})
		told := &diary{}
		var healed atomic.Bool
		task := u.Repeat("t", 10*time.Second, func(context.Context) error {
			time.Sleep(time.Second)
			if !healed.Load() {
				return errTest
			}
			return nil
		}).OnError(func(err error) { told.note(err.Error()) })
		begin := time.Now()
		equal(t, module.TaskStatus{Every: 10 * time.Second, Next: begin.Add(10 * time.Second)}, task.Status())

		after(10*time.Second + time.Millisecond)
		st := task.Status()
		isTrue(t, st.Running)
		equal(t, begin.Add(10*time.Second), st.LastStart)
		equal(t, begin.Add(20*time.Second), st.Next)
		equal(t, []string{"unit/t"}, u.Workers())

		after(time.Second)
		st = task.Status()
		isFalse(t, st.Running)
		equal[error](t, errTest, st.LastError)
		equal(t, begin.Add(11*time.Second), st.LastEnd)
		equal(t, 1, st.Failures)
		equal(t, []string{"test error"}, told.take())
		equal(t, 1, unitTold.Load())
		equal(t, "worker/t", u.States().All()[0].ID)

		healed.Store(true)
		after(10 * time.Second)
		st = task.Status()
		noError(t, st.LastError)
		equal(t, 2, st.Runs)
		equal(t, 1, st.Failures)
		empty(t, u.States().All(), "cleared by the next good run")
		task.Stop()
		isTrue(t, task.Status().Stopped)
	})
}

func TestTaskPanic(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := startUnit(t, module.Config{})
		var told error
		task := u.Task("t", func(context.Context) error { panic("boom") }).OnError(func(err error) { told = err })
		task.Trigger()
		synctest.Wait()
		var p *module.PanicError
		mustErrorAs(t, told, &p)
		equal(t, module.Error, u.States().All()[0].Severity)
	})
}

func TestTaskStopEndsTheRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := startUnit(t, module.Config{})
		task := u.Task("t", untilDone)
		task.Trigger()
		synctest.Wait()
		task.Trigger()
		task.Stop()
		synctest.Wait()
		isFalse(t, task.Status().Running)
		empty(t, u.Workers())
		equal(t, 1, task.Status().Runs, "the queued run is dropped")
	})
}

func TestTaskStoppedBeforeItsRunBegins(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := startUnit(t, module.Config{})
		task := u.Task("t", untilDone)
		task.Trigger()
		task.Stop()
		synctest.Wait()
		isFalse(t, task.Status().Running)
	})
}

func TestTasksMadeBeforeStartAreKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUnit(t, module.Config{})
		repeat, delay, trigger := newClock(), newClock(), newClock()
		u.Repeat("repeat", 10*time.Second, repeat.note)
		u.Delay("delay", 5*time.Second, delay.note)
		u.Task("trigger", trigger.note).Trigger()
		time.Sleep(100 * time.Second)
		for range 2 {
			mustNoError(t, u.Start(t.Context()))
			u.Repeat("made while running", time.Second, func(context.Context) error { return nil })
			after(25 * time.Second)
			stop(t, u)
			time.Sleep(75 * time.Second)
		}
		equal(t, []int{110, 120, 210, 220}, repeat.times(), "at each start, without registering again")
		equal(t, []int{105}, delay.times(), "counts from Start on")
		equal(t, []int{100}, trigger.times())
		equal(t, 3, u.Timers(), "the other one is forgotten")
	})
}
