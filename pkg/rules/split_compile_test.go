package rules_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

// badSplit is a Split with one thing wrong with it; see bad.
type badSplit struct {
	name                   string
	split                  rules.Split
	path, value, msg, hint string
}

// refuse is a syntax that knows eth0 and eth1 only.
func refuse(text string) error {
	if text == "eth0" || text == "eth1" {
		return nil
	}
	return fmt.Errorf("%s cannot be", text)
}

func badSplits() []badSplit {
	iface := func(s string) rules.Split { return rules.Split{Interface: &s} }
	include := func(r rules.SplitRule) rules.Split {
		return rules.Split{Include: []rules.SplitRule{{RemotePorts: "1"}, r}}
	}
	protocols := func(p ...packet.Protocol) rules.Split { return include(rules.SplitRule{Protocols: p}) }
	const carried = "use tcp, udp, icmp or icmpv6"
	return []badSplit{
		{"white space only", iface(" \t"), "interface", " \t", "white space", `"" for the best physical default`},
		{"white space before", iface(" eth0"), "interface", " eth0", "white space", `"eth0"`},
		{"white space after", iface("eth0\n"), "interface", "", "white space", `"eth0"`},
		{"control character", iface("eth\x000"), "interface", "", "control", "the index of an interface"},
		{"syntax", iface("eth2"), "interface", "eth2", "eth2 cannot be", "the hardware address"},
		{"no condition", include(rules.SplitRule{ID: "x", Comment: "y"}), "include[1]", "", "matches every connection", "use: true"},
		{"empty lists", include(rules.SplitRule{Remote: []string{}, Protocols: []packet.Protocol{}}), "include[1]", "", "matches every connection", ""},
		{"no condition in exclude", rules.Split{Exclude: []rules.SplitRule{{}}}, "exclude[0]", "", "matches every connection", "use: false"},
		{"sctp", protocols(packet.TCP, packet.SCTP), "include[1].protocols[1]", "sctp", "does not carry", carried},
		{"udplite", protocols(packet.UDPLite), "include[1].protocols[0]", "udplite", "does not carry", carried},
		{"igmp", protocols(packet.IGMP), "include[1].protocols[0]", "igmp", "does not carry", carried},
		{"number", protocols(47), "include[1].protocols[0]", "47", "does not carry", carried},
		{"igmp and ports", include(rules.SplitRule{RemotePorts: "1", Protocols: []packet.Protocol{packet.IGMP}}), "include[1].protocols[0]", "igmp", "does not carry", ""},
		{"icmp and ports", include(rules.SplitRule{RemotePorts: "1", Protocols: []packet.Protocol{packet.UDP, packet.ICMP}}), "include[1].protocols[1]", "icmp", "without ports", "two rules"},
		{"port", include(rules.SplitRule{RemotePorts: "80,70000"}), "include[1].remote_ports", "70000", "out of range", "1 to 65535"},
		{"port in exclude", rules.Split{Exclude: []rules.SplitRule{{RemotePorts: "http"}}}, "exclude[0].remote_ports", "http", "not a port", ""},
		{"network", include(rules.SplitRule{Remote: []string{"lan", "10.0.0.1/8"}}), "include[1].remote[1]", "10.0.0.1/8", "host bits", `"10.0.0.0/8"`},
		{"scope", include(rules.SplitRule{Remote: []string{"wan"}}), "include[1].remote[0]", "wan", "no such scope", "global"},
		{"domain", include(rules.SplitRule{Remote: []string{"*"}}), "include[1].remote[0]", "*", "every name", ""},
		{"id", include(rules.SplitRule{ID: "a b", RemotePorts: "1"}), "include[1].id", "a b", "white space", `"a-b"`},
		{"id twice", rules.Split{Include: []rules.SplitRule{{ID: "x", RemotePorts: "1"}}, Exclude: []rules.SplitRule{{ID: "x", RemotePorts: "1"}}}, "exclude[0].id", "x", "twice", "include[0].id"},
	}
}

func TestBadSplits(t *testing.T) {
	t.Parallel()
	for _, tt := range badSplits() {
		for prefix, cfg := range map[string]rules.Config{
			"split.": {Split: tt.split},
			"apps[1].split.": {Apps: []rules.AppProfile{
				{ID: "a", Match: []rules.AppMatch{{Path: "/a"}}},
				{ID: "b", Match: []rules.AppMatch{{Path: "/b"}}, Split: tt.split},
			}},
		} {
			t.Run(tt.name+" "+prefix, func(t *testing.T) {
				t.Parallel()
				set, err := rules.Compile(cfg, rules.WithInterfaceSyntax(refuse))
				if set != nil || !errors.Is(err, rules.ErrInvalid) {
					t.Fatalf("got %v, %v; want an error that wraps ErrInvalid", set, err)
				}
				all := rules.Errors(err)
				if len(all) != 1 {
					t.Fatalf("got %d errors: %v; want 1", len(all), err)
				}
				e := all[0]
				if want := prefix + tt.path; e.Path != want {
					t.Errorf("path is %s; want %s", e.Path, want)
				}
				if tt.value != "" && e.Value != tt.value || !strings.Contains(e.Msg, tt.msg) || !strings.Contains(e.Hint, tt.hint) {
					t.Errorf("got %v; want value %q, message with %q, hint with %q", e, tt.value, tt.msg, tt.hint)
				}
			})
		}
	}
}

// TestInterfaceSyntax has what is asked about, and that little is refused when
// nobody can be asked.
func TestInterfaceSyntax(t *testing.T) {
	t.Parallel()
	cfg := exampleConfig()
	cfg.Split.Interface, cfg.Apps[0].Split.Interface = new("00:00:5e:00:53:01"), new("")
	var asked []string
	compile(t, cfg, rules.WithInterfaceSyntax(func(text string) error {
		asked = append(asked, text)
		return nil
	}))
	if want := []string{"00:00:5e:00:53:01"}; !slices.Equal(asked, want) {
		t.Errorf("asked about %q; want %q: the empty one is always good", asked, want)
	}
	for _, text := range []string{"eth0", "3", "192.0.2.1", "fe80::1%eth0", "no/interface"} {
		cfg.Split.Interface = &text
		compile(t, cfg)
	}
	cfg.Split.Interface = new("eth0 ")
	if _, err := rules.Compile(cfg); len(rules.Errors(err)) != 1 || rules.Errors(err)[0].Path != "split.interface" {
		t.Errorf("got %v; want an error about split.interface", err)
	}
}

// TestSplitErrorsAreCollected has them among others, in the order of the file.
func TestSplitErrorsAreCollected(t *testing.T) {
	t.Parallel()
	bad := rules.Split{Interface: new(" "), Include: []rules.SplitRule{{ID: "x", RemotePorts: "0"}}, Exclude: []rules.SplitRule{{}}}
	cfg := rules.Config{
		Split:  bad,
		Apps:   []rules.AppProfile{{ID: "a", Match: []rules.AppMatch{{Path: "/a"}}, Rules: []rules.Rule{{ID: "x"}}, Split: bad}},
		Global: []rules.Rule{{ID: "y"}},
	}
	_, err := rules.Compile(cfg)
	var got []string
	for _, e := range rules.Errors(err) {
		got = append(got, e.Path)
	}
	want := []string{
		"apps[0].rules[0].action", "apps[0].split.interface", "apps[0].split.include[0].remote_ports", "apps[0].split.exclude[0]",
		"global[0].action", "split.interface", "split.include[0].id", "split.include[0].remote_ports", "split.exclude[0]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestSplitIsNotKept changes everything after Compile.
func TestSplitIsNotKept(t *testing.T) {
	t.Parallel()
	cfg := exampleConfig()
	cfg.Split = rules.Split{
		Use: new(true), Interface: new("eth0"),
		Include: []rules.SplitRule{{Protocols: []packet.Protocol{packet.TCP}, Remote: []string{"global"}}},
		Exclude: []rules.SplitRule{{RemotePorts: "53"}},
	}
	set := compile(t, cfg)
	*cfg.Split.Use, *cfg.Split.Interface = false, "eth1"
	cfg.Split.Include[0].Protocols[0] = packet.UDP
	cfg.Split.Include[0].Remote[0] = "lan"
	cfg.Split.Exclude[0].RemotePorts = "443"
	s := exampleConnection("192.0.2.1:443")
	want := rules.SplitOutcome{Use: true, Interface: "eth0", Profile: "curl", Why: "split.include[0] matches"}
	if got := set.Split(s); got != want {
		t.Errorf("got %+v; want %+v", got, want)
	}
	if steps := set.ExplainSplit(s); !strings.Contains(steps[len(steps)-1].Why, "is in global") {
		t.Errorf("got %v", steps)
	}
}

func TestSplitJSON(t *testing.T) {
	t.Parallel()
	const text = `{"apps":[{"id":"a","match":[{"path":"/a"}],"split":{"use":false,"interface":"",` +
		`"exclude":[{"id":"d","comment":"names","protocols":["udp","icmpv6"],"remote":["lan"]},{"remotePorts":"53"}]}}],` +
		`"split":{"use":true,"interface":"eth0","include":[{"remotePorts":"80,443"}]}}`
	var cfg rules.Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		t.Fatal(err)
	}
	compile(t, cfg)
	if b, err := json.Marshal(cfg); err != nil || string(b) != text {
		t.Errorf("got  %s, %v\nwant %s", b, err, text)
	}
	if s := cfg.Apps[0].Split; s.Interface == nil || *s.Interface != "" || s.Use == nil || *s.Use || len(s.Exclude) != 2 {
		t.Errorf("got %+v", s)
	}
	var null rules.Config
	if err := json.Unmarshal([]byte(`{"split":{"use":null,"interface":null}}`), &null); err != nil || null.Split.Use != nil || null.Split.Interface != nil {
		t.Errorf("got %+v, %v; want nothing set", null.Split, err)
	}
	if b, err := json.Marshal(null); err != nil || string(b) != "{}" {
		t.Errorf("got %s, %v; want {}", b, err)
	}
}
