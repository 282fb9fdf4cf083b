package rules_test

import (
	"testing"

	"github.com/weirfw/weir/pkg/rules"
)

func compile(t testing.TB, cfg rules.Config, opts ...rules.Option) *rules.Set {
	t.Helper()
	set, err := rules.Compile(cfg, opts...)
	if err != nil {
		t.Fatalf("Compile: %v", err)
	}
	return set
}

// wantRule checks which rule decided; "" is a default.
func wantRule(t testing.TB, o rules.Outcome, id string) {
	t.Helper()
	got := ""
	if o.Rule != nil {
		got = o.Rule.ID
	}
	if got != id {
		t.Errorf("decided by rule %q (%v, %v); want %q", got, o.Layer, o.Decision, id)
	}
}
