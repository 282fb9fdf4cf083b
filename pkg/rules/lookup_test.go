package rules_test

import (
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

func TestRefusedName(t *testing.T) {
	block := func(id string, remote ...string) rules.Rule {
		return rules.Rule{ID: id, Action: rules.Block, Remote: remote}
	}
	allow := func(id string, remote ...string) rules.Rule {
		return rules.Rule{ID: id, Action: rules.Allow, Remote: remote}
	}
	with := func(r rules.Rule, change func(*rules.Rule)) rules.Rule { change(&r); return r }
	curl := []rules.AppMatch{{Path: "/usr/bin/curl"}}
	for name, tt := range map[string]struct {
		global, app []rules.Rule
		out         rules.Action
		domain      string
		cnames      []string
		early, late string // the rule that refuses, before and after the answer is known
	}{
		"by its name":             {global: []rules.Rule{block("a", ".example.test")}, domain: "www.example.test", early: "a", late: "a"},
		"another name":            {global: []rules.Rule{block("a", ".example.test")}, domain: "example.org"},
		"by an alias":             {global: []rules.Rule{block("a", ".example.test")}, domain: "b.test", cnames: []string{"c.test", "x.example.test"}, early: "a", late: "a"},
		"by drop":                 {global: []rules.Rule{{ID: "a", Action: rules.Drop, Remote: []string{"b.test"}}}, domain: "b.test", early: "a", late: "a"},
		"by everything":           {global: []rules.Rule{block("a")}, domain: "b.test", early: "a", late: "a"},
		"not by a default":        {out: rules.Block, global: []rules.Rule{allow("a", "10.0.0.0/8")}, domain: "b.test"},
		"not by an address":       {global: []rules.Rule{block("a", "10.0.0.0/8", "lan", "unknown")}, domain: "b.test"},
		"not by a port":           {global: []rules.Rule{with(block("a", "b.test"), func(r *rules.Rule) { r.RemotePorts = "80" })}, domain: "b.test"},
		"not by a protocol":       {global: []rules.Rule{with(block("a", "b.test"), func(r *rules.Rule) { r.Protocols = []packet.Protocol{packet.UDP} })}, domain: "b.test"},
		"not inbound":             {global: []rules.Rule{with(block("a", "b.test"), func(r *rules.Rule) { r.Direction = rules.In })}, domain: "b.test"},
		"not after an address":    {global: []rules.Rule{allow("a", "10.0.0.0/8"), block("b", "b.test")}, domain: "b.test"},
		"not after a scope":       {global: []rules.Rule{allow("a", "lan"), block("b", "b.test")}, domain: "b.test"},
		"not after a port":        {global: []rules.Rule{with(allow("a"), func(r *rules.Rule) { r.RemotePorts = "443" }), block("b")}, domain: "b.test"},
		"not after a question":    {global: []rules.Rule{{ID: "a", Action: rules.Ask}, block("b", "b.test")}, domain: "b.test"},
		"after an inbound one":    {global: []rules.Rule{with(allow("a"), func(r *rules.Rule) { r.Direction = rules.In }), block("b")}, domain: "b.test", early: "b", late: "b"},
		"after another app's":     {global: []rules.Rule{with(allow("a"), func(r *rules.Rule) { r.App = rules.AppMatch{Path: "/other"} }), block("b")}, domain: "b.test", early: "b", late: "b"},
		"after another domain":    {global: []rules.Rule{allow("a", ".c.test"), block("b", "b.test")}, domain: "b.test", late: "b"},
		"but for an alias":        {global: []rules.Rule{allow("a", ".c.test"), block("b", "b.test")}, domain: "b.test", cnames: []string{"x.c.test"}},
		"by the app":              {app: []rules.Rule{block("a", "b.test")}, global: []rules.Rule{allow("g")}, domain: "b.test", early: "a", late: "a"},
		"not if the app may":      {app: []rules.Rule{allow("a", "10.0.0.0/8")}, global: []rules.Rule{block("g", "b.test")}, domain: "b.test"},
		"if the app says nothing": {app: []rules.Rule{block("a", "10.0.0.0/8")}, global: []rules.Rule{block("g", "b.test")}, domain: "b.test", early: "g", late: "g"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := rules.Config{Global: tt.global, Default: rules.Defaults{Out: tt.out}}
			if tt.app != nil {
				cfg.Apps = []rules.AppProfile{{ID: "curl", Match: curl, Rules: tt.app}}
			}
			set, err := rules.Compile(cfg)
			if err != nil {
				t.Fatal(err)
			}
			s := &conn.Snapshot{Domain: tt.domain, CNAMEs: tt.cnames, Process: &conn.Process{PID: 7, Path: "/usr/bin/curl"}}
			for answered, want := range map[bool]string{false: tt.early, true: tt.late} {
				o, refused := set.RefusedName(s, answered)
				if refused != (want != "") || refused && o.Rule.ID != want {
					t.Errorf("answered %v: got %v, %+v; want rule %q", answered, refused, o.Rule, want)
				}
				if refused && (o.Decision.Verdict.Allows() || o.Decision.Reason.Rule != want) {
					t.Errorf("answered %v: got %+v; want a refusal with its reason", answered, o.Decision)
				}
			}
			for _, r := range set.Rules() {
				if r.Hits() != 0 {
					t.Errorf("rule %s was counted", r.ID)
				}
			}
		})
	}
	if _, refused := (*rules.Set)(nil).RefusedName(&conn.Snapshot{Domain: "a.test"}, true); refused {
		t.Error("no rules refuse a name")
	}
}

// Where aliases do not count, no other domain can turn out to be meant.
func TestRefusedNameWithoutAliases(t *testing.T) {
	set, err := rules.Compile(rules.Config{Global: []rules.Rule{
		{ID: "a", Action: rules.Allow, Remote: []string{".c.test"}}, {ID: "b", Action: rules.Block, Remote: []string{"b.test"}},
	}}, rules.IgnoreCNAMEs())
	if err != nil {
		t.Fatal(err)
	}
	if o, refused := set.RefusedName(&conn.Snapshot{Domain: "b.test"}, false); !refused || o.Rule.ID != "b" {
		t.Errorf("got %v, %+v; want rule b", refused, o.Rule)
	}
}
