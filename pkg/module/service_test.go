package module_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/module"
)

func newService(t *testing.T, cfg module.ServiceConfig) *module.Service {
	t.Helper()
	cfg.Name = "service"
	s, err := module.NewService(cfg)
	mustNoError(t, err)
	return s
}

func TestNewServiceChecksItsConfig(t *testing.T) {
	_, err := module.NewService(module.ServiceConfig{Name: "s"})
	errorIs(t, err, module.ErrConfig)
	_, err = module.NewService(module.ServiceConfig{Run: func(context.Context, func()) error { return nil }})
	errorIs(t, err, module.ErrConfig)
}

func TestServiceStartWaitsUntilReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := &diary{}
		s := newService(t, module.ServiceConfig{Run: func(ctx context.Context, ready func()) error {
			defer d.note("undone")
			time.Sleep(5 * time.Second)
			ready()
			ready() // Once is enough, twice is fine.
			return untilDone(ctx)
		}})
		for range 2 {
			begin := time.Now()
			mustNoError(t, s.Start(t.Context()))
			equal(t, 5*time.Second, time.Since(begin))
			isTrue(t, s.Ready())
			stop(t, s)
			isFalse(t, s.Ready())
			equal(t, []string{"undone"}, d.take())
		}
	})
}

func TestServiceStartFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		run  module.RunFunc
		want error
	}{
		{"error", func(context.Context, func()) error { return errTest }, errTest},
		{"panic", func(context.Context, func()) error { panic(errTest) }, errTest},
		{"ended", func(context.Context, func()) error { return nil }, module.ErrEnded},
		{"too late", func(ctx context.Context, _ func()) error { return untilDone(ctx) }, context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newService(t, module.ServiceConfig{Run: tt.run})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				errorIs(t, s.Start(ctx), tt.want)
				equal(t, module.Stopped, s.Phase())
				empty(t, s.Workers())
			})
		})
	}
}

func TestServiceAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newClock()
		s := newService(t, module.ServiceConfig{
			Readiness: module.AtOnce,
			Run:       func(ctx context.Context, _ func()) error { return c.note(ctx) },
		})
		start(t, s)
		after(4 * time.Second)
		equal(t, []int{0, 1, 3}, c.times())
		isFalse(t, s.Ready())
		contains(t, s.States().All()[0].Message, module.ErrEnded.Error())
	})
}

func TestServiceRestartsAndHasAStateUntilReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, told := newClock(), &diary{}
		s := newService(t, module.ServiceConfig{
			OnError: func(_ string, err error) { told.note(err.Error()) },
			Run: func(ctx context.Context, ready func()) error {
				noError(t, c.note(ctx))
				if len(c.times()) != 2 {
					ready()
				}
				if len(c.times()) < 3 {
					return pauseOr(ctx, 90*time.Second, errTest)
				}
				return untilDone(ctx)
			},
		})
		start(t, s)
		after(90 * time.Second)
		isFalse(t, s.Ready())
		states := s.States().All()
		mustLen(t, states, 1)
		equal(t, "worker/run", states[0].ID)
		after(80 * time.Second)
		mustLen(t, s.States().All(), 1, "it runs, but was never ready")
		after(20 * time.Second)
		equal(t, []int{0, 91, 183}, c.times(), "back-off: 1 s after a healthy run, 2 s after one that was never ready")
		isTrue(t, s.Ready())
		empty(t, s.States().All())
		equal(t, []string{"test error", "test error"}, told.take())
	})
}

// pauseOr returns err after d, or nil when ctx has ended.
func pauseOr(ctx context.Context, d time.Duration, err error) error {
	select {
	case <-time.After(d):
		return err
	case <-ctx.Done():
		return nil
	}
}

func TestServiceInAGroup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := &diary{}
		s := newService(t, module.ServiceConfig{Run: func(context.Context, func()) error { return errTest }})
		g := newGroup(t, "g", newUnit(t, d.member("a")), s)
		errorIs(t, g.Start(t.Context()), errTest)
		equal(t, []string{"start a", "stop a"}, d.take())
		synctest.Wait()
	})
}
