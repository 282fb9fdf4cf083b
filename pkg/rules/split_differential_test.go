package rules_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/weirfw/weir/pkg/rules"
)

// addSplit adds split parts with lists of up to n entries to a configuration.
func (w *world) addSplit(cfg rules.Config, n int) rules.Config {
	cfg.Split = w.splitPart(n)
	for i := range cfg.Apps {
		if w.IntN(3) != 0 {
			cfg.Apps[i].Split = w.splitPart(n)
		}
	}
	return cfg
}

// compareSplit checks a Set against its slow twin for n random connections, and
// that what Decide says has nothing to do with it.
func compareSplit(t *testing.T, w *world, cfg rules.Config, n int) {
	t.Helper()
	var names rules.Interfaces
	names.Store(worldInterfaces())
	set := compile(t, cfg, rules.WithInterfaces(&names), withWorldLists(t))
	twin := &reference{cfg, worldInterfaces()}
	bare := cfg
	bare.Split = rules.Split{}
	bare.Apps = slices.Clone(cfg.Apps)
	for i := range bare.Apps {
		bare.Apps[i].Split = rules.Split{}
	}
	without := compile(t, bare, rules.WithInterfaces(&names), withWorldLists(t))
	for range n {
		s := w.snapshot()
		want, got := twin.split(s), set.Split(s)
		why := got.Why
		got.Why = ""
		steps := set.ExplainSplit(s)
		if got != want || why == "" {
			for _, step := range steps {
				t.Log(step)
			}
			t.Fatalf("connection %+v\nprocess %+v\ngot  %+v %q\nwant %+v", *s, s.Process, got, why, want)
		}
		last := steps[len(steps)-1]
		if last.Use != got.Use || last.Result != rules.Decided || last.Why == "" {
			t.Fatalf("explain ends with %v; want %+v", last, want)
		}
		if got.Use && !slices.Contains(set.SplitInterfaces(), got.Interface) || got.Use && !set.SplitOn() {
			t.Fatalf("%q is not among %q", got.Interface, set.SplitInterfaces())
		}
		if a, b := outcomeOf(set.Evaluate(s)), outcomeOf(without.Evaluate(s)); a != b {
			t.Fatalf("decides %+v with split parts, %+v without", a, b)
		}
	}
}

func TestSplitDifferential(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name              string
		share             float64
		apps, entries     int
		sets, connections int
	}{
		{"short lists", 0.4, 4, 4, 1500, 20},
		{"blocks", 0.7, 4, 60, 150, 60},
		{"sparse blocks", 1, 3, 300, 30, 60},
		{"several blocks", 1, 1, 2*4096 + 100, 2, 60},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			w := &world{Rand: rand.New(rand.NewPCG(seed, 4)), share: tt.share}
			for range tt.sets {
				w.ids = 0
				compareSplit(t, w, w.addSplit(w.config(w.IntN(tt.apps+1), 3, 12), tt.entries), tt.connections)
			}
		})
	}
}

// FuzzSplit lets the fuzzer choose the sizes and the random numbers.
func FuzzSplit(f *testing.F) {
	for i := range 4 {
		f.Add(uint64(i), uint8(i), uint8(9*i), uint8(60*i))
	}
	f.Fuzz(func(t *testing.T, seed uint64, apps, entries, share uint8) {
		w := &world{Rand: rand.New(rand.NewPCG(seed, 5)), share: float64(share) / 255}
		compareSplit(t, w, w.addSplit(w.config(int(apps%6), 3, 3), int(entries)), 20)
	})
}
