package rules_test

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

func TestHits(t *testing.T) {
	t.Parallel()
	cfg := exampleConfig()
	old := compile(t, cfg)
	s := exampleConnection("192.0.2.1:443")
	old.Decide(s)
	old.Evaluate(s)
	old.Explain(s)
	if got := old.Hits()["curl-web"]; got != 1 {
		t.Errorf("got %d hits; want 1: Evaluate and Explain do not count", got)
	}
	cfg.Apps[0].Rules = append(cfg.Apps[0].Rules, rules.Rule{ID: "new", Action: rules.Allow})
	next := compile(t, cfg, rules.WithPrevious(old))
	old.Decide(s) // a reader that still has the old one
	if h := next.Hits(); h["curl-web"] != 2 || h["new"] != 0 || len(h) != 4 {
		t.Errorf("got %v", h)
	}
	var ids []string
	for _, r := range next.Rules() {
		ids = append(ids, r.ID+"/"+r.Layer.String()+"/"+r.Profile+"/"+r.Action.String())
	}
	const want = "curl-no-lan/app/curl/block curl-web/app/curl/allow new/app/curl/allow no-ads/global//block"
	if got := strings.Join(ids, " "); got != want {
		t.Errorf("got %s; want %s", got, want)
	}
	if got := compile(t, cfg, rules.WithPrevious(nil)).Hits()["curl-web"]; got != 0 {
		t.Errorf("got %d hits without a previous set; want 0", got)
	}
}

func TestNoSet(t *testing.T) {
	t.Parallel()
	var live rules.Live
	s := exampleConnection("192.0.2.1:443")
	if o := live.Decide(s); o.Decision.Verdict != verdict.Block || o.Decision.Reason.Code != rules.CodeNoRules || o.Layer != 0 {
		t.Errorf("got %+v", o)
	}
	s.Direction = packet.Inbound
	if o := live.Decide(s); o.Decision.Verdict != verdict.Drop {
		t.Errorf("got %+v", o)
	}
	if steps := live.Load().Explain(s); len(steps) != 1 || steps[0].Result != rules.Decided {
		t.Errorf("got %v", steps)
	}
	if _, ok := live.Load().Profile(s.Process); ok || len(live.Load().Rules()) != 0 || len(live.Load().Hits()) != 0 {
		t.Error("a nil set has something in it")
	}
}

// TestInterfacesChange has an interface that comes, changes its index and goes.
func TestInterfacesChange(t *testing.T) {
	t.Parallel()
	for _, filler := range []int{0, 20} { // a short list, and one with an index
		var names rules.Interfaces
		var cfg rules.Config
		for range filler {
			cfg.Global = append(cfg.Global, rules.Rule{ID: strings.Repeat("f", len(cfg.Global)+1), Interfaces: []string{"lo"}, Action: rules.Drop})
		}
		cfg.Global = append(cfg.Global, rules.Rule{ID: "vpn", Interfaces: []string{"wg*"}, Action: rules.Block})
		set := compile(t, cfg, rules.WithInterfaces(&names))
		s := exampleConnection("192.0.2.1:443")
		s.Interface = 7
		wantRule(t, set.Decide(s), "")
		names.Store(map[uint32]string{7: "wg0"})
		wantRule(t, set.Decide(s), "vpn")
		names.Store(map[uint32]string{7: "eth0", 8: "wg0"})
		wantRule(t, set.Decide(s), "")
		s.Interface = 8
		wantRule(t, set.Decide(s), "vpn")
		names.Store(nil)
		wantRule(t, set.Decide(s), "")
	}
}

// TestProcessChanges has processes that look alike to the cache.
func TestProcessChanges(t *testing.T) {
	t.Parallel()
	set := compile(t, rules.Config{Global: []rules.Rule{{ID: "fast", App: rules.AppMatch{
		Args: "*--fast", Parent: &rules.AppMatch{Path: "/sbin/init"},
	}, Action: rules.Block}}})
	s := exampleConnection("192.0.2.1:443")
	decide := func(args []string, parent string) rules.Outcome {
		s.Process = &conn.Process{PID: 1, StartTicks: 1, Path: "/a", Args: args, Parent: process(parent)}
		return set.Decide(s)
	}
	for range 3 {
		wantRule(t, decide([]string{"a", "--fast"}, "/sbin/init"), "fast")
		wantRule(t, decide([]string{"a", "--slow"}, "/sbin/init"), "")
		wantRule(t, decide([]string{"a", "--fast"}, "/bin/sh"), "")
		wantRule(t, decide([]string{"a --fast"}, "/sbin/init"), "fast")
	}
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	var live rules.Live
	var names rules.Interfaces
	cfg := exampleConfig()
	for i := range 20 {
		cfg.Global = append(cfg.Global, rules.Rule{ID: strings.Repeat("x", i+1), Interfaces: []string{"wg*"}, Remote: []string{"198.51.100.0/24"}, Action: rules.Drop})
	}
	live.Swap(compile(t, cfg, rules.WithInterfaces(&names)))
	var wg sync.WaitGroup
	const n = 2000
	for g := range 4 {
		wg.Go(func() {
			for i := range n {
				s := exampleConnection("192.0.2.1:443")
				s.Process.PID, s.Interface = 1+i%100+g, 2
				if o := live.Decide(s); o.Rule == nil || o.Rule.ID != "curl-web" {
					t.Errorf("got %+v", o)
					return
				}
			}
		})
	}
	for i := range 50 {
		names.Store(map[uint32]string{2: []string{"wg0", "eth0"}[i%2]})
		live.Swap(compile(t, cfg, rules.WithInterfaces(&names), rules.WithPrevious(live.Load())))
	}
	wg.Wait()
	if got := live.Load().Hits()["curl-web"]; got != 4*n {
		t.Errorf("got %d hits; want %d", got, 4*n)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	var names rules.Interfaces
	names.Store(map[uint32]string{2: "eth0"})
	parent := &rules.AppMatch{Path: "/sbin/init"}
	cfg := rules.Config{Global: []rules.Rule{
		{ID: "dir", Direction: rules.In, Action: rules.Block},
		{ID: "proto", Protocols: []packet.Protocol{packet.UDP, packet.ICMP}, Action: rules.Block},
		{ID: "rport", RemotePorts: "80", Action: rules.Block},
		{ID: "lport", LocalPorts: "80", Action: rules.Block},
		{ID: "iface", Interfaces: []string{"wg0"}, Action: rules.Block},
		{ID: "path", App: rules.AppMatch{Path: "/usr/bin/wget"}, Action: rules.Block},
		{ID: "uid", App: rules.AppMatch{UIDs: []uint32{0}}, Action: rules.Block},
		{ID: "parent", App: rules.AppMatch{Path: "/usr/bin/*", Parent: parent}, Action: rules.Block},
		{ID: "remote", Remote: []string{"10.0.0.0/8", "site"}, Action: rules.Block},
		{ID: "maybe", Remote: []string{"*.example.org"}, Action: rules.Block},
		{
			ID: "match", App: rules.AppMatch{Path: "/usr/bin/curl"}, Direction: rules.Out, RemotePorts: "443", LocalPorts: "1-65535",
			Interfaces: []string{"eth*"}, Remote: []string{"10.0.0.0/8", "global"}, Action: rules.Allow,
		},
		{ID: "never", Action: rules.Block},
	}}
	set := compile(t, cfg, rules.WithInterfaces(&names))
	s := exampleConnection("192.0.2.1:443")
	s.Domain, s.Interface, s.Process.UID = "", 2, 1000
	var got []string
	for _, step := range set.Explain(s) {
		got = append(got, step.String())
	}
	const want = `global rule dir (block): no match: direction is out, not in
global rule proto (block): no match: protocol is tcp, not icmp, udp
global rule rport (block): no match: remote port is 443, not in 80
global rule lport (block): no match: local port is 50000, not in 80
global rule iface (block): no match: interface is eth0, not wg0
global rule path (block): no match: path is "/usr/bin/curl"; the rule is for path "/usr/bin/wget"
global rule uid (block): no match: uid is "1000"; the rule is for uid 0
global rule parent (block): no match: no ancestor of the process matches path "/sbin/init"
global rule remote (block): no match: remote is 192.0.2.1 (global), not in 10.0.0.0/8, site
global rule maybe (block): maybe: the domain is not known; the rule is for *.example.org
global rule match (allow): decided: app is path "/usr/bin/curl"; direction is out; protocol is tcp; remote port 443 is in 443; local port 50000 is in 1-65535; interface is in eth*; remote 192.0.2.1 (global) is in global`
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	b, err := json.Marshal(set.Explain(s)[0])
	if want := `{"layer":"global","rule":"dir","action":"block","result":"no match","why":"direction is out, not in"}`; err != nil || string(b) != want {
		t.Errorf("got %s, %v; want %s", b, err, want)
	}
}
