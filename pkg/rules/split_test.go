package rules_test

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

// splitCase is a global Split and that of the app /one, and what they lead to
// for a connection to 192.0.2.1:443 by TCP.
type splitCase struct {
	name        string
	global, app rules.Split
	use         bool
	iface, why  string
}

func toNet(net string) []rules.SplitRule { return []rules.SplitRule{{Remote: []string{net}}} }

const (
	hit  = "192.0.2.0/24"
	miss = "198.51.100.0/24"
)

func splitInheritance() []splitCase {
	on, off := new(true), new(false)
	const useApp, useGlobal = "split.use of profile one is ", "split.use is "
	return []splitCase{
		{"nothing", rules.Split{}, rules.Split{}, false, "", "nothing turns the split tunnel on"},
		{"lists alone", rules.Split{Include: toNet(hit)}, rules.Split{Include: toNet(hit)}, false, "", "nothing turns the split tunnel on"},
		{"interfaces alone", rules.Split{Interface: new("eth0")}, rules.Split{Interface: new("eth1")}, false, "", "nothing turns the split tunnel on"},
		{"global", rules.Split{Use: on}, rules.Split{}, true, "", useGlobal + "true"},
		{"global off", rules.Split{Use: off}, rules.Split{}, false, "", useGlobal + "false"},
		{"app", rules.Split{}, rules.Split{Use: on}, true, "", useApp + "true"},
		{"app on, global off", rules.Split{Use: off}, rules.Split{Use: on}, true, "", useApp + "true"},
		{"app off, global on", rules.Split{Use: on, Interface: new("eth0")}, rules.Split{Use: off}, false, "", useApp + "false"},
		{"global interface", rules.Split{Use: on, Interface: new("eth0")}, rules.Split{}, true, "eth0", useGlobal + "true"},
		{"inherited interface", rules.Split{Interface: new("eth0")}, rules.Split{Use: on}, true, "eth0", useApp + "true"},
		{"own interface", rules.Split{Use: on, Interface: new("eth0")}, rules.Split{Interface: new("eth1")}, true, "eth1", useGlobal + "true"},
		{"back to the default", rules.Split{Use: on, Interface: new("eth0")}, rules.Split{Interface: new("")}, true, "", useGlobal + "true"},
	}
}

func splitPrecedence() []splitCase {
	on := new(true)
	both := []rules.SplitRule{{Remote: []string{miss}}, {ID: "web", Comment: "the web", Protocols: []packet.Protocol{packet.TCP}, RemotePorts: "80,443"}}
	wrong := []rules.SplitRule{{Remote: []string{hit}, RemotePorts: "80"}, {Protocols: []packet.Protocol{packet.UDP}, RemotePorts: "443"}}
	return []splitCase{
		{"global include", rules.Split{Use: on, Include: toNet(hit)}, rules.Split{}, true, "", "split.include[0] matches"},
		{"not in global include", rules.Split{Use: on, Include: toNet(miss)}, rules.Split{}, false, "", "no entry of split.include matches"},
		{"second entry", rules.Split{Use: on, Include: both}, rules.Split{}, true, "", "split.include[1] (web) matches: the web"},
		{"half of an entry", rules.Split{Use: on, Include: wrong}, rules.Split{}, false, "", "no entry of split.include matches"},
		{"app's include", rules.Split{Use: on}, rules.Split{Include: both}, true, "", "split.include[1] of profile one (web) matches: the web"},
		{"app's include replaces, in", rules.Split{Use: on, Include: toNet(miss)}, rules.Split{Include: toNet(hit)}, true, "", "split.include[0] of profile one matches"},
		{"app's include replaces, out", rules.Split{Use: on, Include: toNet(hit)}, rules.Split{Include: toNet(miss)}, false, "", "no entry of split.include of profile one matches"},
		{"an empty list is none", rules.Split{Use: on, Include: toNet(miss)}, rules.Split{Include: []rules.SplitRule{}}, false, "", "no entry of split.include matches"},
		{"everything again", rules.Split{Use: on, Include: toNet(miss)}, rules.Split{Include: []rules.SplitRule{{Remote: []string{"0.0.0.0/0", "::/0"}}}}, true, "", "split.include[0] of profile one matches"},
		{"global exclude", rules.Split{Use: on, Exclude: toNet(hit)}, rules.Split{}, false, "", "split.exclude[0] matches"},
		{"app's exclude", rules.Split{Use: on}, rules.Split{Exclude: both}, false, "", "split.exclude[1] of profile one (web) matches: the web"},
		{"app's exclude adds", rules.Split{Use: on, Exclude: toNet(hit)}, rules.Split{Exclude: toNet(miss)}, false, "", "split.exclude[0] matches"},
		{"app's exclude first", rules.Split{Use: on, Exclude: toNet(hit)}, rules.Split{Exclude: toNet(hit)}, false, "", "split.exclude[0] of profile one matches"},
		{"no exclude matches", rules.Split{Use: on, Exclude: toNet(miss)}, rules.Split{Exclude: wrong}, true, "", "split.use is true"},
		{"exclude before include", rules.Split{Use: on, Include: toNet(hit), Exclude: toNet(hit)}, rules.Split{}, false, "", "split.exclude[0] matches"},
		{"global exclude before app's include", rules.Split{Exclude: toNet(hit)}, rules.Split{Use: on, Include: toNet(hit)}, false, "", "split.exclude[0] matches"},
		{"domain", rules.Split{Use: on, Include: []rules.SplitRule{{Remote: []string{"*.example.org"}}}}, rules.Split{}, true, "", "split.include[0] matches"},
		{"scope", rules.Split{Use: on, Exclude: []rules.SplitRule{{Remote: []string{"lan"}}}, Include: []rules.SplitRule{{Remote: []string{"global"}}}}, rules.Split{}, true, "", "split.include[0] matches"},
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	for _, tt := range slices.Concat(splitInheritance(), splitPrecedence()) {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			set := compile(t, rules.Config{Split: tt.global, Apps: []rules.AppProfile{
				{ID: "one", Match: []rules.AppMatch{{Path: "/one"}}, Split: tt.app},
				{ID: "two", Match: []rules.AppMatch{{Path: "/two"}}},
			}})
			s := exampleConnection("192.0.2.1:443")
			s.Domain, s.Process = "www.example.org", process("/one")
			want := rules.SplitOutcome{Use: tt.use, Interface: tt.iface, Profile: "one", Why: tt.why}
			if got := set.Split(s); got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			// who has no profile, or one that says nothing, goes by the global part
			s.Process = nil
			nobody := set.Split(s)
			s.Process = process("/two")
			two := set.Split(s)
			if nobody.Profile != "" || two.Profile != "two" {
				t.Errorf("profiles are %q and %q; want none and two", nobody.Profile, two.Profile)
			}
			if nobody.Profile = "two"; nobody != two {
				t.Errorf("no profile: %+v\nempty profile: %+v", nobody, two)
			}
			s.Direction = packet.Inbound
			if got, want := set.Split(s), (rules.SplitOutcome{Profile: "two", Why: "the connection is inbound"}); got != want {
				t.Errorf("inbound: got %+v; want %+v", got, want)
			}
		})
	}
}

func TestSplitNeedsDomain(t *testing.T) {
	t.Parallel()
	named := []rules.SplitRule{{Remote: []string{"*.example.org"}, RemotePorts: "443"}}
	either := []rules.SplitRule{{Remote: []string{"*.example.org", hit}}}
	const unsure = "no entry of split.include matches as long as the domain is not known"
	tests := []struct {
		name       string
		split      rules.Split
		change     func(*conn.Snapshot)
		use, needs bool
		why        string
	}{
		{"include", rules.Split{Include: named}, nil, false, true, unsure},
		{"exclude", rules.Split{Exclude: named}, nil, true, true, "split.use is true"},
		{"both", rules.Split{Include: named, Exclude: named}, nil, false, true, unsure},
		{"excluded for sure", rules.Split{Include: named, Exclude: append(slices.Clone(named), toNet(hit)...)}, nil, false, false, "split.exclude[1] matches"},
		{"not included for sure", rules.Split{Include: toNet(miss), Exclude: named}, nil, false, false, "no entry of split.include matches"},
		{"included for sure", rules.Split{Include: append(slices.Clone(named), toNet(hit)...)}, nil, true, false, "split.include[1] matches"},
		{"the address says it", rules.Split{Include: either}, nil, true, false, "split.include[0] matches"},
		{"other port", rules.Split{Include: named, Exclude: named}, func(s *conn.Snapshot) {
			s.Tuple.Remote = netip.MustParseAddrPort("192.0.2.1:80")
		}, false, false, "no entry of split.include matches"},
		{"known", rules.Split{Exclude: named}, func(s *conn.Snapshot) { s.Domain = "example.com" }, true, false, "split.use is true"},
		{"alias", rules.Split{Exclude: named}, func(s *conn.Snapshot) { s.CNAMEs = []string{"a.example.org."} }, false, false, "split.exclude[0] matches"},
		{"off", rules.Split{Use: new(false), Include: named}, nil, false, false, "split.use is false"},
		{"inbound", rules.Split{Include: named}, func(s *conn.Snapshot) { s.Direction = packet.Inbound }, false, false, "the connection is inbound"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := exampleConnection("192.0.2.1:443")
			s.Domain = ""
			if tt.change != nil {
				tt.change(s)
			}
			if tt.split.Use == nil {
				tt.split.Use = new(true)
			}
			want := rules.SplitOutcome{Use: tt.use, NeedsDomain: tt.needs, Why: tt.why}
			if got := compile(t, rules.Config{Split: tt.split}).Split(s); got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestSplitInterfaces(t *testing.T) {
	t.Parallel()
	on, off := new(true), new(false)
	app := func(id string, s rules.Split) rules.AppProfile {
		return rules.AppProfile{ID: id, Match: []rules.AppMatch{{Path: "/" + id}}, Split: s}
	}
	tests := []struct {
		name string
		cfg  rules.Config
		want []string
	}{
		{"none", rules.Config{}, nil},
		{"off", rules.Config{Split: rules.Split{Use: off, Interface: new("eth0")}}, nil},
		{"global", rules.Config{Split: rules.Split{Use: on}}, []string{""}},
		{"one app", rules.Config{Split: rules.Split{Interface: new("eth0")}, Apps: []rules.AppProfile{
			app("a", rules.Split{Interface: new("eth9")}), app("b", rules.Split{Use: on}), app("c", rules.Split{Use: off, Interface: new("eth8")}),
		}}, []string{"eth0"}},
		{"many", rules.Config{Split: rules.Split{Use: on, Interface: new("eth1")}, Apps: []rules.AppProfile{
			app("a", rules.Split{Interface: new("eth0")}), app("b", rules.Split{Interface: new("")}), app("c", rules.Split{Interface: new("eth0")}),
			app("d", rules.Split{}), app("e", rules.Split{Use: off, Interface: new("eth2")}),
		}}, []string{"", "eth0", "eth1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			set := compile(t, tt.cfg)
			got := set.SplitInterfaces()
			if !slices.Equal(got, tt.want) || set.SplitOn() != (len(tt.want) != 0) {
				t.Errorf("got %q, on %v; want %q", got, set.SplitOn(), tt.want)
			}
			if len(got) != 0 {
				got[0] = "changed"
				if !slices.Equal(set.SplitInterfaces(), tt.want) {
					t.Error("the set can be changed from outside")
				}
			}
		})
	}
}

func TestSplitWithoutSet(t *testing.T) {
	t.Parallel()
	var live rules.Live
	s := exampleConnection("192.0.2.1:443")
	if got, want := live.Split(s), (rules.SplitOutcome{Why: "there are no rules"}); got != want {
		t.Errorf("got %+v; want %+v", got, want)
	}
	set := live.Load()
	if set.SplitOn() || set.SplitInterfaces() != nil {
		t.Error("a nil set splits something")
	}
	if steps := set.ExplainSplit(s); len(steps) != 1 || steps[0].Use || steps[0].Result != rules.Decided {
		t.Errorf("got %v", steps)
	}
}

// TestSplitLive swaps sets under readers; it is for the race detector too.
func TestSplitLive(t *testing.T) {
	t.Parallel()
	cfg := func(iface string) rules.Config {
		c := exampleConfig()
		c.Apps[0].Split = rules.Split{Use: new(true), Interface: new(iface), Exclude: toNet(miss)}
		for range 20 {
			c.Apps[0].Split.Include = append(c.Apps[0].Split.Include, rules.SplitRule{Remote: []string{".example.org"}}, rules.SplitRule{RemotePorts: "1"})
		}
		return c
	}
	var live rules.Live
	live.Swap(compile(t, cfg("eth0")))
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				s := exampleConnection("192.0.2.1:443")
				s.Process.PID = 1 + i%100 + g
				if o := live.Split(s); !o.Use || o.Interface != "eth0" && o.Interface != "eth1" {
					t.Errorf("got %+v", o)
					return
				}
			}
		})
	}
	for i := range 50 {
		live.Swap(compile(t, cfg([]string{"eth0", "eth1"}[i%2]), rules.WithPrevious(live.Load())))
	}
	wg.Wait()
	if o := live.Split(exampleConnection("192.0.2.1:443")); o.Interface != "eth1" {
		t.Errorf("got %+v; want the interface of the last set", o)
	}
	off := cfg("eth1")
	off.Apps[0].Split.Use = new(false)
	if old := live.Swap(compile(t, off)); !old.SplitOn() || live.Split(exampleConnection("192.0.2.1:443")).Use {
		t.Error("the split tunnel is still on")
	}
}

func TestExplainSplit(t *testing.T) {
	t.Parallel()
	cfg := exampleConfig()
	cfg.Split = rules.Split{Interface: new("eth0"), Exclude: []rules.SplitRule{{Remote: []string{"lan"}}, {Remote: []string{"*.bank.example"}}}}
	cfg.Apps[0].Split = rules.Split{
		Use:     new(true),
		Exclude: []rules.SplitRule{{ID: "dns", RemotePorts: "53"}},
		Include: []rules.SplitRule{{Protocols: []packet.Protocol{packet.UDP}}, {ID: "web", Remote: []string{"global"}, RemotePorts: "443"}},
	}
	set := compile(t, cfg)
	const head = "app curl exclude[0] dns (no split): no match: remote port is %, not in 53\n"
	tests := []struct {
		name, remote string
		change       func(*conn.Snapshot)
		want         string
	}{
		{"split", "192.0.2.1:443", nil, strings.Replace(head, "%", "443", 1) +
			`global exclude[0] (no split): no match: remote is 192.0.2.1 (global), not in lan
global exclude[1] (no split): maybe: the domain is not known; the rule is for *.bank.example
app curl include[0] (split): no match: protocol is tcp, not udp
app curl include[1] web (split): decided: protocol is tcp; remote port 443 is in 443; remote 192.0.2.1 (global) is in global; it leaves by "eth0", as the global part says`},
		{"excluded", "192.168.1.1:443", nil, strings.Replace(head, "%", "443", 1) +
			`global exclude[0] (no split): decided: remote 192.168.1.1 (site) is in lan`},
		{"not included", "192.0.2.1:80", func(s *conn.Snapshot) { s.Domain = "example.com" }, strings.Replace(head, "%", "80", 1) +
			`global exclude[0] (no split): no match: remote is 192.0.2.1 (global) example.com, not in lan
global exclude[1] (no split): no match: remote is 192.0.2.1 (global) example.com, not in *.bank.example
app curl include[0] (split): no match: protocol is tcp, not udp
app curl include[1] web (split): no match: remote port is 80, not in 443
app curl (no split): decided: no entry of split.include of profile curl matches`},
		{"off", "192.0.2.1:80", func(s *conn.Snapshot) { s.Process = nil }, "default (no split): decided: nothing turns the split tunnel on"},
		{"inbound", "192.0.2.1:80", func(s *conn.Snapshot) { s.Direction = packet.Inbound }, "default (no split): decided: the connection is inbound"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := exampleConnection(tt.remote)
			if s.Domain = ""; tt.change != nil {
				tt.change(s)
			}
			var got []string
			for _, step := range set.ExplainSplit(s) {
				got = append(got, step.String())
			}
			if text := strings.Join(got, "\n"); text != tt.want {
				t.Errorf("got\n%s\nwant\n%s", text, tt.want)
			}
		})
	}
	b, err := json.Marshal(set.ExplainSplit(exampleConnection("192.0.2.1:53"))[0])
	if want := `{"layer":"app","profile":"curl","entry":"exclude[0]","id":"dns","use":false,"result":"decided","why":"protocol is tcp; remote port 53 is in 53"}`; err != nil || string(b) != want {
		t.Errorf("got %s, %v; want %s", b, err, want)
	}
}

// TestExplainSplitInterface has who named the interface.
func TestExplainSplitInterface(t *testing.T) {
	t.Parallel()
	for want, parts := range map[string][2]rules.Split{
		"it leaves by the best physical default, as no interface is named":         {{}, {}},
		"it leaves by the best physical default, as the profile says":              {{Interface: new("eth0")}, {Interface: new("")}},
		"it leaves by the best physical default, as the global part says":          {{Interface: new("")}, {}},
		`split.use of profile curl is true; it leaves by "3", as the profile says`: {{}, {Interface: new("3")}},
	} {
		cfg := exampleConfig()
		cfg.Split, cfg.Apps[0].Split = parts[0], parts[1]
		cfg.Apps[0].Split.Use = new(true)
		steps := compile(t, cfg).ExplainSplit(exampleConnection("192.0.2.1:443"))
		if len(steps) != 1 || !steps[0].Use || steps[0].Profile != "curl" || !strings.HasSuffix(steps[0].Why, want) {
			t.Errorf("got %v; want %s", steps, want)
		}
	}
}
