package rules_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/winerig"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/rules"
)

const benchEntries = 1000

// splitMixes have lists of 1,000 entries each.
func splitMixes() []mix {
	list := func(one func(i int) rules.SplitRule) []rules.SplitRule {
		out := make([]rules.SplitRule, benchEntries)
		for i := range out {
			out[i] = one(i)
		}
		return out
	}
	nets := func() []rules.SplitRule {
		return list(func(i int) rules.SplitRule { return rules.SplitRule{Remote: []string{net24(i)}} })
	}
	domains := func() []rules.SplitRule {
		return list(func(i int) rules.SplitRule {
			return rules.SplitRule{Remote: []string{fmt.Sprintf("*.d%d.example.com", i)}}
		})
	}
	with := func(s rules.Split) func() rules.Config {
		return func() rules.Config { return rules.Config{Split: s} }
	}
	on := new(true)
	far := one(benchConn(curl(), "198.51.100.1", 443))
	last := one(benchConn(curl(), "20.0.3.231", 443)) // in net24(999)
	named, unknown := benchConn(curl(), "198.51.100.1", 443), benchConn(curl(), "198.51.100.1", 443)
	named.Domain, named.CNAMEs = "www.d999.example.com", []string{"a.example.net", "edge.d7.example.com"}
	unknown.Domain = ""
	return []mix{
		{"off", with(rules.Split{Include: nets()}), far},
		{"no-lists", with(rules.Split{Use: on}), far},
		{"include/last", with(rules.Split{Use: on, Include: nets()}), last},
		{"include/none", with(rules.Split{Use: on, Include: nets()}), far},
		{"exclude/last", with(rules.Split{Use: on, Exclude: nets()}), last},
		{"both/none", with(rules.Split{Use: on, Include: nets(), Exclude: nets()}), far},
		{"domains/last", with(rules.Split{Use: on, Include: domains()}), one(named)},
		{"domains/unknown", with(rules.Split{Use: on, Include: domains(), Exclude: domains()}), one(unknown)},
		{"ports/none", with(rules.Split{Use: on, Include: list(func(i int) rules.SplitRule {
			return rules.SplitRule{RemotePorts: fmt.Sprintf("%d-%d", 1000+i, 20000+3*i)}
		})}), far},
		{"app-and-global/none", func() rules.Config {
			return rules.Config{Split: rules.Split{Exclude: nets()}, Apps: []rules.AppProfile{{
				ID: "curl", Match: []rules.AppMatch{{Path: "/usr/bin/curl"}},
				Split: rules.Split{Use: on, Exclude: domains(), Include: slices.Concat(nets()[:benchEntries-1], []rules.SplitRule{{Remote: []string{"198.51.100.0/24"}}})},
			}}}
		}, far},
		{"apps1000", func() rules.Config {
			cfg := rules.Config{Apps: apps(benchEntries, func(int) []rules.Rule { return nil })}
			for i := range cfg.Apps {
				cfg.Apps[i].Split = rules.Split{Use: on, Include: []rules.SplitRule{{Remote: []string{net24(i)}}}}
			}
			return cfg
		}, func() []*conn.Snapshot {
			var out []*conn.Snapshot
			for i := range benchEntries {
				p := &conn.Process{PID: 10 + i, Path: fmt.Sprintf("/opt/app%d/bin/run", i)}
				out = append(out, benchConn(p, "20.0.3.231", 443))
			}
			return out
		}},
	}
}

func BenchmarkSplit(b *testing.B) {
	for _, m := range splitMixes() {
		b.Run(m.name, func(b *testing.B) {
			set, conns := m.compile(b), m.connections()
			for _, s := range conns {
				set.Split(s)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				set.Split(conns[i])
				if i++; i == len(conns) {
					i = 0
				}
			}
		})
	}
}

// TestSplitSpeed holds the promise about allocations, and that the split tunnel
// is not slower than the rules.
func TestSplitSpeed(t *testing.T) {
	for _, m := range splitMixes() {
		t.Run(m.name, func(t *testing.T) {
			var live rules.Live
			live.Swap(m.compile(t))
			conns := m.connections()
			for _, s := range conns {
				live.Split(s)
			}
			i := 0
			split := func() {
				live.Split(conns[i])
				if i++; i == len(conns) {
					i = 0
				}
			}
			if n := testing.AllocsPerRun(2*len(conns), split); n != 0 {
				t.Errorf("got %v allocations; want 0", n)
			}
			if raceEnabled || winerig.UnderWine() {
				return
			}
			took := best(500, maxDecide, func() time.Duration {
				const n = 1000
				start := time.Now()
				for range n {
					split()
				}
				return time.Since(start) / n
			})
			t.Logf("answered in %v", took)
			if took >= maxDecide {
				t.Errorf("an answer took %v; want less than %v", took, maxDecide)
			}
		})
	}
}
