package rules_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/weirfw/weir/pkg/rules"
)

// compare checks a Set against its slow twin for n random connections.
func compare(t *testing.T, w *world, cfg rules.Config, n int) {
	t.Helper()
	var names rules.Interfaces
	names.Store(worldInterfaces())
	set := compile(t, cfg, rules.WithInterfaces(&names), withWorldLists(t))
	twin := &reference{cfg, worldInterfaces()}
	for range n {
		s := w.snapshot()
		want := twin.decide(s)
		got := set.Decide(s)
		if outcomeOf(got) != want {
			for _, step := range set.Explain(s) {
				t.Log(step)
			}
			t.Fatalf("connection %+v\nprocess %+v\ngot  %+v\nwant %+v", *s, s.Process, outcomeOf(got), want)
		}
		if got.Layer == rules.LayerApp || len(cfg.Global) < 100 {
			steps := set.Explain(s)
			last := steps[len(steps)-1]
			if last.Rule != want.Rule || last.Layer != want.Layer || last.Result != rules.Decided || last.Why == "" {
				t.Fatalf("explain ends with %v; want %+v", last, want)
			}
		}
	}
}

func TestDifferential(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name                 string
		share                float64
		apps, perApp, global int
		sets, connections    int
	}{
		{"short lists", 0.3, 3, 4, 6, 1500, 20},
		{"blocks", 0.5, 4, 20, 60, 200, 60},
		{"sparse blocks", 0.9, 4, 40, 150, 50, 60},
		{"several blocks", 1, 2, 10, 2*4096 + 100, 2, 60},
		{"long profiles", 0.9, 3, 4200, 20, 2, 40},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			w := &world{Rand: rand.New(rand.NewPCG(seed, 1)), share: tt.share}
			for range tt.sets {
				w.ids = 0
				compare(t, w, w.config(w.IntN(tt.apps+1), w.IntN(tt.perApp+1), tt.global/2+w.IntN(tt.global/2+1)), tt.connections)
			}
		})
	}
}

// TestGlobDifferential has random patterns and paths of few letters, so that
// many of them nearly match.
func TestGlobDifferential(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := &world{Rand: rand.New(rand.NewPCG(seed, 3))}
	random := func(n int, of ...string) string {
		out := "/"
		for range w.IntN(n) {
			out += pick(w, of...)
		}
		return out
	}
	for range 3000 {
		glob := random(9, "a", "b", "/", "*", "*a", "*/", "**a", "/**/", "/**", "?", "[ab]", "[!a]")
		set, err := rules.Compile(rules.Config{Global: []rules.Rule{{ID: "r", App: rules.AppMatch{Path: glob}, Action: rules.Allow}}})
		if err != nil {
			continue // such as three stars in a row, or a slash at the end
		}
		for range 50 {
			s := exampleConnection("192.0.2.1:1")
			s.Process.Path = random(12, "a", "b", "/", "ab/", "a")
			if got, want := set.Decide(s).Rule != nil, refGlob(glob, s.Process.Path, true); got != want {
				t.Fatalf("%s on %s: got %v; want %v", glob, s.Process.Path, got, want)
			}
		}
	}
}

// FuzzDecide lets the fuzzer choose the sizes and the random numbers.
func FuzzDecide(f *testing.F) {
	for i := range 4 {
		f.Add(uint64(i), uint8(i), uint8(3*i), uint8(10*i), uint8(60*i))
	}
	f.Fuzz(func(t *testing.T, seed uint64, apps, perApp, global, share uint8) {
		w := &world{Rand: rand.New(rand.NewPCG(seed, 2)), share: float64(share) / 255}
		compare(t, w, w.config(int(apps%6), int(perApp%32), int(global)), 20)
	})
}

// TestLateMatch has the only rule that matches at each end of each block.
func TestLateMatch(t *testing.T) {
	t.Parallel()
	const n = 2*4096 + 5
	for _, at := range []int{0, 63, 64, 4095, 4096, 8191, 8192, n - 1} {
		cfg := rules.Config{Global: make([]rules.Rule, n)}
		for i := range cfg.Global {
			cfg.Global[i] = rules.Rule{ID: fmt.Sprint("r", i), Remote: []string{"198.51.100.0/24"}, Action: rules.Block}
		}
		cfg.Global[at].Remote = []string{"192.0.2.1"}
		set := compile(t, cfg)
		wantRule(t, set.Decide(exampleConnection("192.0.2.1:443")), fmt.Sprint("r", at))
		first := "r0"
		if at == 0 {
			first = "r1"
		}
		wantRule(t, set.Decide(exampleConnection("198.51.100.7:1")), first)
	}
}
