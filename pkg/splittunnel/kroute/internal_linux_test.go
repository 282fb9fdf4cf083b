package kroute

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/splittunnel"
)

func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		want string // in the error; empty for none
	}{
		{"zero", Config{}, ""},
		{"most", Config{MaxRoutes: MaxRoutesLimit, StateFile: "/x"}, ""},
		{"too many", Config{MaxRoutes: 72}, "MaxRoutes is 72; use 1 to 71"},
		{"negative", Config{MaxRoutes: -1}, "MaxRoutes is -1"},
		{"marks end", Config{Mark: 1<<32 - 7}, "no room for 8 routes"},
		{"tables end", Config{Table: 1<<32 - 7}, "no room for 8 routes"},
		{"main", Config{Table: 254}, "set Table to 256 or more"},
		{"reaches main", Config{Table: 247}, "247 to 254"},
		{"below main", Config{Table: 245}, ""},
		{"after main", Config{Priority: 32766}, "before the rule of the main table"},
		{"guard at main", Config{Priority: 32765}, "use 1 to 32764"},
		{"last", Config{Priority: 32764}, ""},
		{"overflow", Config{Priority: 1<<32 - 1}, "Priority"},
		{"boot", Config{Protocol: 3}, "0 to 4 are the kernel's"},
		{"relative", Config{StateFile: "x"}, "whole path"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.cfg)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got error %v; want none", err)
			case tt.want != "" && (!errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got error %v; want ErrConfig with %q", err, tt.want)
			}
		})
	}
}

func TestNumbers(t *testing.T) {
	n := numbers{slots: make([]slot, 3)}
	for _, tt := range []struct{ want, numbers, left string }{
		{"a b", "a b -", ""},
		{"b c", "a b c", ""},
		{"c", "a b c", ""},        // a is unused, then b
		{"c d", "d b c", ""},      // the oldest unused
		{"c d", "d b c", ""},      // no change
		{"a b c", "a b c", ""},    // b still has its number
		{"a b c d", "a b c", "d"}, // there are three
		{"", "a b c", ""},
		{"e f", "e f c", ""}, // all became unused at once: the lowest first
	} {
		left, _ := n.assign(strings.Fields(tt.want))
		var names []string
		for _, s := range n.slots {
			if !s.taken {
				s.name = "-"
			}
			names = append(names, s.name)
		}
		if got := strings.Join(names, " "); got != tt.numbers || strings.Join(left, " ") != tt.left {
			t.Errorf("after %q: got %q, left %v; want %q, left %q", tt.want, got, left, tt.numbers, tt.left)
		}
	}
}

// model is a kernel that does what steps say.
type model struct {
	rules  map[rule]int
	routes map[route]bool
}

func (m model) apply(s step) {
	switch what := s.what.(type) {
	case rule:
		if s.kind == removes {
			m.rules[what]--
		} else {
			m.rules[what]++
		}
	case route:
		for r := range m.routes {
			if r.routeKey == what.routeKey {
				delete(m.routes, r) // deleted, or replaced
			}
		}
		if s.kind != removes {
			m.routes[what] = true
		}
	}
}

// refused reports whether a marked packet for which there is no usable route gets nowhere.
func (m model) refused(s span, f netif.Family, n int) bool {
	rejects := m.routes[unreachable(f, s.Table+uint32(n), worstMetric)] || m.routes[unreachable(f, s.Table+uint32(n), worstMetric-1)]
	for at := s.Priority - 9; at <= s.Priority; at++ {
		if m.rules[s.guard(f, n, at)] > 0 || m.rules[s.lookup(f, n, at)] > 0 && rejects {
			return true
		}
	}
	return false
}

// TestStepsStayClosed: from any state, the steps lead to the target, and none of them opens what was closed before.
func TestStepsStayClosed(t *testing.T) {
	s := Config{}.span()
	s.Mark, s.Table, s.Priority, s.MaxRoutes = 1719, 1719, 719, 3
	families := []netif.Family{netif.IPv4, netif.IPv6}
	prefixes := map[netif.Family]string{netif.IPv4: "192.0.2.0/24", netif.IPv6: "2001:db8::/64"}
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same numbers each time are wanted
	some := func() bool { return random.IntN(2) == 0 }
	pick := func(worst uint32, all bool) (t target, rules []rule) {
		t.families = families
		at := s.Priority - uint32(random.IntN(3))
		for n := range s.MaxRoutes {
			t.numbers = append(t.numbers, n)
			for _, f := range families {
				table := s.Table + uint32(n)
				if all || some() {
					t.closed = append(t.closed, unreachable(f, table, worst))
				}
				for _, r := range []rule{s.guard(f, n, at), s.lookup(f, n, at)} {
					if some() {
						rules = append(rules, r)
					}
				}
				for _, dst := range []netip.Prefix{netip.MustParsePrefix(prefixes[f]), everything(f)} {
					if some() {
						t.open = append(t.open, route{routeKey: routeKey{table, dst, usableMetric}, index: 1 + random.IntN(3)})
					}
				}
			}
		}
		return t, rules
	}
	for range 2000 {
		old, oldRules := pick(worstMetric-uint32(random.IntN(2)), false)
		now, _ := pick(worstMetric, true)
		front := map[netif.Family]uint32{netif.IPv4: uint32(random.IntN(2)) * 717, netif.IPv6: 719} // 0: no room
		m := model{map[rule]int{}, map[route]bool{}}
		for _, r := range oldRules {
			m.rules[r] += 1 + random.IntN(2)
		}
		for _, r := range slices.Concat(old.closed, old.open) {
			m.routes[r] = true
		}
		closed := map[claim]bool{}
		check := func(what any) {
			for n := range s.MaxRoutes {
				for _, f := range families {
					is := m.refused(s, f, n)
					if closed[claim{n, f}] && !is {
						t.Fatalf("%v opens %v of number %d", what, f, n)
					}
					closed[claim{n, f}] = is
				}
			}
		}
		check("start")
		for _, st := range s.steps(now, seen{rules: m.rules, routes: m.routes, front: front}) {
			if st.kind == opens && !closed[st.claim] {
				t.Fatalf("%v comes before %v is closed", st.what, st.claim)
			}
			m.apply(st)
			check(st.what)
		}
		if rest := s.steps(now, seen{rules: m.rules, routes: m.routes, front: front}); len(rest) > 0 {
			t.Fatalf("%d steps are left, the first is %v", len(rest), rest[0].what)
		}
	}
}

// TestIntegrationEventsLost: a buffer that was too small is told, and the socket goes on.
func TestIntegrationEventsLost(t *testing.T) {
	host := testnet.New(t).Host("client")
	var v *events
	if err := host.Do(func() (err error) {
		v, err = openEvents(Config{Table: 1719, Priority: 719, MaxRoutes: 8}.span(), 1)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	host.Run(t, "sh", "-c", "for i in $(seq 250); do echo route add unreachable 10.0.$i.0/24 table 1719; done | ip -batch -")
	for {
		lost, err := v.receive()
		if err != nil {
			t.Fatal(err)
		}
		if lost {
			break
		}
	}
	host.Run(t, "ip", "rule", "add", "priority", "720", "lookup", "main")
	if _, err := v.receive(); err != nil {
		t.Error(err)
	}
	if err := v.close(); err != nil {
		t.Error(err)
	}
}

// FuzzDecode: no message of any kind makes the decoders panic, and what they take for ours they encode to the same.
func FuzzDecode(f *testing.F) {
	for _, r := range []rule{{netif.IPv4, 719, 1719, 1719}, {netif.IPv6, 720, 1720, 0}} {
		b, err := r.encode(DefaultProtocol)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, r := range []route{
		unreachable(netif.IPv4, 1719, worstMetric),
		unreachable(netif.IPv6, 1719, worstMetric),
		{routeKey: routeKey{1719, netip.MustParsePrefix("192.0.2.0/24"), 1}, index: 3},
		{routeKey: routeKey{1719, everything(netif.IPv4), 1}, index: 3, gateway: netip.MustParseAddr("fe80::1")},
		{routeKey: routeKey{1719, everything(netif.IPv6), 1}, index: 3, gateway: netip.MustParseAddr("2001:db8::1"), onlink: true},
	} {
		b, err := r.encode(DefaultProtocol, r.scope())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(linkRequest(3))
	f.Add(addrRequest(3))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRule(b); err == nil && r.plain {
			if again := reencodeRule(t, r); again != r {
				t.Errorf("got %+v; want %+v", again, r)
			}
		}
		if r, err := decodeRoute(b); err == nil && r.plain && !r.cloned {
			if again := reencodeRoute(t, r); again != r {
				t.Errorf("got %+v; want %+v", again, r)
			}
		}
		if _, err := decodeLink(b); err != nil && len(b) >= unix.SizeofIfInfomsg && errors.Is(err, errShort) {
			t.Errorf("%d bytes are too short: %v", len(b), err)
		}
		if _, a, err := decodeAddr(b); err != nil && a.IsValid() {
			t.Errorf("got address %v with error %v", a, err)
		}
	})
}

func reencodeRule(t *testing.T, r seenRule) seenRule {
	t.Helper()
	b, err := r.encode(r.protocol)
	if err != nil {
		t.Fatal(err)
	}
	again, err := decodeRule(b)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func reencodeRoute(t *testing.T, r seenRoute) seenRoute {
	t.Helper()
	b, err := r.encode(r.protocol, r.scope())
	if err != nil {
		t.Fatal(err)
	}
	again, err := decodeRoute(b)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// takeable is an engine with eight paths, as Run would make it.
func takeable(tb testing.TB) (*Engine, packet.Tuple, splittunnel.Path) {
	tb.Helper()
	e, err := New(Config{})
	if err != nil {
		tb.Fatal(err)
	}
	v := &view{paths: map[pathKey]*entry{}}
	for i := range 8 {
		v.paths[pathKey{"eth" + string(rune('0'+i)), netif.IPv4}] = &entry{number: uint8(i), index: i + 1}
	}
	e.view.Store(v)
	p := splittunnel.Path{Family: netif.IPv4, Choice: netif.Choice{Interface: netif.Interface{Name: "eth5", Index: 6}}}
	return e, packet.Tuple{Remote: netip.MustParseAddrPort("192.0.2.1:80"), Protocol: packet.TCP}, p
}

func TestTake(t *testing.T) {
	e, tuple, p := takeable(t)
	if n, err := e.Take(tuple, p); n != 5 || err != nil {
		t.Errorf("got %d, %v; want 5", n, err)
	}
	if allocs := testing.AllocsPerRun(1000, func() { _, _ = e.Take(tuple, p) }); allocs != 0 { // only the allocations count
		t.Errorf("Take allocates %v times; want 0", allocs)
	}
	other, v6 := p, tuple
	other.Interface.Index = 7
	v6.Remote = netip.MustParseAddrPort("[2001:db8::1]:80")
	unknown := p
	unknown.Interface.Name = "eth9"
	for name, err := range map[string]error{
		"another index": second(e.Take(tuple, other)), "another family": second(e.Take(v6, p)), "unknown": second(e.Take(tuple, unknown)),
	} {
		if !errors.Is(err, splittunnel.ErrNotReady) {
			t.Errorf("%s: got error %v; want ErrNotReady", name, err)
		}
	}
	for proto, want := range map[packet.Protocol]bool{
		packet.TCP: true, packet.UDP: true, packet.ICMP: true, packet.ICMPv6: true, packet.SCTP: false, packet.IGMP: false,
	} {
		if got := e.Carries(proto); got != want {
			t.Errorf("Carries(%v) is %v; want %v", proto, got, want)
		}
	}
}

func second(_ uint8, err error) error { return err }

func BenchmarkTake(b *testing.B) {
	e, tuple, p := takeable(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Take(tuple, p); err != nil {
			b.Fatal(err)
		}
	}
}
