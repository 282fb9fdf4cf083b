package extverdict_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/verdict"
)

func answering(r extverdict.Result) extverdict.Handler {
	return func(context.Context, *conn.Snapshot) extverdict.Result { return r }
}

func TestEmptySlot(t *testing.T) {
	var empty extverdict.Slot
	if _, ok := empty.Load(); ok {
		t.Error("an empty slot has a handler")
	}
	if _, ok := (*extverdict.Slot)(nil).Load(); ok {
		t.Error("no slot has a handler")
	}
	if err := empty.Set("nothing", nil); !errors.Is(err, extverdict.ErrNoHandler) {
		t.Errorf("got %v; want ErrNoHandler", err)
	}
	if _, ok := empty.Load(); ok {
		t.Error("a nil handler was set")
	}
}

func TestSetOnce(t *testing.T) {
	var s extverdict.Slot
	if err := s.Set("first", answering(extverdict.Result{Verdict: verdict.Accept})); err != nil {
		t.Fatal(err)
	}
	err := s.Set("second", answering(extverdict.Result{Verdict: verdict.Block}))
	if !errors.Is(err, extverdict.ErrAlreadySet) || !strings.Contains(err.Error(), `"second"`) || !strings.Contains(err.Error(), `"first"`) {
		t.Errorf("got %v; want ErrAlreadySet with both names", err)
	}
	c, ok := s.Load()
	if r, err := c.Do(t.Context(), &conn.Snapshot{}); !ok || c.Name() != "first" || r.Verdict != verdict.Accept || err != nil {
		t.Errorf("got %q, %+v, %v; want the first handler's Accept", c.Name(), r, err)
	}
}

// Of many at once one succeeds, and readers see that one or none.
func TestSetRace(t *testing.T) {
	const setters = 16
	var s extverdict.Slot
	var won atomic.Int64
	var winner atomic.Pointer[string]
	var all sync.WaitGroup
	for n := range setters {
		all.Go(func() {
			name := string(rune('a' + n))
			switch err := s.Set(name, answering(extverdict.Result{Reason: name})); {
			case err == nil:
				won.Add(1)
				winner.Store(&name)
			case !errors.Is(err, extverdict.ErrAlreadySet):
				t.Error(err)
			}
		})
		all.Go(func() {
			if c, ok := s.Load(); ok {
				if r, err := c.Do(t.Context(), nil); r.Reason != c.Name() || err != nil {
					t.Errorf("got %+v, %v of %q", r, err, c.Name())
				}
			}
		})
	}
	all.Wait()
	if c, _ := s.Load(); won.Load() != 1 || c.Name() != *winner.Load() {
		t.Errorf("got %d winners, handler %q; want 1, %q", won.Load(), c.Name(), *winner.Load())
	}
}

func TestAnswers(t *testing.T) {
	for v := range verdict.Verdict(verdict.NumVerdicts + 2) {
		var s extverdict.Slot
		given := extverdict.Result{Verdict: v, Reason: "why", SkipTunnel: true}
		if err := s.Set("test", answering(given)); err != nil {
			t.Fatal(err)
		}
		c, _ := s.Load()
		r, err := c.Do(t.Context(), &conn.Snapshot{})
		switch v {
		case verdict.Undecided, verdict.Accept, verdict.Block:
			if r != given || err != nil {
				t.Errorf("%v: got %+v, %v; want it as given", v, r, err)
			}
		default:
			if r != (extverdict.Result{}) || !errors.Is(err, extverdict.ErrNotAllowed) || !strings.Contains(err.Error(), `"test"`) {
				t.Errorf("%v: got %+v, %v; want nothing, ErrNotAllowed", v, r, err)
			}
		}
	}
}

type rude struct{}

func (rude) String() string { panic("even this") }

func TestPanic(t *testing.T) {
	var none map[string]int
	for name, p := range map[string]struct {
		do    func()
		value string
	}{
		"text":    {func() { panic("ouch") }, "ouch"},
		"error":   {func() { panic(errors.New("an error")) }, "an error"},
		"runtime": {func() { none["x"] = 1 }, "nil map"},
		"nil":     {func() { panic(nil) }, "nil"}, //nolint:govet // a handler may
		"rude":    {func() { panic(rude{}) }, "PANIC"},
	} {
		t.Run(name, func(t *testing.T) {
			var s extverdict.Slot
			if err := s.Set("bad", func(context.Context, *conn.Snapshot) extverdict.Result {
				p.do()
				return extverdict.Result{Verdict: verdict.Accept, SkipTunnel: true}
			}); err != nil {
				t.Fatal(err)
			}
			c, _ := s.Load()
			r, err := c.Do(t.Context(), &conn.Snapshot{})
			if r.Verdict != verdict.Failed || r.SkipTunnel || !strings.Contains(r.Reason, "bad") {
				t.Errorf("got %+v; want Failed", r)
			}
			var pe *extverdict.PanicError
			if !errors.As(err, &pe) || pe.Handler != "bad" || !strings.Contains(pe.Value, p.value) || !strings.Contains(pe.Place, "extverdict_test.go:") {
				t.Fatalf("got %v; want %q of the handler in this file", err, p.value)
			}
			for _, part := range []string{`"bad"`, pe.Value, pe.Place} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("got %q; want %q in it", err, part)
				}
			}
		})
	}
}

func TestAllocs(t *testing.T) {
	var s, empty extverdict.Slot
	if err := s.Set("test", answering(extverdict.Result{Verdict: verdict.Accept, Reason: "fine"})); err != nil {
		t.Fatal(err)
	}
	state, ctx := &conn.Snapshot{}, t.Context()
	if n := testing.AllocsPerRun(1000, func() {
		if _, ok := empty.Load(); ok {
			t.Error("an empty slot has a handler")
		}
		c, _ := s.Load()
		if r, err := c.Do(ctx, state); r.Verdict != verdict.Accept || err != nil {
			t.Error(r, err)
		}
	}); n != 0 {
		t.Errorf("got %v allocations; want 0", n)
	}
}

func BenchmarkLoad(b *testing.B) {
	var s extverdict.Slot
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s.Load()
		}
	})
}

func BenchmarkDo(b *testing.B) {
	var s extverdict.Slot
	if err := s.Set("bench", answering(extverdict.Result{Verdict: verdict.Accept})); err != nil {
		b.Fatal(err)
	}
	state, ctx := &conn.Snapshot{}, b.Context()
	b.ReportAllocs()
	for b.Loop() {
		c, _ := s.Load()
		if _, err := c.Do(ctx, state); err != nil {
			b.Fatal(err)
		}
	}
}
