package module_test

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/module"
)

// here returns the place of its caller, as the package writes places, some lines further down.
func here(down int) string {
	_, file, line, _ := runtime.Caller(1)
	return "module/" + filepath.Base(file) + ":" + strconv.Itoa(line+down)
}

func TestGoRestarts(t *testing.T) {
	boom := func(context.Context) error { panic("boom") }
	fail := func(context.Context) error { return errTest }
	cancelled := func(context.Context) error { return context.Canceled }
	for _, tt := range []struct {
		name string
		fn   module.Func
	}{
		{"error", fail}, {"panic", boom}, {"cancel of something else", cancelled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				u := startUnit(t, module.Config{})
				var starts []time.Duration
				begin := time.Now()
				mustNoError(t, u.Go("w", func(ctx context.Context) error {
					starts = append(starts, time.Since(begin))
					return tt.fn(ctx)
				}))
				after(4 * time.Minute)
				var want []time.Duration
				sum := time.Duration(0)
				for _, s := range []int{0, 1, 2, 4, 8, 16, 32, 60, 60} {
					sum += time.Duration(s) * time.Second
					want = append(want, sum)
				}
				equal(t, want, starts)
			})
		})
	}
}

func TestGoBackoffResetAfterHealthyRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := startUnit(t, module.Config{})
		var starts []time.Duration
		begin := time.Now()
		mustNoError(t, u.Go("w", func(ctx context.Context) error {
			starts = append(starts, time.Since(begin))
			if len(starts) == 4 { // After the waits 1, 2 and 4 s.
				time.Sleep(time.Minute)
			}
			return errTest
		}))
		after(70 * time.Second)
		s := time.Second
		equal(t, []time.Duration{0, s, 3 * s, 7 * s, 68 * s}, starts[:5])
		equal(t, 70*s, starts[5], "the wait doubles again")
	})
}

func TestGoEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUnit(t, module.Config{})
		mustNoError(t, u.Start(t.Context()))
		runs := 0
		mustNoError(t, u.Go("nil", func(context.Context) error { runs++; return nil }))
		after(time.Hour)
		equal(t, 1, runs, "nil ends a worker")
		empty(t, u.Workers())

		mustNoError(t, u.Go("until cancelled", func(ctx context.Context) error {
			<-ctx.Done()
			errorIs(t, context.Cause(ctx), module.ErrNotRunning)
			return errTest
		}))
		mustNoError(t, u.Go("waits", func(context.Context) error { return errTest }))
		synctest.Wait()
		equal(t, []string{"unit/until cancelled", "unit/waits"}, u.Workers())
		stop(t, u)
		empty(t, u.Workers())
	})
}

func TestNotRunning(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUnit(t, module.Config{})
		for _, when := range []string{"before start", "after stop"} {
			errorIs(t, u.Go("w", untilDone), module.ErrNotRunning, when)
			errorIs(t, u.Do(t.Context(), "w", untilDone), module.ErrNotRunning, when)
			errorIs(t, context.Cause(u.Context()), module.ErrNotRunning, when)
			mustNoError(t, u.Start(t.Context()))
			mustNoError(t, u.Context().Err())
			stop(t, u)
		}
	})
}

func TestWorkerFailureIsStateUntilItRecovers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var told []string
		u := startUnit(t, module.Config{OnError: func(w string, err error) { told = append(told, w+": "+err.Error()) }})
		runs := 0
		mustNoError(t, u.Go("reader", func(ctx context.Context) error {
			if runs++; runs == 1 {
				return errTest
			}
			return untilDone(ctx)
		}))
		synctest.Wait()
		got := u.States().All()
		mustLen(t, got, 1)
		equal(t, "worker/reader", got[0].ID)
		equal(t, "unit", got[0].Module)
		equal(t, module.Warning, got[0].Severity)
		equal(t, "unit/reader: test error; next try in 1s", got[0].Message)
		equal(t, []string{"reader: test error"}, told)
		after(time.Minute)
		mustLen(t, u.States().All(), 1, "not healthy for long enough yet")
		after(time.Second)
		empty(t, u.States().All(), "recovered")
	})
}

func TestPanicIsCaughtLoggedAndAState(t *testing.T) {
	var place string
	var noMap map[string]int // Out here, where vet does not see what is wrong below.
	var noPointer *int
	for _, tt := range []struct {
		name  string
		panic func()
	}{
		{"value", func() { place = here(0); panic("boom") }},
		{"nil map", func() { place = here(0); noMap["a"] = 1 }},
		{"nil pointer", func() { place = here(0); *noPointer = 1 }},
		{"index", func() { s := []int{}; i := len(s); place = here(0); s[i] = 1 }},
		{"closed channel", func() { c := make(chan int); close(c); place = here(0); close(c) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				l := &logs{}
				u := startUnit(t, module.Config{Logger: l.logger()})
				mustNoError(t, u.Go("w", func(context.Context) error { tt.panic(); return nil }))
				synctest.Wait()
				states := u.States().All()
				mustLen(t, states, 1)
				equal(t, "worker/w", states[0].ID)
				equal(t, module.Error, states[0].Severity)
				contains(t, states[0].Message, place)
				records := l.records(t, "panic")
				mustLen(t, records, 1)
				equal[any](t, place, records[0]["place"])
				equal[any](t, "unit", records[0]["module"])
				equal[any](t, "w", records[0]["worker"])
				contains(t, records[0]["stack"], "worker_test.go")
			})
		})
	}
}

func TestPanicWhileStoppingIsLogged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := &logs{}
		u := newUnit(t, module.Config{Logger: l.logger()})
		mustNoError(t, u.Start(t.Context()))
		mustNoError(t, u.Go("w", func(ctx context.Context) error { <-ctx.Done(); panic("late") }))
		stop(t, u)
		mustLen(t, l.records(t, "panic"), 1)
		empty(t, u.States().All())
	})
}

func TestPanicInCallbacksDoesNotSpread(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := &logs{}
		u := startUnit(t, module.Config{Logger: l.logger(), OnError: func(string, error) { panic("callback") }})
		runs := 0
		mustNoError(t, u.Go("w", func(context.Context) error { runs++; return errTest }))
		after(time.Second)
		equal(t, 2, runs)
		mustLen(t, l.records(t, "panic"), 2)
	})
}

func TestGoexitIsNoLeak(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := startUnit(t, module.Config{})
		leave := func(context.Context) error { runtime.Goexit(); return nil }
		mustNoError(t, u.Go("w", leave))
		task := u.Task("t", leave)
		task.Trigger()
		synctest.Wait()
		empty(t, u.Workers())
		isFalse(t, task.Status().Running)
		task.Trigger()
		synctest.Wait()
		equal(t, 2, task.Status().Runs)
	})
}

func TestDo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUnit(t, module.Config{})
		mustNoError(t, u.Start(t.Context()))
		runs := 0
		equal[error](t, errTest, u.Do(t.Context(), "w", func(context.Context) error { runs++; return errTest }))
		after(time.Hour)
		equal(t, 1, runs, "never restarted")
		empty(t, u.States().All(), "its error is the caller's")

		var p *module.PanicError
		err := u.Do(t.Context(), "w", func(context.Context) error { panic(errTest) })
		mustErrorAs(t, err, &p)
		errorIs(t, err, errTest, "a panic with an error wraps it")
		equal(t, here(-3), p.Place)
		mustLen(t, u.States().All(), 1, "a panic is a state")
		mustNoError(t, u.Do(t.Context(), "w", func(context.Context) error { return nil }))
		empty(t, u.States().All())

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		mustNoError(t, u.Do(ctx, "caller's context", untilDone))

		time.AfterFunc(time.Second, func() { stop(t, u) })
		mustNoError(t, u.Do(t.Context(), "unit's context", func(ctx context.Context) error {
			equal(t, []string{"unit/unit's context"}, u.Workers())
			<-ctx.Done()
			errorIs(t, context.Cause(ctx), module.ErrNotRunning)
			return nil
		}))
		synctest.Wait()
		equal(t, module.Stopped, u.Phase())
	})
}

func TestWorkersOfTheSameName(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := startUnit(t, module.Config{})
		for range 3 {
			mustNoError(t, u.Go("w", untilDone))
		}
		equal(t, []string{"unit/w", "unit/w#1", "unit/w#2"}, u.Workers())
	})
}

func TestBackoffIsChecked(t *testing.T) {
	_, err := module.New(module.Config{Name: "u", Backoff: module.Backoff{First: -1}})
	errorIs(t, err, module.ErrConfig)
}

func TestPanicErrorUnwrap(t *testing.T) {
	noError(t, errors.Unwrap(&module.PanicError{Value: "text"}))
	equal[error](t, errTest, errors.Unwrap(&module.PanicError{Value: errTest}))
}
