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

func received[T any](s *module.Subscription[T]) []T {
	var got []T
	for {
		select {
		case v := <-s.C():
			got = append(got, v)
		default:
			return got
		}
	}
}

func TestSubscription(t *testing.T) {
	l := &logs{}
	e := module.NewEvent[int]("numbers", l.logger())
	fast, slow := e.Subscribe("fast", 10), e.Subscribe("slow", 2)
	for i := range 5 {
		e.Submit(i)
	}
	equal(t, []int{0, 1, 2, 3, 4}, received(fast))
	equal(t, []int{0, 1}, received(slow), "overflow drops")
	equal(t, 3, slow.Dropped())
	warned := l.records(t, "event dropped: the subscriber is too slow")
	mustLen(t, warned, 1, "one warning for drops in a row")
	equal[any](t, "numbers", warned[0]["event"])
	equal[any](t, "slow", warned[0]["subscriber"])
	for i := range 3 {
		e.Submit(i)
	}
	mustLen(t, l.records(t, "event dropped: the subscriber is too slow"), 2, "the next time there is a new one")

	slow.Cancel()
	slow.Cancel()
	e.Submit(9)
	var rest []int
	for v := range slow.C() {
		rest = append(rest, v)
	}
	equal(t, []int{0, 1}, rest, "cancel closes the channel and keeps what it holds")
	equal(t, []int{0, 1, 2, 9}, received(fast))
}

func TestSubscribeBeforeStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUnit(t, module.Config{})
		e := module.NewEvent[int]("numbers", nil)
		d := newClock()
		e.Call(u, "callback", func(ctx context.Context, _ int) (bool, error) { return false, d.note(ctx) })
		sub := e.Subscribe("channel", 10)
		e.Submit(1)
		synctest.Wait()
		empty(t, d.times(), "a callback hears nothing while its module does not run")
		for range 2 { // Start never registers again.
			mustNoError(t, u.Start(t.Context()))
			e.Submit(2)
			synctest.Wait()
			mustLen(t, d.times(), 1)
			stop(t, u)
			d = newClock()
		}
		equal(t, []int{1, 2, 2}, received(sub))
	})
}

func TestCallbacksAreOrderedAndCancelThemselves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := startUnit(t, module.Config{})
		e := module.NewEvent[int]("numbers", nil)
		var got, all []int
		e.Call(u, "until 3", func(_ context.Context, v int) (bool, error) {
			time.Sleep(time.Second)
			got = append(got, v)
			return v == 3, nil
		})
		remove := e.Call(u, "all", func(_ context.Context, v int) (bool, error) { all = append(all, v); return false, nil })
		begin := time.Now()
		for i := range 6 {
			e.Submit(i)
		}
		equal(t, 0, time.Since(begin), "Submit does not wait")
		after(time.Minute)
		equal(t, []int{0, 1, 2, 3}, got)
		equal(t, []int{0, 1, 2, 3, 4, 5}, all)
		remove()
		remove()
		e.Submit(6)
		synctest.Wait()
		equal(t, 6, len(all))
		empty(t, u.Workers(), "nobody waits for events that may never come")
	})
}

func TestCallbackFailures(t *testing.T) {
	bubble(t, func(t *testing.T) {
		told := &diary{}
		u := startUnit(t, module.Config{OnError: func(w string, err error) { told.note(w + ": " + err.Error()) }})
		e := module.NewEvent[int]("numbers", nil)
		e.Call(u, "cb", func(_ context.Context, v int) (bool, error) {
			switch v {
			case 1:
				return false, errTest
			case 2:
				panic(errTest)
			case 3:
				runtime.Goexit()
			}
			return false, nil
		})
		e.Submit(1)
		synctest.Wait()
		equal(t, []string{"event numbers cb: test error"}, told.take())
		equal(t, module.Warning, module.Worst(u.States().All()))
		e.Submit(2)
		synctest.Wait()
		mustLen(t, told.take(), 1)
		equal(t, module.Error, module.Worst(u.States().All()))
		e.Submit(3)
		synctest.Wait()
		e.Submit(4)
		synctest.Wait()
		empty(t, u.States().All(), "the next good call clears it")
	})
}

func TestCallbackOverflow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := &logs{}
		u := startUnit(t, module.Config{})
		e := module.NewEvent[int]("numbers", l.logger())
		release := make(chan struct{})
		var calls atomic.Int32
		e.Call(u, "cb", func(context.Context, int) (bool, error) { <-release; calls.Add(1); return false, nil })
		for i := range 1000 {
			e.Submit(i)
			synctest.Wait()
		}
		mustLen(t, l.records(t, "event dropped: the subscriber is too slow"), 1)
		close(release)
		synctest.Wait()
		equal(t, 257, calls.Load())
	})
}

func TestCallbackIsDroppedAtStop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUnit(t, module.Config{})
		mustNoError(t, u.Start(t.Context()))
		e := module.NewEvent[int]("numbers", nil)
		var calls atomic.Int32
		e.Call(u, "cb", func(ctx context.Context, _ int) (bool, error) { calls.Add(1); <-ctx.Done(); return false, errTest })
		e.Submit(1)
		e.Submit(2)
		synctest.Wait()
		stop(t, u)
		equal(t, 1, calls.Load())
	})
}

func TestHooks(t *testing.T) {
	type hook = module.HookFunc[string]
	d := &diary{}
	pass := func(n string) hook {
		return func(_ context.Context, v string) (bool, error) { d.note(n + " " + v); return false, nil }
	}
	for _, tt := range []struct {
		name string
		fn   hook
		want error
		text string
	}{
		{"all pass", pass("b"), nil, ""},
		{"error", func(context.Context, string) (bool, error) { return false, errTest }, errTest, "hook b: test error"},
		{"cancel", func(context.Context, string) (bool, error) { return true, nil }, module.ErrHookCancelled, "hook b: "},
		{"panic", func(context.Context, string) (bool, error) { panic(errTest) }, errTest, "hook b: panic at module/event_test.go"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var h module.Hook[string]
			h.Add("a", pass("a"))
			remove := h.Add("b", tt.fn)
			h.Add("c", pass("c"))
			d.take()
			err := h.Run(t.Context(), "v")
			if tt.want == nil {
				mustNoError(t, err)
				equal(t, []string{"a v", "b v", "c v"}, d.take())
			} else {
				errorIs(t, err, tt.want)
				contains(t, err, tt.text)
				equal(t, []string{"a v"}, d.take(), "it stops there")
			}
			remove()
			mustNoError(t, h.Run(t.Context(), "w"))
			equal(t, []string{"a w", "c w"}, d.take())
		})
	}
}

func TestHooksStopWhenTheContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var h module.Hook[int]
	h.Add("first", func(context.Context, int) (bool, error) { cancel(); return false, nil })
	h.Add("second", func(context.Context, int) (bool, error) { t.Error("called"); return false, nil })
	errorIs(t, h.Run(ctx, 1), context.Canceled)
}

// TestNothingIsRegisteredAgain is about the promise for constructors: what is done there is done once.
func TestNothingIsRegisteredAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var hook module.Hook[int]
		event := module.NewEvent[int]("e", nil)
		var hooked, called, ticked atomic.Int32
		u := newUnit(t, module.Config{})
		hook.Add("h", func(context.Context, int) (bool, error) { hooked.Add(1); return false, nil })
		event.Call(u, "c", func(context.Context, int) (bool, error) { called.Add(1); return false, nil })
		u.Repeat("t", time.Minute, func(context.Context) error { ticked.Add(1); return nil })
		for i := range int32(3) {
			mustNoError(t, u.Start(t.Context()))
			mustNoError(t, hook.Run(t.Context(), 1))
			event.Submit(1)
			after(90 * time.Second)
			equal(t, []int32{i + 1, i + 1, i + 1}, []int32{hooked.Load(), called.Load(), ticked.Load()})
			stop(t, u)
		}
	})
}
