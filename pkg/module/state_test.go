package module_test

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/module"
)

func ids(states []module.State) string {
	var s []string
	for _, st := range states {
		s = append(s, st.Module+"."+st.ID+"="+st.Message)
	}
	return strings.Join(s, " ")
}

func TestStates(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := newUnit(t, module.Config{Name: "m"})
		s := u.States()
		begin := time.Now()
		s.Add(module.State{ID: "a", Name: "A", Message: "1", Severity: module.Error, Data: 7})
		s.Add(module.State{ID: "b", Message: "2", Module: "not mine"})
		equal(t, "m.a=1 m.b=2", ids(s.All()))
		equal(t, module.State{Module: "m", ID: "a", Name: "A", Message: "1", Severity: module.Error, Time: begin, Data: 7}, s.All()[0])
		equal(t, module.Hint, s.All()[1].Severity, "a state is a hint at least")

		time.Sleep(time.Second)
		s.Add(module.State{ID: "a", Message: "3"})
		equal(t, "m.a=3 m.b=2", ids(s.All()), "add replaces by ID")
		isTrue(t, s.All()[0].Time.Equal(begin.Add(time.Second)))
		time.Sleep(time.Second)
		s.Update(module.State{ID: "a", Message: "4"})
		isTrue(t, s.All()[0].Time.Equal(begin.Add(time.Second)), "an update keeps the time")
		s.Remove("a")
		s.Remove("never there")
		equal(t, "m.b=2", ids(s.All()))
		s.Clear()
		s.Clear()
		empty(t, s.All())
	})
}

func TestStatesAreCopies(t *testing.T) {
	s := module.NewStates("m")
	s.Add(module.State{ID: "a", Message: "1"})
	s.All()[0].Message = "spoiled"
	equal(t, "m.a=1", ids(s.All()))
}

// tree returns units a, b and c; b is in a group and c in a switch in that group.
func tree(t *testing.T) (root module.Module, a, b, c *module.Unit) {
	t.Helper()
	a, b, c = newUnit(t, module.Config{Name: "a"}), newUnit(t, module.Config{Name: "b"}), newUnit(t, module.Config{Name: "c"})
	return newGroup(t, "root", a, newGroup(t, "inner", b, newSwitch(t, c, module.Off))), a, b, c
}

func TestGroupReturnsAllStatesAndOneCallbackSeesAll(t *testing.T) {
	root, a, b, c := tree(t)
	c.States().Add(module.State{ID: "early", Message: "1"})
	var got []string
	stopWatch := module.WatchStates(root, func(u module.StateUpdate) {
		got = append(got, u.Module+"["+ids(u.States)+"]"+u.Raised)
	})
	a.States().Add(module.State{ID: "x", Message: "2"})
	b.States().Add(module.State{ID: "y", Message: "3"})
	b.States().Add(module.State{ID: "y", Message: "4"})
	b.States().Update(module.State{ID: "y", Message: "5"})
	b.States().Update(module.State{ID: "z", Message: "6"})
	equal(t, "a.x=2 b.y=5 b.z=6 c.early=1", ids(root.(*module.Group).AllStates()))
	b.States().Remove("y")
	b.States().Remove("y")
	b.States().Clear()
	stopWatch()
	a.States().Clear()
	equal(t, []string{
		"c[c.early=1]", "a[a.x=2]x", "b[b.y=3]y", "b[b.y=4]y", "b[b.y=5]", "b[b.y=5 b.z=6]z", "b[b.z=6]", "b[]",
	}, got)
}

func TestWatcherMayChangeStates(t *testing.T) {
	u := newUnit(t, module.Config{Name: "m"})
	var got []string
	defer module.WatchStates(u, func(up module.StateUpdate) {
		got = append(got, ids(up.States))
		if up.Raised == "a" {
			u.States().Add(module.State{ID: "b"})
		}
	})()
	u.States().Add(module.State{ID: "a"})
	equal(t, []string{"m.a=", "m.a= m.b="}, got)
}

func TestWatcherThatPanicsDoesNotEndWatching(t *testing.T) {
	u := newUnit(t, module.Config{})
	calls := 0
	defer module.WatchStates(u, func(module.StateUpdate) {
		if calls++; calls == 1 {
			panic("watcher")
		}
	})()
	func() {
		defer func() { equal[any](t, "watcher", recover()) }()
		u.States().Add(module.State{ID: "a"})
	}()
	u.States().Clear()
	equal(t, 2, calls)
}

func TestWatchIsOrderedUnderLoad(t *testing.T) {
	root, a, b, c := tree(t)
	last := map[string]int{}
	calls := 0
	stopWatch := module.WatchStates(root, func(u module.StateUpdate) {
		n := u.States[0].Data.(int)
		if n != last[u.Module]+1 {
			t.Errorf("%s: got %d after %d", u.Module, n, last[u.Module])
		}
		last[u.Module] = n
		calls++
	})
	defer stopWatch()
	var wg sync.WaitGroup
	for _, u := range []*module.Unit{a, b, c} {
		wg.Go(func() {
			for i := range 500 {
				u.States().Add(module.State{ID: "n", Data: i + 1})
			}
		})
	}
	wg.Wait()
	equal(t, 1500, calls)
}

func TestWorstStateIsTheExitCode(t *testing.T) {
	st := func(list ...module.Severity) []module.State {
		var states []module.State
		for _, s := range list {
			states = append(states, module.State{Severity: s})
		}
		return states
	}
	for _, tt := range []struct {
		name   string
		states []module.State
		worst  module.Severity
		code   int
	}{
		{"none", nil, module.Fine, 0},
		{"hint", st(module.Hint), module.Hint, 10},
		{"warning", st(module.Hint, module.Warning, module.Hint), module.Warning, 11},
		{"error", st(module.Error, module.Warning), module.Error, 12},
		{"unknown", st(module.Error, 77), 77, 12},
	} {
		t.Run(tt.name, func(t *testing.T) {
			equal(t, tt.worst, module.Worst(tt.states))
			equal(t, tt.code, module.ExitCode(tt.states))
		})
	}
}

func TestStateAsJSON(t *testing.T) {
	in := module.State{Module: "m", ID: "i", Name: "n", Message: "t", Severity: module.Warning, Time: time.Unix(0, 0).UTC()}
	b, err := json.Marshal(in)
	mustNoError(t, err)
	equal(t, `{"module":"m","id":"i","name":"n","message":"t","severity":"warning","time":"1970-01-01T00:00:00Z"}`, string(b))
	var out module.State
	mustNoError(t, json.Unmarshal(b, &out))
	equal(t, in, out)
	var s module.Severity
	if err := s.UnmarshalText([]byte("terrible")); err == nil {
		t.Error("got no error for an unknown severity; want one")
	}
}

func TestStrings(t *testing.T) {
	for want, got := range map[string]interface{ String() string }{
		"fine": module.Fine, "hint": module.Hint, "warning": module.Warning, "error": module.Error, "severity 9": module.Severity(9),
		"stopped": module.Stopped, "starting": module.Starting, "running": module.Running, "stopping": module.Stopping,
		"phase 9": module.Phase(9), "awake": module.Awake, "asleep": module.Asleep, "mode 9": module.Mode(9),
		"off": module.Off, "on": module.On, "position 9": module.Position(9), "shutdown": module.Shutdown,
		"restart": module.Restart, "ending 9": module.Ending(9), "shown": module.Shown, "changed": module.Changed,
		"gone": module.Gone, "dismissed": module.Dismissed, "kind 9": module.NoticeKind(9),
	} {
		equal(t, want, got.String())
	}
}
