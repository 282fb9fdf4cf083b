package rules_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

// bad is a rule with one thing wrong with it.
type bad struct {
	name string
	rule rules.Rule
	// path is relative to the rule; value and msg must be in the error, and
	// hint in its hint.
	path, value, msg, hint string
}

func remoteOf(s string) rules.Rule { return rules.Rule{Remote: []string{"lan", s}} }

func badRemotes() []bad {
	const p = "remote[1]"
	return []bad{
		{"host bits", remoteOf("10.0.0.1/8"), p, "10.0.0.1/8", "host bits", `"10.0.0.0/8"`},
		{"host bits v6", remoteOf("2001:db8::1/32"), p, "", "host bits", `"2001:db8::/32"`},
		{"long prefix", remoteOf("10.0.0.0/33"), p, "10.0.0.0/33", "not a network", "0 to 32"},
		{"no length", remoteOf("10.0.0.0/"), p, "", "not a network", ""},
		{"mask", remoteOf("10.0.0.0/255.0.0.0"), p, "", "not a network", ""},
		{"short address", remoteOf("10.0.0"), p, "10.0.0", "neither an address nor a domain", ""},
		{"large octet", remoteOf("10.0.0.256"), p, "", "neither an address nor a domain", ""},
		{"bad v6", remoteOf("2001:db8::1::2"), p, "", "not an address", ""},
		{"address with port", remoteOf("10.0.0.1:80"), p, "", "not an address", "remote_ports"},
		{"zone", remoteOf("fe80::1%eth0"), p, "", "zone", `"fe80::1"`},
		{"mapped", remoteOf("::ffff:10.0.0.1"), p, "", "IPv4 address written as IPv6", `"10.0.0.1"`},
		{"mapped network", remoteOf("::ffff:10.0.0.0/104"), p, "", "IPv4 address written as IPv6", ""},
		{"mapped range", remoteOf("::1-::ffff:10.0.0.1"), p, "", "IPv4 address written as IPv6", ""},
		{"reversed range", remoteOf("10.0.0.9-10.0.0.1"), p, "", "reversed", `"10.0.0.1-10.0.0.9"`},
		{"half a range", remoteOf("10.0.0.9-"), p, "", "not a range", "192.0.2.1-192.0.2.9"},
		{"range of networks", remoteOf("10.0.0.0/8-11.0.0.0/8"), p, "", "not a network", ""},
		{"mixed range", remoteOf("10.0.0.1-2001:db8::1"), p, "", "family", ""},
		{"scope", remoteOf("wan"), p, "wan", "no such scope", "global"},
		{"scope in capitals", remoteOf("LAN"), p, "LAN", "no such scope", "lan"},
		{"host name", remoteOf("localhost"), p, "", "no such scope", `"localhost."`},
		{"empty", remoteOf(""), p, "", "empty", ""},
		{"white space", remoteOf(" 10.0.0.1"), p, "", "white space", `"10.0.0.1"`},
		{"control", remoteOf("10.0.0.1\x00a"), p, "", "control", ""},
		{"star", remoteOf("*"), p, "", "every name", "leave remote out"},
		{"inner star", remoteOf("a.*.example"), p, "", "star", "*.example.org"},
		{"glued star", remoteOf("*example.org"), p, "", "star", ""},
		{"two stars", remoteOf("*.*.org"), p, "", "star", ""},
		{"empty label", remoteOf("a..example"), p, "", "1 to 63", ""},
		{"long label", remoteOf(strings.Repeat("a", 64) + ".org"), p, "", "1 to 63", ""},
		{"long name", remoteOf(strings.Repeat("abc.", 64) + "org"), p, "", "1 to 253", ""},
		{"hyphen", remoteOf("-a.org"), p, "", "hyphen", ""},
		{"slash", remoteOf("https://example.org"), p, "", "not a network", ""},
		{"inner white space", remoteOf("a b.org"), p, "", "no character ' '", ""},
		{"international", remoteOf("bücher.example"), p, "", "xn--", ""},
		{"dot", remoteOf("."), p, "", "1 to 253", ""},
	}
}

func badPorts() []bad {
	of := func(s string) rules.Rule { return rules.Rule{RemotePorts: s} }
	const p = "remote_ports"
	return []bad{
		{"zero", of("0"), p, "0", "port 0", "1 to 65535"},
		{"zero in range", of("0-10"), p, "0", "port 0", ""},
		{"large", of("80,70000"), p, "70000", "out of range", "1 to 65535"},
		{"huge", of("99999999999999999999"), p, "", "out of range", ""},
		{"reversed", of("80,90-81"), p, "90-81", "reversed", `"81-90"`},
		{"name", of("http"), p, "http", "not a port", ""},
		{"sign", of("+80"), p, "+80", "not a port", ""},
		{"negative", of("-80"), p, "", "port missing", ""},
		{"open", of("80-"), p, "", "port missing", ""},
		{"three", of("1-2-3"), p, "2-3", "not a port", ""},
		{"comma", of("80,"), p, "80,", "empty entry", ""},
		{"inner white space", of("80, 443"), p, " 443", "not a port", ""},
		{"white space", of("80 "), p, "80 ", "white space", `"80"`},
		{"local", rules.Rule{LocalPorts: "x"}, "local_ports", "x", "not a port", ""},
		{"icmp", rules.Rule{RemotePorts: "80", Protocols: []packet.Protocol{packet.TCP, packet.ICMP}}, "protocols[1]", "icmp", "without ports", "two rules"},
		{"icmp types", rules.Rule{RemotePorts: "80", ICMP: []string{"echo"}}, "icmp", "", "not both", "two rules"},
	}
}

func badOthers() []bad {
	app := func(m rules.AppMatch) rules.Rule { return rules.Rule{App: m} }
	return []bad{
		{"class", app(rules.AppMatch{Path: "/a[b"}), "app.path", "/a[b", `without "]"`, "class"},
		{"empty class", app(rules.AppMatch{Path: "/a[]"}), "app.path", "", `without "]"`, ""},
		{"reversed class", app(rules.AppMatch{Path: "/a[z-a]"}), "app.path", "", "reversed", ""},
		{"three stars", app(rules.AppMatch{Path: "/***"}), "app.path", "", "two stars", ""},
		{"relative", app(rules.AppMatch{Path: "curl"}), "app.path", "curl", "absolute", `"**/curl"`},
		{"relative glob", app(rules.AppMatch{Script: "bin/*.py"}), "app.script", "", "absolute", ""},
		{"directory", app(rules.AppMatch{Path: "/opt/"}), "app.path", "", "directory", `"/opt/**"`},
		{"path white space", app(rules.AppMatch{Path: "/opt/x "}), "app.path", "", "white space", ""},
		{"path utf-8", app(rules.AppMatch{Path: "/opt/\xff"}), "app.path", "", "UTF-8", ""},
		{"cgroup", app(rules.AppMatch{Cgroup: "system.slice"}), "app.cgroup", "", "absolute", ""},
		{"args", app(rules.AppMatch{Args: "[a"}), "app.args", "", `without "]"`, ""},
		{"parent", app(rules.AppMatch{Path: "/a", Parent: &rules.AppMatch{Path: "b"}}), "app.parent.path", "b", "absolute", ""},
		{"empty parent", app(rules.AppMatch{Path: "/a", Parent: &rules.AppMatch{}}), "app.parent", "", "every program", ""},
		{"icmp name", rules.Rule{ICMP: []string{"ping"}}, "icmp[0]", "ping", "no such ICMP type", "echo"},
		{"icmp number", rules.Rule{ICMP: []string{"icmp:256"}}, "icmp[0]", "", "no such ICMP type", ""},
		{"icmp sign", rules.Rule{ICMP: []string{"icmp:+1"}}, "icmp[0]", "", "no such ICMP type", ""},
		{"icmp family", rules.Rule{ICMP: []string{"tcp:1"}}, "icmp[0]", "", "no such ICMP type", ""},
		{"icmp empty", rules.Rule{ICMP: []string{""}}, "icmp[0]", "", "empty", ""},
		{"icmp tcp", rules.Rule{ICMP: []string{"echo"}, Protocols: []packet.Protocol{packet.TCP}}, "protocols[0]", "tcp", "without ICMP types", ""},
		{"interface", rules.Rule{Interfaces: []string{"eth0", "eth0 "}}, "interfaces[1]", "eth0 ", "white space", `"eth0"`},
		{"interface glob", rules.Rule{Interfaces: []string{"eth["}}, "interfaces[0]", "", `without "]"`, ""},
		{"action", rules.Rule{Action: 9}, "action", "Action(9)", "no such action", "allow"},
		{"direction", rules.Rule{Direction: 7}, "direction", "Direction(7)", "no such direction", "both"},
		{"id white space", rules.Rule{ID: "my rule"}, "id", "my rule", "white space", `"my-rule"`},
		{"id outer white space", rules.Rule{ID: "rule\n"}, "id", "", "white space", `"rule"`},
	}
}

func TestBadValues(t *testing.T) {
	t.Parallel()
	for _, tt := range slices.Concat(badRemotes(), badPorts(), badOthers()) {
		t.Run(tt.name+" "+tt.path, func(t *testing.T) {
			t.Parallel()
			r := tt.rule
			if r.ID == "" {
				r.ID = "r"
			}
			if r.Action == 0 {
				r.Action = rules.Allow
			}
			cfg := rules.Config{Apps: []rules.AppProfile{{ID: "a", Match: []rules.AppMatch{{Path: "/a"}}, Rules: []rules.Rule{
				{ID: "good", Action: rules.Allow}, r,
			}}}}
			set, err := rules.Compile(cfg, rules.WithInterfaces(&rules.Interfaces{}))
			if set != nil || !errors.Is(err, rules.ErrInvalid) {
				t.Fatalf("got %v, %v; want an error that wraps ErrInvalid", set, err)
			}
			all := rules.Errors(err)
			if len(all) != 1 {
				t.Fatalf("got %d errors: %v; want 1", len(all), err)
			}
			e := all[0]
			if want := "apps[0].rules[1]." + tt.path; e.Path != want {
				t.Errorf("path is %s; want %s", e.Path, want)
			}
			if tt.value != "" && e.Value != tt.value || !strings.Contains(e.Msg, tt.msg) || !strings.Contains(e.Hint, tt.hint) {
				t.Errorf("got %v; want value %q, message with %q, hint with %q", e, tt.value, tt.msg, tt.hint)
			}
			if s := e.Error(); !strings.HasPrefix(s, e.Path+": ") || !strings.Contains(s, e.Msg) || !strings.HasSuffix(s, e.Hint) {
				t.Errorf("text is %q", s)
			}
		})
	}
}

// TestErrorsAreCollected has every error that is not about a single value.
func TestErrorsAreCollected(t *testing.T) {
	t.Parallel()
	cfg := rules.Config{
		Default: rules.Defaults{In: 8, Out: 9},
		Apps: []rules.AppProfile{
			{ID: "a", Rules: []rules.Rule{{ID: "x", Action: rules.Allow}}},
			{ID: "a", Match: []rules.AppMatch{{Path: "/b"}, {}}, Default: rules.Defaults{In: 7}},
			{Match: []rules.AppMatch{{Path: "/["}}},
		},
		Global: []rules.Rule{{ID: "x", Action: rules.Block}, {}, {ID: "y", Action: rules.Allow, Interfaces: []string{"eth0"}}},
	}
	_, err := rules.Compile(cfg)
	var got []string
	for _, e := range rules.Errors(err) {
		got = append(got, e.Path+" "+e.Msg)
	}
	want := []string{
		"default.in no such action",
		"default.out no such action",
		"apps[0].match no match",
		"apps[1].id id is used twice",
		"apps[1].default.in no such action",
		"apps[1].match[1] matches every program",
		"apps[2].id no id",
		`apps[2].match[0].path "[" without "]"`,
		"global[0].id id is used twice",
		"global[1].id no id",
		"global[1].action no action",
		"global[2].interfaces interface names are not available here",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !strings.Contains(err.Error(), "the other is apps[0].rules[0].id") {
		t.Errorf("%v\ndoes not say where the other id is", err)
	}
	if rules.Errors(nil) != nil || rules.Errors(errors.New("other")) != nil {
		t.Error("Errors finds some where there are none")
	}
}

// TestConfigIsNotKept changes everything after Compile.
func TestConfigIsNotKept(t *testing.T) {
	t.Parallel()
	cfg := exampleConfig()
	cfg.Apps[0].Match[0] = rules.AppMatch{UIDs: []uint32{0}, Parent: &rules.AppMatch{Path: "/sbin/init"}}
	set := compile(t, cfg)
	cfg.Apps[0].Match[0].UIDs[0] = 5
	cfg.Apps[0].Match[0].Parent.Path = "/x"
	cfg.Apps[0].Rules[0].Remote[0] = "global"
	cfg.Apps[0].Rules[1].Protocols[0] = packet.UDP
	s := exampleConnection("192.168.1.1:443")
	s.Process.Parent = process("/sbin/init")
	wantRule(t, set.Decide(s), "curl-no-lan")
}

func TestJSON(t *testing.T) {
	t.Parallel()
	const text = `{
		"apps": [{"id": "a", "match": [{"path": "/a", "uids": [1], "parent": {"cgroup": "/x"}}], "default": {"out": "ask"},
			"rules": [{"id": "r", "direction": "in", "protocols": ["tcp", "udp"], "remote": ["lan"], "remotePorts": "80", "action": "drop", "inspect": true}]}],
		"global": [{"id": "g", "direction": "both", "icmp": ["echo"], "localPorts": "", "action": "allow"}],
		"default": {"in": "block"}
	}`
	var cfg rules.Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		t.Fatal(err)
	}
	compile(t, cfg)
	first, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var again rules.Config
	if err := json.Unmarshal(first, &again); err != nil {
		t.Fatal(err)
	}
	second, err := json.Marshal(again)
	if err != nil || string(first) != string(second) {
		t.Errorf("got %s, %v\nwant %s", second, err, first)
	}
	if r := cfg.Apps[0].Rules[0]; r.Action != rules.Drop || r.Direction != rules.In || !r.Inspect || r.RemotePorts != "80" {
		t.Errorf("rule is %+v", r)
	}
	for _, bad := range []string{`{"global":[{"action":"deny"}]}`, `{"global":[{"direction":"up"}]}`} {
		if err := json.Unmarshal([]byte(bad), &cfg); !errors.Is(err, rules.ErrUnknownAction) && !errors.Is(err, rules.ErrUnknownDirection) {
			t.Errorf("%s: got %v", bad, err)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for a := rules.Action(0); a < 5; a++ {
		var back rules.Action
		text, err := a.MarshalText()
		if err != nil || back.UnmarshalText(text) != nil || back != a || a.String() != string(text) {
			t.Errorf("action %d becomes %q, %v, %d", a, text, err, back)
		}
	}
	if _, err := rules.Action(5).MarshalText(); !errors.Is(err, rules.ErrUnknownAction) {
		t.Errorf("got %v", err)
	}
	for d := rules.Direction(0); d < 3; d++ {
		var back rules.Direction
		text, err := d.MarshalText()
		if err != nil || back.UnmarshalText(text) != nil || back != d {
			t.Errorf("direction %d becomes %q, %v, %d", d, text, err, back)
		}
	}
	if _, err := rules.Direction(3).MarshalText(); !errors.Is(err, rules.ErrUnknownDirection) {
		t.Errorf("got %v", err)
	}
	d := rules.In
	if err := d.UnmarshalText(nil); err != nil || d != rules.Both {
		t.Errorf("got %v, %v; want both", d, err)
	}
	for got, want := range map[string]string{
		rules.LayerApp.String(): "app", rules.LayerGlobal.String(): "global", rules.LayerDefault.String(): "default",
		rules.Layer(0).String(): "Layer(0)", rules.Layer(4).String(): "Layer(4)",
		rules.NoMatch.String(): "no match", rules.MaybeMatch.String(): "maybe", rules.Decided.String(): "decided",
		rules.Result(0).String(): "Result(0)", rules.Action(9).String(): "Action(9)", rules.Direction(9).String(): "Direction(9)",
	} {
		if got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}
