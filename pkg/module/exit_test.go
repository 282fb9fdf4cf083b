package module_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/module"
)

func TestOperation(t *testing.T) {
	for _, tt := range []struct {
		name   string
		run    func(context.Context) error
		status int
		want   error
	}{
		{"good", func(context.Context) error { return nil }, 0, nil},
		{"error", func(context.Context) error { return errTest }, 1, errTest},
		{"own status", func(context.Context) error { return &module.StatusError{Status: 7, Err: errTest} }, 7, errTest},
		{"panic", func(context.Context) error { panic(errTest) }, 1, errTest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				d := &diary{}
				cfg := d.member("op")
				cfg.Operation = &module.Operation{Name: "check", Run: func(ctx context.Context) error {
					d.note("run")
					return tt.run(ctx)
				}}
				ms := abc(t, d)
				sw := newSwitch(t, newGroup(t, "switched", newUnit(t, cfg)), module.On)
				root := newGroup(t, "root", ms[0], newGroup(t, "inner", ms[1], sw), ms[2])
				equal(t, "check", root.Operation().Name, "the group finds it")
				status, err := module.Run(t.Context(), root, nil)
				equal(t, tt.status, status)
				if !errors.Is(err, tt.want) {
					t.Errorf("got %v; want %v", err, tt.want)
				}
				equal(t, []string{"run"}, d.take(), "nothing is started")
			})
		})
	}
}

func TestOneOperationOnly(t *testing.T) {
	run := func(context.Context) error { return nil }
	op := func(name string) *module.Unit {
		return newUnit(t, module.Config{Name: name, Operation: &module.Operation{Name: name, Run: run}})
	}
	_, err := module.NewGroup(module.GroupConfig{Name: "g"}, op("a"), op("b"))
	errorIs(t, err, module.ErrOperations)
	_, err = module.NewGroup(module.GroupConfig{Name: "g"}, newUnit(t, module.Config{Operation: &module.Operation{Name: "empty"}}))
	errorIs(t, err, module.ErrConfig)
	found, err := module.FindOperation(op("a"))
	mustNoError(t, err)
	equal(t, "a", found.Name)
	if op := newGroup(t, "g").Operation(); op != nil {
		t.Errorf("got operation %v; want none", op)
	}
	status, err := module.Run(t.Context(), newUnit(t, module.Config{Operation: &module.Operation{}}), nil)
	equal(t, 1, status)
	errorIs(t, err, module.ErrConfig)
}

func TestExitStatus(t *testing.T) {
	equal(t, 0, module.ExitStatus(nil))
	equal(t, 1, module.ExitStatus(errTest))
	bare := &module.StatusError{Status: 3}
	equal(t, 3, module.ExitStatus(fmt.Errorf("wrapped: %w", bare)))
	equal(t, "exit status 3", bare.Error())
}

func TestExit(t *testing.T) {
	for _, tt := range []struct {
		name string
		ask  func(*module.Exit) error
		want module.ExitRequest
		code int
	}{
		{"shutdown", func(x *module.Exit) error { return x.Shutdown("by API") }, module.ExitRequest{Ending: module.Shutdown, Reason: "by API"}, 0},
		{"restart", func(x *module.Exit) error { return x.Restart("update") }, module.ExitRequest{Ending: module.Restart, Reason: "update"}, 75},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				x := module.NewExit()
				equal(t, module.ExitRequest{}, x.Request())
				d := &diary{}
				stream := x.Requested().Subscribe("stream", 1)
				u := newUnit(t, module.Config{Stop: func(context.Context) error {
					// What a stream does at the very end: the event is there before anything stops.
					d.note((<-stream.C()).Ending.String())
					return nil
				}})
				time.AfterFunc(time.Hour, func() { noError(t, tt.ask(x)) })
				status, err := module.Run(t.Context(), newGroup(t, "g", u), x)
				mustNoError(t, err)
				equal(t, tt.code, status)
				equal(t, tt.want, x.Request())
				equal(t, []string{tt.name}, d.take())
				errorIs(t, x.Restart("again"), module.ErrEnding)
				errorIs(t, x.Shutdown("again"), module.ErrEnding)
			})
		})
	}
}

func TestExitRequestAsJSON(t *testing.T) {
	b, err := json.Marshal(module.ExitRequest{Ending: module.Restart, Reason: "update"})
	mustNoError(t, err)
	equal(t, `{"ending":"restart","reason":"update"}`, string(b))
}

func TestRun(t *testing.T) {
	fails := func(context.Context) error { return errTest }
	for _, tt := range []struct {
		name   string
		cfg    module.Config
		then   func(u *module.Unit, x *module.Exit, cancel func()) error
		status int
		want   error
	}{
		{"ctx", module.Config{}, func(_ *module.Unit, _ *module.Exit, cancel func()) error { cancel(); return nil }, 0, nil},
		{"stopped from inside", module.Config{}, func(u *module.Unit, _ *module.Exit, _ func()) error {
			return u.Do(context.Background(), "w", u.Stop)
		}, 0, nil},
		{"stop fails", module.Config{Stop: fails}, func(_ *module.Unit, x *module.Exit, _ func()) error { return x.Shutdown("") }, 1, errTest},
		{"restart though stop fails", module.Config{Stop: fails}, func(_ *module.Unit, x *module.Exit, _ func()) error {
			return x.Restart("")
		}, 75, errTest},
		{"start fails", module.Config{Start: fails}, nil, 1, errTest},
		{"stopped while it starts", module.Config{Start: untilCancelled}, func(_ *module.Unit, _ *module.Exit, cancel func()) error {
			cancel()
			return nil
		}, 0, nil},
		{"restart while it starts", module.Config{Start: untilCancelled}, func(_ *module.Unit, x *module.Exit, _ func()) error {
			return x.Restart("")
		}, 75, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				u, x := newUnit(t, tt.cfg), module.NewExit()
				if tt.then != nil {
					time.AfterFunc(time.Minute, func() { noError(t, tt.then(u, x, cancel)) })
				}
				status, err := module.Run(ctx, u, x)
				synctest.Wait()
				equal(t, tt.status, status)
				if !errors.Is(err, tt.want) {
					t.Errorf("got %v; want %v", err, tt.want)
				}
				equal(t, module.Stopped, u.Phase())
			})
		})
	}
}

func untilCancelled(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestRunNoticesAStopAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var u *module.Unit
		u = newUnit(t, module.Config{Start: func(context.Context) error {
			return u.Go("w", func(ctx context.Context) error { return u.Stop(ctx) })
		}})
		_, err := module.Run(t.Context(), u, nil)
		if err != nil {
			errorIs(t, err, context.Canceled, "the worker may be faster than Start")
		}
	})
}
