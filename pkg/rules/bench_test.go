package rules_test

import (
	"fmt"
	"net/netip"
	"strconv"
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

const benchRules = 10_000

// mix is a large configuration and connections to decide with it.
type mix struct {
	name        string
	cfg         func() rules.Config
	connections func() []*conn.Snapshot
}

func benchConn(proc *conn.Process, remote string, port uint16) *conn.Snapshot {
	return &conn.Snapshot{
		Direction: packet.Outbound,
		Tuple: packet.Tuple{
			Protocol: packet.TCP,
			Local:    netip.MustParseAddrPort("192.168.1.2:50000"),
			Remote:   netip.AddrPortFrom(netip.MustParseAddr(remote), port),
		},
		Interface: 2,
		Process:   proc,
		Domain:    "www.example.org",
	}
}

func numbered(one func(i int) rules.Rule) []rules.Rule {
	out := make([]rules.Rule, benchRules)
	for i := range out {
		out[i] = one(i)
		out[i].ID = "r" + strconv.Itoa(i)
		if out[i].Action == 0 {
			out[i].Action = rules.Block
		}
	}
	return out
}

func curl() *conn.Process {
	return &conn.Process{
		PID: 4711, UID: 1000, StartTicks: 99, Path: "/usr/bin/curl", Args: []string{"curl", "-sS", "https://www.example.org"},
		Cgroup: "/user.slice/user-1000.slice/session-1.scope",
		Parent: &conn.Process{PID: 4000, Path: "/usr/bin/bash", Args: []string{"bash"}, Parent: &conn.Process{PID: 1, Path: "/usr/lib/systemd/systemd"}},
	}
}

func net24(i int) string { return fmt.Sprintf("%d.%d.%d.0/24", 20+i/65536, i/256%256, i%256) }

func last24() string { return "20.39.15.9" } // in net24(9999)

func one(s *conn.Snapshot) func() []*conn.Snapshot {
	return func() []*conn.Snapshot { return []*conn.Snapshot{s} }
}

// apps makes n profiles for one program each.
func apps(n int, rest func(i int) []rules.Rule) []rules.AppProfile {
	out := make([]rules.AppProfile, 0, n)
	for i := range n {
		out = append(out, rules.AppProfile{
			ID: "app" + strconv.Itoa(i), Match: []rules.AppMatch{{Path: fmt.Sprintf("/opt/app%d/bin/run", i)}}, Rules: rest(i),
		})
	}
	return out
}

func tenEach() rules.Config {
	return rules.Config{Apps: apps(benchRules/10, func(i int) []rules.Rule {
		var out []rules.Rule
		for j := range 10 {
			out = append(out, rules.Rule{ID: fmt.Sprintf("a%d-%d", i, j), Remote: []string{net24(i*10 + j)}, RemotePorts: "80,443", Action: rules.Allow})
		}
		return out
	})}
}

func cidrs() rules.Config {
	return rules.Config{Global: numbered(func(i int) rules.Rule { return rules.Rule{Remote: []string{net24(i)}} })}
}

// nested has as many conditions as a rule can have, most of which hold.
func nested() rules.Config {
	return rules.Config{Global: numbered(func(i int) rules.Rule {
		return rules.Rule{
			App: rules.AppMatch{Path: "/usr/bin/*"}, Direction: rules.Out,
			Protocols: []packet.Protocol{packet.TCP, packet.UDP}, Interfaces: []string{"eth*"},
			Remote:      []string{fmt.Sprintf("20.0.0.0/%d", 6+i%8), "*.example.net"},
			RemotePorts: fmt.Sprintf("%d-%d", 1+i%1000, 2000+i),
			LocalPorts:  fmt.Sprint(i + 1),
		}
	})}
}

// interleaved has in every seven rules one for each condition that fails alone:
// no condition rules out any stretch of the list.
func interleaved() rules.Config {
	return rules.Config{Global: numbered(func(i int) rules.Rule {
		r := rules.Rule{
			App: rules.AppMatch{Path: "/usr/bin/*"}, Direction: rules.Out, Interfaces: []string{"eth0"},
			Remote: []string{"20.0.0.0/8"}, RemotePorts: "1000-2000", LocalPorts: "1-65535",
		}
		switch i % 7 {
		case 0:
			r.App.Path = "/opt/*"
		case 1:
			r.Direction = rules.In
		case 2:
			r.Interfaces = []string{"wg0"}
		case 3:
			r.Remote = []string{"21.0.0.0/8"}
		case 4:
			r.RemotePorts = "1"
		case 5:
			r.LocalPorts = "1"
		case 6:
			r.Protocols = []packet.Protocol{packet.UDP}
		}
		return r
	})}
}

func mixes() []mix {
	app := func(i int) *conn.Process {
		return &conn.Process{PID: 10 + i, Path: fmt.Sprintf("/opt/app%d/bin/run", i)}
	}
	unknown := benchConn(curl(), "198.51.100.1", 443)
	unknown.Domain = ""
	return []mix{
		{"cidr/first", cidrs, one(benchConn(curl(), "20.0.0.9", 443))},
		{"cidr/last", cidrs, one(benchConn(curl(), last24(), 443))},
		{"cidr/none", cidrs, one(benchConn(curl(), "198.51.100.1", 443))},
		{"cidr6/last", func() rules.Config {
			return rules.Config{Global: numbered(func(i int) rules.Rule { return rules.Rule{Remote: []string{fmt.Sprintf("2001:db8:%x::/48", i)}} })}
		}, one(benchConn(curl(), "2001:db8:270f::1", 443))},
		{"apps1000/last", tenEach, one(benchConn(app(999), last24(), 443))},
		{"apps1000/none", tenEach, one(benchConn(curl(), last24(), 443))},
		{"apps1000/many-processes", tenEach, func() []*conn.Snapshot {
			var out []*conn.Snapshot
			for i := range 1000 {
				out = append(out, benchConn(app(i), last24(), 443))
			}
			return out
		}},
		{"globs/last", func() rules.Config {
			return rules.Config{Global: numbered(func(i int) rules.Rule {
				path := fmt.Sprintf("/opt/**/app%d/bin/*", i)
				if i == benchRules-1 {
					path = "/usr/**/c?rl"
				}
				return rules.Rule{App: rules.AppMatch{Path: path}}
			})}
		}, one(benchConn(curl(), last24(), 443))},
		{"globs/none", func() rules.Config {
			return rules.Config{Global: numbered(func(i int) rules.Rule {
				return rules.Rule{App: rules.AppMatch{Path: fmt.Sprintf("/**/app%d/bin/*", i), Args: "*--x*"}}
			})}
		}, one(benchConn(curl(), last24(), 443))},
		{"ports/none", func() rules.Config {
			return rules.Config{Global: numbered(func(i int) rules.Rule { return rules.Rule{RemotePorts: fmt.Sprintf("%d-%d", 1000+i, 20000+3*i)} })}
		}, one(benchConn(curl(), last24(), 443))},
		{"ports/last", func() rules.Config {
			return rules.Config{Global: numbered(func(i int) rules.Rule { return rules.Rule{RemotePorts: fmt.Sprintf("%d-%d", 1000+i, 20000+3*i)} })}
		}, one(benchConn(curl(), last24(), 49990))},
		{"domains/last", func() rules.Config {
			return rules.Config{Global: numbered(func(i int) rules.Rule {
				if i == benchRules-1 {
					return rules.Rule{Remote: []string{"*.example.org"}}
				}
				return rules.Rule{Remote: []string{fmt.Sprintf("*.d%d.example.com", i)}}
			})}
		}, one(benchConn(curl(), last24(), 443))},
		{"domains/unknown", func() rules.Config {
			return rules.Config{Global: numbered(func(i int) rules.Rule {
				return rules.Rule{Remote: []string{fmt.Sprintf("*.d%d.example.com", i)}, Action: rules.Allow}
			})}
		}, one(unknown)},
		{"all-conditions/none", nested, one(benchConn(curl(), "20.0.0.9", 1500))},
		{"all-conditions/unknown-domain", nested, one(unknown)},
		{"interleaved/none", interleaved, one(benchConn(curl(), "20.0.0.9", 1500))},
		{"same-cidr-other-port/last", func() rules.Config {
			return rules.Config{Global: numbered(func(i int) rules.Rule {
				return rules.Rule{Remote: []string{"20.0.0.0/8"}, RemotePorts: fmt.Sprint(i + 1), Direction: rules.Out}
			})}
		}, one(benchConn(curl(), last24(), benchRules))},
	}
}

func (m *mix) compile(tb testing.TB) *rules.Set {
	var names rules.Interfaces
	names.Store(map[uint32]string{1: "lo", 2: "eth0"})
	return compile(tb, m.cfg(), rules.WithInterfaces(&names))
}

func BenchmarkDecide(b *testing.B) {
	for _, m := range mixes() {
		b.Run(m.name, func(b *testing.B) {
			set, conns := m.compile(b), m.connections()
			for _, s := range conns {
				set.Evaluate(s)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				set.Decide(conns[i])
				if i++; i == len(conns) {
					i = 0
				}
			}
		})
	}
}

// BenchmarkDecideNewProcess has a process that was never seen, of a program
// that was.
func BenchmarkDecideNewProcess(b *testing.B) {
	set := compile(b, tenEach())
	p := curl()
	s := benchConn(p, last24(), 443)
	b.ReportAllocs()
	for b.Loop() {
		again := *p
		again.StartTicks++
		p = &again
		s.Process = p
		set.Decide(s)
	}
}

// BenchmarkDecideNewProgram has a program that was never seen.
func BenchmarkDecideNewProgram(b *testing.B) {
	for _, m := range mixes() {
		if m.name != "apps1000/last" && m.name != "globs/last" && m.name != "globs/none" {
			continue
		}
		b.Run(m.name, func(b *testing.B) {
			set := m.compile(b)
			s := benchConn(curl(), last24(), 443)
			paths := make([]string, 1<<14)
			for i := range paths {
				paths[i] = fmt.Sprintf("/opt/x/app%d/bin/other", i)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				s.Process = &conn.Process{PID: i + 1, Path: paths[i%len(paths)]}
				set.Decide(s)
				i++
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, m := range mixes() {
		b.Run(m.name, func(b *testing.B) {
			cfg := m.cfg()
			var names rules.Interfaces
			b.ReportAllocs()
			for b.Loop() {
				compile(b, cfg, rules.WithInterfaces(&names))
			}
		})
	}
}
