package kroute

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/splittunnel"
)

// Metrics of the routes in our tables.
const (
	usableMetric = 1
	// worstMetric is that of the unreachable default. If the sysctl was 0 before us, it is worstMetric-1: so whoever comes next,
	// without a state file or beside us, knows what to restore.
	worstMetric = 1<<32 - 1
)

// claim is one family of one number: what is ready, or not, as a whole.
type claim struct {
	number int
	family netif.Family
}

// look is what the kernel says of an interface that is wanted. It is comparable.
type look struct {
	link
	exists     bool
	has4, has6 bool // it has an address to send from
}

func newLook(l link, addrs []netip.Addr) look {
	k := look{link: l, exists: true}
	k.flags &= readyFlags // others come and go, and mean nothing here
	for _, a := range addrs {
		switch {
		case a.IsLoopback() || a.IsLinkLocalUnicast():
		case a.Is4():
			k.has4 = true
		default:
			k.has6 = true
		}
	}
	return k
}

// problem says why connections cannot leave; empty if they can.
func (k look) problem(p *splittunnel.Path) string {
	has := k.has4
	if p.Family == netif.IPv6 {
		has = k.has6
	}
	switch {
	case !k.exists:
		return fmt.Sprintf("%s is gone", p.Interface.Name)
	case k.name != p.Interface.Name:
		return fmt.Sprintf("%s was renamed to %s", p.Interface.Name, k.name)
	case !k.ready():
		return fmt.Sprintf("%s is down", p.Interface.Name)
	case !has:
		return fmt.Sprintf("%s has no %v address", p.Interface.Name, p.Family)
	}
	return ""
}

// openRoutes are the routes of a path: its networks first, because the gateway is in one of them.
func openRoutes(p *splittunnel.Path, table uint32) (routes []route, everywhere bool) {
	i := &p.Interface
	seen := make(map[netip.Prefix]bool)
	for _, n := range i.Networks {
		n = n.Masked()
		if wireFamily(n.Addr()) != p.Family || n.Bits() == 0 || seen[n] {
			continue
		}
		seen[n] = true
		routes = append(routes, route{routeKey: routeKey{table: table, dst: n, metric: usableMetric}, index: i.Index})
	}
	gateway := p.Default.Gateway.WithZone("")
	// A tunnel's default may live in a table of its own; whatever is sent into a point-to-point interface arrives.
	if !gateway.IsValid() && p.Default.Index == 0 && i.Flags&net.FlagPointToPoint == 0 {
		return routes, false
	}
	def := route{routeKey: routeKey{table: table, dst: everything(p.Family), metric: usableMetric}, index: i.Index, gateway: gateway}
	def.onlink = gateway.IsValid() && !gateway.IsLinkLocalUnicast() && !contains(i.Networks, gateway)
	return append(routes, def), true
}

func everything(f netif.Family) netip.Prefix {
	if f == netif.IPv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// unreachable is the route that remains when all others are gone.
func unreachable(f netif.Family, table, metric uint32) route {
	return route{routeKey: routeKey{table: table, dst: everything(f), metric: metric}, reject: true}
}

// target is what shall be in the kernel.
type target struct {
	closed []route
	// numbers have rules in all families of ours. Their priority depends on what else there is.
	numbers  []int
	families []netif.Family
	open     []route
}

// rules are those of the numbers, in the order of their making, by the priorities of the families.
func (s span) rules(t target, front map[netif.Family]uint32) []rule {
	var list []rule
	for _, n := range t.numbers {
		for _, f := range t.families {
			at := front[f]
			if at == 0 {
				at = s.Priority // no room in front: better late than not at all
			}
			list = append(list, s.guard(f, n, at), s.lookup(f, n, at))
		}
	}
	return list
}

// seen is what is there.
type seen struct {
	rules  map[rule]int // how often
	routes map[route]bool
	others map[claim]error // tables with routes of others
	front  map[netif.Family]uint32
}

// step is one change.
type step struct {
	claim
	do   func(*kernel) error
	what fmt.Stringer
	// kind says what the change is for.
	kind stepKind
}

// stepKind is what a change is for.
type stepKind uint8

const (
	closes  stepKind = iota // makes sure that packets are refused
	opens                   // lets packets pass
	removes                 // takes away what is too much
)

// steps lists the changes that lead from what is there to what shall be, in an order in which the host is never open: what refuses
// packets comes first, what lets them pass comes last.
func (s span) steps(t target, have seen) []step {
	var list []step
	byKey := make(map[routeKey]route, len(have.routes))
	for r := range have.routes {
		byKey[r.routeKey] = r
	}
	wantKeys := make(map[routeKey]bool, len(t.closed)+len(t.open))
	put := func(r route, kind stepKind) {
		if have.routes[r] {
			return
		}
		do := func(k *kernel) error { return k.addRoute(r) }
		if _, ours := byKey[r.routeKey]; ours {
			do = func(k *kernel) error { return k.replaceRoute(r) }
		}
		list = append(list, step{s.claimOf(r), do, r, kind})
	}
	for _, r := range t.closed {
		wantKeys[r.routeKey] = true
		put(r, closes)
	}
	for _, r := range t.open {
		wantKeys[r.routeKey] = true
	}
	rules := s.rules(t, have.front)
	wantRules := make(map[rule]bool, len(rules))
	for _, r := range rules {
		wantRules[r] = true
		if have.rules[r] == 0 {
			list = append(list, step{s.ruleClaim(r), func(k *kernel) error { return k.addRule(r) }, r, closes})
		}
	}
	for r := range have.routes {
		if !wantKeys[r.routeKey] {
			list = append(list, step{s.claimOf(r), func(k *kernel) error { return k.deleteRoute(r) }, r, removes})
		}
	}
	for _, r := range t.open {
		put(r, opens)
	}
	for r, n := range have.rules {
		if wantRules[r] {
			n--
		}
		for range n {
			list = append(list, step{s.ruleClaim(r), func(k *kernel) error { return k.deleteRule(r) }, r, removes})
		}
	}
	return list
}

func (s span) claimOf(r route) claim { return claim{int(r.table - s.Table), r.family()} }

func (s span) ruleClaim(r rule) claim { return claim{int(r.mark - s.Mark), r.family} }
