package rules_test

import (
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/rules"
)

// A quoted path matches itself and nothing else.
func TestQuote(t *testing.T) {
	for path, others := range map[string][]string{
		"/usr/bin/a":   {"/usr/bin/b"},
		"/tmp/[ab]*?]": {"/tmp/a", "/tmp/[ab]xy]", "/tmp/axy]"},
	} {
		set, err := rules.Compile(rules.Config{Global: []rules.Rule{{ID: "r", App: rules.AppMatch{Path: rules.Quote(path)}, Action: rules.Drop}}})
		if err != nil {
			t.Errorf("%q: %v", path, err)
			continue
		}
		matches := func(p string) bool {
			return set.Evaluate(&conn.Snapshot{Process: &conn.Process{PID: 1, Path: p}}).Rule != nil
		}
		if !matches(path) {
			t.Errorf("%q does not match itself", path)
		}
		for _, other := range others {
			if matches(other) {
				t.Errorf("%q matches %q", path, other)
			}
		}
	}
}
