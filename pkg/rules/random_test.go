package rules_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

// world makes random rules and connections from few values, so that they meet.
type world struct {
	*rand.Rand
	// share is how likely a condition is given.
	share float64
	ids   int
}

func pick[T any](w *world, of ...T) T { return of[w.IntN(len(of))] }

func (w *world) chance() bool { return w.Float64() < w.share }

// some returns one to three values of make.
func some[T any](w *world, one func() T) []T {
	out := make([]T, 0, 3)
	for range 1 + w.IntN(3) {
		out = append(out, one())
	}
	return out
}

func (w *world) config(apps, rulesPerApp, global int) rules.Config {
	cfg := rules.Config{Global: w.rules(global), Default: w.defaults()}
	for i := range apps {
		cfg.Apps = append(cfg.Apps, rules.AppProfile{
			ID: fmt.Sprintf("app%d", i), Match: some(w, w.appMatch), Default: w.defaults(), Rules: w.rules(rulesPerApp),
		})
	}
	return cfg
}

func (w *world) defaults() rules.Defaults {
	return rules.Defaults{In: w.action(0), Out: w.action(0), Local: w.action(0)}
}

func (w *world) action(least int) rules.Action { return rules.Action(least + w.IntN(5-least)) }

func (w *world) rules(n int) []rules.Rule {
	out := make([]rules.Rule, 0, n)
	for range n {
		out = append(out, w.rule())
	}
	return out
}

func (w *world) rule() rules.Rule {
	w.ids++
	r := rules.Rule{ID: fmt.Sprintf("r%d", w.ids), Action: w.action(1), Inspect: w.IntN(8) == 0}
	if w.chance() {
		r.App = w.appMatch()
	}
	r.Direction = pick(w, rules.Both, rules.In, rules.Out)
	switch w.IntN(4) {
	case 0:
		r.Protocols = some(w, w.protocol)
	case 1:
		if w.chance() {
			r.RemotePorts = w.ports()
		}
		if w.IntN(3) == 0 {
			r.LocalPorts = w.ports()
		}
		if w.IntN(2) == 0 {
			r.Protocols = []packet.Protocol{pick(w, packet.TCP, packet.UDP)}
		}
	case 2:
		if w.IntN(2) == 0 {
			r.ICMP = some(w, func() string { return pick(w, "echo", "echo-request", "icmp:3", "icmpv6:135") })
		}
	}
	if w.chance() {
		r.Remote = some(w, w.remote)
	}
	if w.IntN(4) == 0 {
		r.Interfaces = some(w, func() string { return pick(w, "eth0", "wg*", "wg1", "docker?", "*") })
	}
	return r
}

func (w *world) protocol() packet.Protocol {
	return pick(w, packet.TCP, packet.UDP, packet.ICMP, packet.ICMPv6, packet.SCTP, packet.Protocol(47))
}

func (w *world) port() uint16 { return uint16(1 + w.IntN(60)) }

func (w *world) ports() string {
	return strings.Join(some(w, func() string {
		a, b := w.port(), w.port()
		if w.IntN(2) == 0 || a > b {
			return fmt.Sprint(a)
		}
		return fmt.Sprintf("%d-%d", a, b)
	}), ",")
}

func (w *world) addr() netip.Addr {
	if w.IntN(3) == 0 {
		a := [16]byte{0x20, 1, 0xd, 0xb8, 15: byte(w.IntN(8))}
		a[7] = byte(w.IntN(3))
		if w.IntN(4) == 0 {
			a[0], a[1] = 0xfe, 0x80
		}
		return netip.AddrFrom16(a)
	}
	return pick(w,
		netip.AddrFrom4([4]byte{10, byte(w.IntN(3)), 0, byte(w.IntN(8))}),
		netip.AddrFrom4([4]byte{192, 0, 2, byte(w.IntN(8))}),
		netip.AddrFrom4([4]byte{127, 0, 0, 1}),
		netip.AddrFrom4([4]byte{224, 0, 0, 251}),
		netip.AddrFrom4([4]byte{255, 255, 255, 255}),
	)
}

func (w *world) domain() string {
	return pick(w, "example.org", "a.example.org", "b.a.example.org", "example.com", "org.", "nas.", "xexample.org", "A.Example.COM.")
}

func (w *world) remote() string {
	a := w.addr()
	switch w.IntN(7) {
	case 0:
		return a.String()
	case 1:
		b := w.addr()
		if a.BitLen() == b.BitLen() && a.Less(b) {
			return a.String() + "-" + b.String()
		}
		return a.String()
	case 2:
		return netip.PrefixFrom(a, w.IntN(a.BitLen()+1)).Masked().String()
	case 3:
		return pick(w, "host", "link", "site", "global", "lan", "local", "multicast", "broadcast", "local-multicast", "unknown")
	case 6:
		return "list:" + pick(w, "names", "addrs", "both", "none")
	case 4:
		return pick(w, "*.", ".") + strings.TrimSuffix(w.domain(), ".")
	}
	d := w.domain()
	if !strings.Contains(d, ".") {
		d += "."
	}
	return d
}

func (w *world) appMatch() rules.AppMatch {
	var m rules.AppMatch
	m.Children = w.IntN(8) == 0
	switch w.IntN(8) {
	case 6:
		m.Identity = pick(w, "path:/usr/bin/curl", "path:/opt/*", "flatpak:*", "snap:x")
	case 7:
		m.Unit = pick(w, "a.service", "*.service", "user/*")
	case 0:
		m.Path = w.path()
	case 1:
		m.Path = pick(w, "/opt/**/bin/*", "/opt/*/x", "**/curl", "/usr/bin/*", "/usr/**", "/**", "/opt/?/bin/[a-x]", "/usr/bin/[!c]*", "/u**l")
	case 2:
		m.UIDs = some(w, func() uint32 { return uint32(w.IntN(3)) })
	case 3:
		m.Args = pick(w, "curl*", "*--fast*", "* -v", "x")
	case 4:
		m.Script = pick(w, "/home/u/a.py", "/home/**.py", "/home/*/b.py")
	default:
		m.Cgroup = pick(w, "/system.slice/a.service", "/system.slice/*", "/**")
	}
	if w.IntN(6) == 0 {
		p := w.appMatch()
		m.Parent = &p
	}
	if w.IntN(4) == 0 {
		m.UIDs = []uint32{uint32(w.IntN(3))}
	}
	return m
}

func (w *world) path() string {
	return pick(w, "/usr/bin/curl", "/usr/bin/wget", "/opt/a/bin/x", "/opt/bin/x", "/opt/a/b/bin/y", "/opt/a/x", "/usr/local/bin/curl")
}

func (w *world) process(depth int) *conn.Process {
	if depth == 0 || w.IntN(8) == 0 {
		return nil
	}
	p := &conn.Process{
		PID: w.IntN(5), UID: uint32(w.IntN(4)), Path: w.path(), StartTicks: uint64(w.IntN(3)),
		Args:   some(w, func() string { return pick(w, "curl", "--fast", "-v", "x") }),
		Cgroup: pick(w, "", "/", "/system.slice/a.service", "/system.slice/b.service", "/user.slice/c"),
		Script: pick(w, "", "/home/u/a.py", "/home/u/b.py", "/home/u/deep/c.py"),
		Parent: w.process(depth - 1),
		App: conn.App{
			ID:   pick(w, "", "path:/usr/bin/curl", "path:/opt/a/x", "flatpak:org.x", "snap:x"),
			Unit: pick(w, "", "a.service", "user/b.service"),
		},
	}
	if w.IntN(6) == 0 {
		p.Path = ""
	}
	return p
}

func (w *world) snapshot() *conn.Snapshot {
	remote := w.addr()
	s := &conn.Snapshot{
		Direction: pick(w, packet.Inbound, packet.Outbound, packet.Outbound),
		Tuple: packet.Tuple{
			Local:    netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), w.port()),
			Remote:   netip.AddrPortFrom(remote, w.port()),
			Protocol: w.protocol(),
		},
		Interface: uint32(w.IntN(6)),
		ICMPType:  pick[uint8](w, 0, 3, 8, 128, 129, 135),
		Process:   w.process(4),
	}
	switch w.IntN(3) {
	case 0:
		s.Scope = netscope.Of(remote)
	case 1:
		s.Scope = netscope.Site
	}
	if w.IntN(2) == 0 {
		s.Domain = w.domain()
	}
	if w.IntN(3) == 0 {
		for range w.IntN(6) {
			s.CNAMEs = append(s.CNAMEs, w.domain())
		}
	}
	return s
}

func worldInterfaces() map[uint32]string {
	return map[uint32]string{1: "lo", 2: "eth0", 3: "wg0", 4: "wg1", 5: "docker0"}
}
