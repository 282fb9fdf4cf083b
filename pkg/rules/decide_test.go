package rules_test

import (
	"net/netip"
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

func TestLayers(t *testing.T) {
	t.Parallel()
	cfg := rules.Config{
		Apps: []rules.AppProfile{
			{ID: "one", Match: []rules.AppMatch{{Path: "/one"}}, Default: rules.Defaults{Out: rules.Drop}, Rules: []rules.Rule{
				{ID: "one-22", RemotePorts: "22", Action: rules.Allow},
			}},
			{ID: "all", Match: []rules.AppMatch{{Path: "/**"}}, Rules: []rules.Rule{{ID: "all-22", RemotePorts: "22", Action: rules.Drop}}},
		},
		Global: []rules.Rule{{ID: "g-22", RemotePorts: "22-23", Action: rules.Block}, {ID: "g-24", RemotePorts: "24", Action: rules.Ask, Inspect: true}},
	}
	set := compile(t, cfg)
	tests := []struct {
		name, path, remote, rule, profile string
		layer                             rules.Layer
		verdict                           verdict.Verdict
		code                              verdict.Code
	}{
		{"app", "/one", "192.0.2.1:22", "one-22", "one", rules.LayerApp, verdict.Accept, rules.CodeRuleAllow},
		{"second profile", "/two", "192.0.2.1:22", "all-22", "all", rules.LayerApp, verdict.Drop, rules.CodeRuleDrop},
		{"global before default", "/one", "192.0.2.1:23", "g-22", "one", rules.LayerGlobal, verdict.Block, rules.CodeRuleBlock},
		{"ask", "/one", "192.0.2.1:24", "g-24", "one", rules.LayerGlobal, verdict.Undecided, rules.CodeRuleAsk},
		{"app default", "/one", "192.0.2.1:25", "", "one", rules.LayerDefault, verdict.Drop, rules.CodeAppDefault},
		{"no app default", "/two", "192.0.2.1:25", "", "all", rules.LayerDefault, verdict.Accept, rules.CodeDefaultAllow},
		{"no app", "", "192.0.2.1:22", "g-22", "", rules.LayerGlobal, verdict.Block, rules.CodeRuleBlock},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := exampleConnection(tt.remote)
			s.Process = process(tt.path)
			if tt.path == "" {
				s.Process = nil
			}
			o := set.Decide(s)
			wantRule(t, o, tt.rule)
			if o.Layer != tt.layer || o.Profile != tt.profile || o.Decision.Verdict != tt.verdict ||
				o.Decision.Reason.Code != tt.code || o.Decision.Reason.Rule != tt.rule || o.Decision.Reason.By != rules.By ||
				o.Decision.Reason.Text == "" || o.Decision.Scope != verdict.ScopePacket {
				t.Errorf("got %+v", o)
			}
			if o.Ask != (tt.name == "ask") || o.Inspect != (tt.name == "ask") {
				t.Errorf("got ask %v, inspect %v", o.Ask, o.Inspect)
			}
			if id, ok := set.Profile(s.Process); id != tt.profile || ok != (tt.profile != "") {
				t.Errorf("profile is %q, %v", id, ok)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		d       rules.Defaults
		in, out verdict.Verdict
		codeIn  verdict.Code
		codeOut verdict.Code
	}{
		{"unset", rules.Defaults{}, verdict.Drop, verdict.Accept, rules.CodeDefaultDenyIn, rules.CodeDefaultAllow},
		{"block", rules.Defaults{In: rules.Block, Out: rules.Block}, verdict.Drop, verdict.Block, rules.CodeDefaultDenyIn, rules.CodeDefaultDenyOut},
		{"drop", rules.Defaults{In: rules.Drop, Out: rules.Drop}, verdict.Drop, verdict.Drop, rules.CodeDefaultDenyIn, rules.CodeDefaultDenyOut},
		{"ask", rules.Defaults{In: rules.Ask, Out: rules.Ask}, verdict.Undecided, verdict.Undecided, rules.CodeDefaultAsk, rules.CodeDefaultAsk},
		{"allow", rules.Defaults{In: rules.Allow, Out: rules.Allow}, verdict.Accept, verdict.Accept, rules.CodeDefaultAllow, rules.CodeDefaultAllow},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			set := compile(t, rules.Config{Default: tt.d})
			s := exampleConnection("192.0.2.1:1")
			if d := set.Decide(s).Decision; d.Verdict != tt.out || d.Reason.Code != tt.codeOut {
				t.Errorf("out: got %+v; want %v", d, tt.out)
			}
			s.Direction = packet.Inbound
			if d := set.Decide(s).Decision; d.Verdict != tt.in || d.Reason.Code != tt.codeIn {
				t.Errorf("in: got %+v; want %v", d, tt.in)
			}
		})
	}
}

func TestDefaultForThisHostItself(t *testing.T) {
	t.Parallel()
	app := rules.AppProfile{ID: "one", Match: []rules.AppMatch{{Path: "/one"}}, Default: rules.Defaults{In: rules.Drop}}
	strict := app
	strict.Default.Local = rules.Drop
	tests := []struct {
		name string
		cfg  rules.Config
		want verdict.Verdict
	}{
		{"unset", rules.Config{}, verdict.Accept},
		{"in is for others", rules.Config{Default: rules.Defaults{In: rules.Drop}}, verdict.Accept},
		{"local", rules.Config{Default: rules.Defaults{In: rules.Allow, Local: rules.Block}}, verdict.Drop},
		{"a profile's in is for others", rules.Config{Apps: []rules.AppProfile{app}}, verdict.Accept},
		{"a profile's local", rules.Config{Apps: []rules.AppProfile{strict}}, verdict.Drop},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := exampleConnection("127.0.0.1:1")
			s.Direction, s.Process = packet.Inbound, &conn.Process{PID: 1, Path: "/one"}
			if d := compile(t, tt.cfg).Decide(s).Decision; d.Verdict != tt.want {
				t.Errorf("got %+v; want %v", d, tt.want)
			}
		})
	}
}

func TestAskTimeout(t *testing.T) {
	t.Parallel()
	set := compile(t, rules.Config{Global: []rules.Rule{{ID: "q", Action: rules.Ask}}})
	o := set.Decide(exampleConnection("192.0.2.1:1"))
	if d := rules.AskTimeout(packet.Outbound, o); d.Verdict != verdict.Block || d.Reason.Code != rules.CodeAskTimeout || d.Reason.Rule != "q" {
		t.Errorf("out: got %+v", d)
	}
	if d := rules.AskTimeout(packet.Inbound, o); d.Verdict != verdict.Drop {
		t.Errorf("in: got %+v", d)
	}
}

// TestExplicit has rules that do what they say in both directions.
func TestExplicit(t *testing.T) {
	t.Parallel()
	for action, want := range map[rules.Action]verdict.Verdict{rules.Block: verdict.Block, rules.Drop: verdict.Drop, rules.Allow: verdict.Accept} {
		set := compile(t, rules.Config{Global: []rules.Rule{{ID: "r", Action: action}}})
		for _, d := range []packet.Direction{packet.Inbound, packet.Outbound} {
			s := exampleConnection("192.0.2.1:1")
			s.Direction = d
			if got := set.Decide(s).Decision.Verdict; got != want {
				t.Errorf("%v %v: got %v; want %v", action, d, got, want)
			}
		}
	}
}

func TestNeedsDomain(t *testing.T) {
	t.Parallel()
	domain := func(a rules.Action) rules.Rule {
		return rules.Rule{ID: "d", Remote: []string{"192.0.2.9", "*.example.org"}, RemotePorts: "443", Action: a}
	}
	last := rules.Rule{ID: "last", Action: rules.Allow}
	tests := []struct {
		name   string
		rules  []rules.Rule
		change func(*conn.Snapshot)
		want   bool
	}{
		{"could block", []rules.Rule{domain(rules.Block), last}, nil, true},
		{"same action", []rules.Rule{domain(rules.Allow), last}, nil, false},
		{"after the winner", []rules.Rule{last, domain(rules.Block)}, nil, false},
		{"other port", []rules.Rule{domain(rules.Block), last}, func(s *conn.Snapshot) {
			s.Tuple.Remote = netip.MustParseAddrPort("192.0.2.1:80")
		}, false},
		{"default", []rules.Rule{domain(rules.Block)}, nil, true},
		{"inbound", []rules.Rule{domain(rules.Allow)}, func(s *conn.Snapshot) { s.Direction = packet.Inbound }, false},
		{"known", []rules.Rule{domain(rules.Block), last}, func(s *conn.Snapshot) { s.Domain = "example.com" }, false},
		{"address says it", []rules.Rule{domain(rules.Block), last}, func(s *conn.Snapshot) {
			s.Tuple.Remote = netip.MustParseAddrPort("192.0.2.9:443")
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := exampleConnection("192.0.2.1:443")
			s.Domain = ""
			if tt.change != nil {
				tt.change(s)
			}
			set := compile(t, rules.Config{Global: tt.rules})
			if got := set.Evaluate(s).NeedsDomain; got != tt.want {
				t.Errorf("got %v; want %v", got, tt.want)
			}
		})
	}
}
