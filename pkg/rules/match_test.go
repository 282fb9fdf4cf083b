package rules_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

func process(path string) *conn.Process {
	return &conn.Process{PID: 1, UID: 1000, Path: path, Args: []string{path, "-x"}}
}

// matches compiles a list of one rule and reports whether it decides.
func matches(t *testing.T, r rules.Rule, s *conn.Snapshot) bool {
	t.Helper()
	r.ID, r.Action = "r", rules.Allow
	var names rules.Interfaces
	names.Store(worldInterfaces())
	set := compile(t, rules.Config{Global: []rules.Rule{r}}, rules.WithInterfaces(&names))
	return set.Decide(s).Rule != nil
}

func TestRemote(t *testing.T) {
	t.Parallel()
	tests := []struct {
		entry, remote string
		want          bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.0/31", "192.0.2.1", true},
		{"192.0.2.0/31", "192.0.2.2", false},
		{"0.0.0.0/0", "192.0.2.2", true},
		{"0.0.0.0/0", "255.255.255.255", true},
		{"0.0.0.0/0", "2001:db8::1", false},
		{"::/0", "2001:db8::1", true},
		{"::/0", "::", true},
		{"::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", true},
		{"::/0", "192.0.2.1", false},
		{"::/0", "::fffe:c000:201", true},
		{"::-ffff::", "192.0.2.1", false},
		{"::/64", "::1", true},
		{"::/64", "0:0:0:1::", false},
		{"2001:db8::/63", "2001:db8:0:1::5", true},
		{"2001:db8::/65", "2001:db8::8000:0:0:0", false},
		{"192.0.2.5-192.0.2.9", "192.0.2.9", true},
		{"192.0.2.5-192.0.2.9", "192.0.2.10", false},
		{"192.0.2.5-192.0.2.9", "192.0.2.4", false},
		{"2001:db8::5-2001:db8::9", "2001:db8::7", true},
		{"host", "127.0.0.1", true},
		{"host", "::1", true},
		{"lan", "192.168.7.7", true},
		{"lan", "fe80::1", true},
		{"lan", "224.0.0.251", true},
		{"lan", "127.0.0.1", false},
		{"local", "127.0.0.1", true},
		{"local", "192.0.2.1", false},
		{"global", "192.0.2.1", true},
		{"multicast", "224.0.1.1", true},
		{"multicast", "ff0e::1", true},
		{"local-multicast", "224.0.1.1", false},
		{"broadcast", "255.255.255.255", true},
		{"site", "10.9.9.9", true},
		{"unknown", "0.0.0.0", true},
		{"unknown", "10.0.0.1", false},
	}
	for _, tt := range tests {
		t.Run(tt.entry+" "+tt.remote, func(t *testing.T) {
			t.Parallel()
			s := &conn.Snapshot{Tuple: packet.Tuple{Remote: netip.AddrPortFrom(netip.MustParseAddr(tt.remote), 1)}}
			if got := matches(t, rules.Rule{Remote: []string{tt.entry}}, s); got != tt.want {
				t.Errorf("got %v; want %v", got, tt.want)
			}
		})
	}
}

// A program that removes its own executable is the same program: the kernel's mark does not take it out of its rules.
func TestDeletedExecutable(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rule, path string
		want       bool
	}{
		{"/tmp/tool", "/tmp/tool (deleted)", true},
		{"/tmp/*", "/tmp/tool (deleted)", true},
		{"/tmp/tool (deleted)", "/tmp/tool (deleted)", true}, // it may be called that
		{"/tmp/tool (deleted)", "/tmp/tool", false},
		{"/tmp/tool", "/tmp/tool (deleted) (deleted)", false},
		{"/tmp/other", "/tmp/tool (deleted)", false},
	} {
		s := exampleConnection("192.0.2.1:80")
		s.Process = process(tt.path)
		if got := matches(t, rules.Rule{App: rules.AppMatch{Path: tt.rule}}, s); got != tt.want {
			t.Errorf("rule %q, path %q: got %v; want %v", tt.rule, tt.path, got, tt.want)
		}
		set := compile(t, rules.Config{Apps: []rules.AppProfile{{
			ID: "p", Match: []rules.AppMatch{{Path: tt.rule}}, Rules: []rules.Rule{{ID: "r", Action: rules.Allow}},
		}}})
		if got := set.Decide(s).Rule != nil; got != tt.want {
			t.Errorf("profile of %q, path %q: got %v; want %v", tt.rule, tt.path, got, tt.want)
		}
	}
}

// TestKnownScope has an attached network that only the system knows of.
func TestKnownScope(t *testing.T) {
	t.Parallel()
	s := exampleConnection("192.0.2.1:80")
	s.Scope = netscope.Site
	if !matches(t, rules.Rule{Remote: []string{"lan"}}, s) || matches(t, rules.Rule{Remote: []string{"global"}}, s) {
		t.Error("the scope of the snapshot is not used")
	}
}

func TestDomains(t *testing.T) {
	t.Parallel()
	tests := []struct {
		entry, domain string
		cnames        []string
		want          bool
	}{
		{"example.org", "example.org", nil, true},
		{"example.org", "EXAMPLE.org.", nil, true},
		{"Example.ORG.", "example.org", nil, true},
		{"example.org", "www.example.org", nil, false},
		{"*.example.org", "www.example.org", nil, true},
		{"*.example.org", "a.b.example.org", nil, true},
		{"*.example.org", "example.org", nil, false},
		{"*.example.org", "badexample.org", nil, false},
		{".example.org", "example.org", nil, true},
		{".example.org", "www.example.org", nil, true},
		{".example.org", "badexample.org", nil, false},
		{"nas.", "nas", nil, true},
		{"*.lan", "nas.lan", nil, true},
		{"_dns.example.org", "_dns.example.org", nil, true},
		{"tracker.example", "www.example.org", []string{"x.example.net", "Tracker.example."}, true},
		{"tracker.example", "www.example.org", []string{"x.example.net"}, false},
		{"tracker.example", "", []string{"tracker.example"}, true},
		{"tracker.example", "", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.entry+" "+tt.domain, func(t *testing.T) {
			t.Parallel()
			s := exampleConnection("192.0.2.1:80")
			s.Domain, s.CNAMEs = tt.domain, tt.cnames
			if got := matches(t, rules.Rule{Remote: []string{tt.entry}}, s); got != tt.want {
				t.Errorf("got %v; want %v", got, tt.want)
			}
			// the same in a list long enough for an index, and in one rule with
			// many names
			many := []string{tt.entry}
			cfg := rules.Config{}
			for _, id := range strings.Split("abcdefghijklm", "") {
				many = append(many, id+".example.test")
				cfg.Global = append(cfg.Global, rules.Rule{ID: id, Action: rules.Allow, Remote: []string{id + ".example.test", tt.entry}})
			}
			cfg.Global = append(cfg.Global, rules.Rule{ID: "many", Action: rules.Allow, Remote: many})
			if got := compile(t, cfg).Decide(s).Rule != nil; got != tt.want {
				t.Errorf("with index: got %v; want %v", got, tt.want)
			}
			if got := matches(t, rules.Rule{Remote: many}, s); got != tt.want {
				t.Errorf("with many names: got %v; want %v", got, tt.want)
			}
		})
	}
}

func TestOtherConditions(t *testing.T) {
	t.Parallel()
	ping := exampleConnection("192.0.2.1:80") // the "port" of an echo is its identifier
	ping.Tuple.Protocol, ping.ICMPType = packet.ICMP, 8
	ping6 := exampleConnection("[2001:db8::1]:80")
	ping6.Tuple.Protocol, ping6.ICMPType = packet.ICMPv6, 128
	web := exampleConnection("192.0.2.1:443")
	web.Interface = 3
	unknown := exampleConnection("192.0.2.1:443")
	unknown.Process = nil
	half := exampleConnection("192.0.2.1:443")
	half.Process = &conn.Process{Path: "/usr/bin/curl"} // PID 0 is not known

	tests := []struct {
		name string
		rule rules.Rule
		s    *conn.Snapshot
		want bool
	}{
		{"echo", rules.Rule{ICMP: []string{"echo"}}, ping, true},
		{"echo v6", rules.Rule{ICMP: []string{"echo-request"}}, ping6, true},
		{"echo reply", rules.Rule{ICMP: []string{"echo-reply"}}, ping, false},
		{"echo of v4 only", rules.Rule{ICMP: []string{"echo"}, Protocols: []packet.Protocol{packet.ICMP}}, ping6, false},
		{"number", rules.Rule{ICMP: []string{"icmpv6:128"}}, ping6, true},
		{"number of the other", rules.Rule{ICMP: []string{"icmp:128"}}, ping6, false},
		{"echo has no port", rules.Rule{RemotePorts: "80"}, ping, false},
		{"tcp is no echo", rules.Rule{ICMP: []string{"echo"}}, web, false},
		{"port", rules.Rule{RemotePorts: "80,443"}, web, true},
		{"port range", rules.Rule{RemotePorts: "1-442,444-65535"}, web, false},
		{"local port", rules.Rule{LocalPorts: "50000"}, web, true},
		{"udp port", rules.Rule{RemotePorts: "443", Protocols: []packet.Protocol{packet.UDP}}, web, false},
		{"interface", rules.Rule{Interfaces: []string{"wg0"}}, web, true},
		{"interface glob", rules.Rule{Interfaces: []string{"eth*", "wg*"}}, web, true},
		{"other interface", rules.Rule{Interfaces: []string{"eth*"}}, web, false},
		{"no interface", rules.Rule{Interfaces: []string{"*"}}, ping, false},
		{"direction", rules.Rule{Direction: rules.In}, web, false},
		{"any app", rules.Rule{}, unknown, true},
		{"unknown app", rules.Rule{App: rules.AppMatch{Path: "/**"}}, unknown, false},
		{"unknown user", rules.Rule{App: rules.AppMatch{UIDs: []uint32{0}}}, half, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := matches(t, tt.rule, tt.s); got != tt.want {
				t.Errorf("got %v; want %v", got, tt.want)
			}
		})
	}
}

func TestApp(t *testing.T) {
	t.Parallel()
	shell := &conn.Process{PID: 5, UID: 0, Path: "/bin/sh", Cgroup: "/system.slice/cron.service"}
	python := &conn.Process{
		PID: 9, UID: 1000, Path: "/usr/bin/python3", Args: []string{"python3", "/opt/tool/run.py", "--fast"}, Script: "/opt/tool/run.py",
		Cgroup: "/user.slice/x", App: conn.App{ID: "script:/opt/tool/run.py", Unit: "tool.service"}, Parent: &conn.Process{PID: 7, Path: "/usr/bin/env", Parent: shell},
	}
	tests := []struct {
		name string
		m    rules.AppMatch
		want bool
	}{
		{"path", rules.AppMatch{Path: "/usr/bin/python3"}, true},
		{"glob", rules.AppMatch{Path: "/usr/**/python?"}, true},
		{"other path", rules.AppMatch{Path: "/usr/bin/python"}, false},
		{"script", rules.AppMatch{Script: "/opt/tool/run.py"}, true},
		{"script glob", rules.AppMatch{Path: "**/python3", Script: "/opt/**"}, true},
		{"args", rules.AppMatch{Args: "python3 * --fast"}, true},
		{"args with slash", rules.AppMatch{Args: "*run.py*"}, true},
		{"uid", rules.AppMatch{UIDs: []uint32{7, 1000}}, true},
		{"other uid", rules.AppMatch{UIDs: []uint32{0}}, false},
		{"cgroup", rules.AppMatch{Cgroup: "/user.slice/*"}, true},
		{"identity", rules.AppMatch{Identity: "script:/opt/tool/run.py"}, true},
		{"identity glob", rules.AppMatch{Identity: "script:*"}, true},
		{"other identity", rules.AppMatch{Identity: "flatpak:*"}, false},
		{"unit", rules.AppMatch{Unit: "tool.service"}, true},
		{"other unit", rules.AppMatch{Unit: "user/tool.service"}, false},
		{"child", rules.AppMatch{Path: "/bin/sh", Children: true}, true},
		{"child that is itself the one", rules.AppMatch{Script: "/opt/tool/run.py", Children: true}, true},
		{"child of nobody", rules.AppMatch{Path: "/bin/dash", Children: true}, false},
		{"not a child without being asked for", rules.AppMatch{Path: "/bin/sh"}, false},
		{"parent", rules.AppMatch{Parent: &rules.AppMatch{Path: "/usr/bin/env"}}, true},
		{"ancestor", rules.AppMatch{Parent: &rules.AppMatch{Cgroup: "/system.slice/cron.service", UIDs: []uint32{0}}}, true},
		{"ancestor of ancestor", rules.AppMatch{Parent: &rules.AppMatch{Path: "/usr/bin/env", Parent: &rules.AppMatch{Path: "/bin/sh"}}}, true},
		{"ancestors in the wrong order", rules.AppMatch{Parent: &rules.AppMatch{Path: "/bin/sh", Parent: &rules.AppMatch{Path: "/usr/bin/env"}}}, false},
		{"not its own parent", rules.AppMatch{Parent: &rules.AppMatch{Path: "/usr/bin/python3"}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := exampleConnection("192.0.2.1:443")
			s.Process = python
			if got := matches(t, rules.Rule{App: tt.m}, s); got != tt.want {
				t.Errorf("got %v; want %v", got, tt.want)
			}
		})
	}
}

// With IgnoreCNAMEs, aliases match nothing, in rules and in split entries.
func TestIgnoreCNAMEs(t *testing.T) {
	t.Parallel()
	use := true
	cfg := rules.Config{
		Global: []rules.Rule{{ID: "r", Action: rules.Block, Remote: []string{".cdn.test"}}},
		Split:  rules.Split{Use: &use, Exclude: []rules.SplitRule{{Remote: []string{".cdn.test"}}}},
	}
	s := &conn.Snapshot{Direction: packet.Outbound, Domain: "www.example.test", CNAMEs: []string{"n1.cdn.test"}}
	s.Tuple.Protocol, s.Tuple.Remote = packet.TCP, netip.MustParseAddrPort("198.51.100.7:443")
	for _, tt := range []struct {
		opts []rules.Option
		want bool
	}{{nil, true}, {[]rules.Option{rules.IgnoreCNAMEs()}, false}} {
		set := compile(t, cfg, tt.opts...)
		if got := set.Decide(s).Rule != nil; got != tt.want {
			t.Errorf("rule with %d options: matched: %v; want %v", len(tt.opts), got, tt.want)
		}
		if got := !set.Split(s).Use; got != tt.want {
			t.Errorf("split entry with %d options: matched: %v; want %v", len(tt.opts), got, tt.want)
		}
	}
}
