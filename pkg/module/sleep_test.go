package module_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/module"
)

// ticks collects the ticks of a ticker, in seconds.
type ticks struct {
	mu sync.Mutex // guards at
	at []int
}

func (k *ticks) follow(u *module.Unit, awake, asleep time.Duration) module.Func {
	begin := time.Now()
	return func(ctx context.Context) error {
		tk := u.Ticker(awake, asleep)
		defer tk.Stop()
		for {
			select {
			case now := <-tk.C():
				k.mu.Lock()
				k.at = append(k.at, int(now.Sub(begin).Seconds()))
				k.mu.Unlock()
			case <-ctx.Done():
				return nil
			}
		}
	}
}

func (k *ticks) take() []int {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer func() { k.at = nil }()
	return slices.Clone(k.at)
}

func TestTickerKnowsSleep(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := startUnit(t, module.Config{})
		slows, stops, plain := &ticks{}, &ticks{}, newClock()
		mustNoError(t, u.Go("slows", slows.follow(u, 10*time.Second, time.Minute)))
		mustNoError(t, u.Go("stops", stops.follow(u, 10*time.Second, 0)))
		u.Repeat("what protects people", 50*time.Second, plain.note)
		after(25 * time.Second)
		equal(t, []int{10, 20}, slows.take())
		equal(t, []int{10, 20}, stops.take())
		u.SetSleep(module.Asleep)
		u.SetSleep(module.Asleep)
		after(120 * time.Second) // 145
		equal(t, []int{80, 140}, slows.take(), "slower")
		empty(t, stops.take(), "stopped")
		equal(t, []int{50, 100}, plain.times(), "unaffected")
		u.SetSleep(module.Awake)
		after(20 * time.Second) // 165
		equal(t, []int{150, 160}, slows.take(), "one period after the last tick")
		equal(t, []int{145, 155, 165}, stops.take(), "at once, because it is late")
	})
}

func TestTickerOfASleepingUnit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUnit(t, module.Config{})
		u.SetSleep(module.Asleep)
		idle := u.Ticker(time.Second, time.Second)
		start(t, u)
		k := &ticks{}
		mustNoError(t, u.Go("w", k.follow(u, time.Second, time.Minute)))
		after(60 * time.Second)
		equal(t, []int{60}, k.take())
		select {
		case <-idle.C():
			t.Error("got a tick of a ticker from before Start; want none")
		default:
		}
	})
}

func TestTickerEndsWithItsUnit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUnit(t, module.Config{})
		mustNoError(t, u.Start(t.Context()))
		forgotten := u.Ticker(time.Second, 0)
		after(5 * time.Second)
		equal(t, 1, len(forgotten.C()), "it holds one tick")
		<-forgotten.C()
		stop(t, u)
		equal(t, 0, u.Timers())
		after(time.Minute)
		equal(t, 0, len(forgotten.C()))
	})
}

func TestTickerAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		tk := module.NewTicker(time.Second, 0)
		<-tk.C()
		tk.Stop()
		tk.Stop()
		tk.SetSleep(module.Asleep)
		tk.SetSleep(module.Awake)
		after(time.Minute)
		equal(t, 0, len(tk.C()))
	})
}

func TestSleepCallbackThatPanics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := &logs{}
		u := newUnit(t, module.Config{Logger: l.logger(), Sleep: func(module.Mode) { panic("sleep") }})
		u.SetSleep(module.Asleep)
		mustLen(t, l.records(t, "panic"), 1)
		synctest.Wait()
	})
}
