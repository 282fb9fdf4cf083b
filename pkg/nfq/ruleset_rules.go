package nfq

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// family is an address family of iptables.
type family uint8

const (
	family4 family = iota
	family6
	numFamilies
)

// familyNames holds what differs between the two families. Everything else is the same list.
type familyNames struct {
	program     string // iptables or ip6tables
	icmp        string // matches ICMP, with a type to follow
	echo        [2]string
	adminReject string      // what REJECT sends
	admin       string      // its type and code
	unreachable string      // the type of answers for closed ports
	neighbours  [2][]string // types that must pass, out and in
	// reach are those of them that find neighbours: the solicitations, and what neighbours answer. Advertisements of routers are
	// not among them, nor are redirects: other software may well have rules that refuse to be led by those.
	reach []string
}

var families = [numFamilies]familyNames{
	family4: {
		program: "iptables", icmp: "-p icmp -m icmp --icmp-type", echo: [2]string{"8", "0"},
		adminReject: "icmp-admin-prohibited", admin: "3/13", unreachable: "3",
	},
	family6: {
		program: "ip6tables", icmp: "-p ipv6-icmp -m icmp6 --icmpv6-type", echo: [2]string{"128", "129"},
		adminReject: "icmp6-adm-prohibited", admin: "1/1", unreachable: "1",
		neighbours: [2][]string{{"133", "134", "135", "136", "143"}, {"133", "134", "135", "136"}},
		reach:      []string{"133", "135", "136"},
	},
}

// String returns "IPv4" or "IPv6".
func (f family) String() string {
	if f == family6 {
		return "IPv6"
	}
	return "IPv4"
}

// chain is one of our chains, or with a jump a place at the top of a built-in one that leads to it.
type chain struct {
	name  string
	from  string // built-in chain whose first rule jumps here; empty if none
	rules []string
}

type table struct {
	name   string
	chains []chain
}

// ruleset is everything of ours in the iptables of one family: the tables in the order in which they are loaded.
type ruleset struct {
	family family
	prefix string
	tables []table
}

// suffixes of our chains. A chain with our prefix and another suffix is somebody else's.
var chainSuffixes = []string{"OUT", "IN", "PRE", "POST", "S", "V", "B", "D", "E", "F", "N"} //nolint:gochecknoglobals // a table that nobody writes

// newRuleset returns the rules of cfg, which has its defaults, for one family. Filter is first and mangle last, so that nothing
// is queued before the verdicts mean something. No table at all is the empty set, which removes ours.
func newRuleset(cfg HostConfig, f family) ruleset {
	b := builder{cfg: cfg, f: f, m: cfg.Marks, n: families[f]}
	rs := ruleset{family: f, prefix: cfg.ChainPrefix, tables: []table{b.filter()}}
	if nat := b.nat(); len(nat.chains) > 0 {
		rs.tables = append(rs.tables, nat)
	}
	rs.tables = append(rs.tables, b.mangle())
	return rs
}

type builder struct {
	cfg HostConfig
	f   family
	m   Marks
	n   familyNames
}

func (b builder) chain(suffix string) string { return b.cfg.ChainPrefix + "-" + suffix }

// noOwner matches packets of the kernel itself.
const noOwner = " -m owner ! --uid-owner 0-4294967294"

func packetMark(x any) string { return fmt.Sprintf("-m mark --mark %v", x) }
func connMark(x any) string   { return fmt.Sprintf("-m connmark --mark %v", x) }

// ourBlock is our marks as one set.
func (b builder) ourBlock() maskedMark {
	value, mask := b.m.block()
	return maskedMark{value, mask}
}

// labelled matches connections with judgedLabel.
func labelled() string { return fmt.Sprintf("-m connlabel --label %d", judgedLabel) }

func (b builder) filter() table {
	t := table{name: "filter"}
	if ways := b.redirects(); len(ways) > 0 {
		t.chains = append(t.chains, chain{name: b.chain("D"), rules: b.redirected(ways)})
	}
	t.chains = append(t.chains, []chain{
		{name: b.chain("B"), rules: []string{
			// An answer to an echo would tell more than silence, and REJECT does not answer every ICMP.
			b.n.icmp + " " + b.n.echo[0] + " -j DROP",
			b.n.icmp + " " + b.n.echo[1] + " -j DROP",
			"-j REJECT --reject-with " + b.n.adminReject,
		}},
		{name: b.chain("V"), rules: b.verdicts()},
		{name: b.chain("OUT"), from: "OUTPUT", rules: append(b.found(noOwner), []string{
			b.settled(),
			packetMark(b.m.Accept) + " -j RETURN",
			connMark(b.m.AcceptFinal) + " -j ACCEPT",
			packetMark(b.m.AcceptFinal) + " -j CONNMARK --save-mark",
			packetMark(b.m.AcceptFinal) + " -j ACCEPT",
			"-j " + b.chain("V"),
		}...)},
		{name: b.chain("IN"), from: "INPUT", rules: append(b.found(""), []string{
			b.settled(),
			packetMark(b.m.Accept) + " -j RETURN",
			connMark(b.m.AcceptFinal) + " -j ACCEPT",
			"-j " + b.chain("V"),
		}...)},
	}...)
	if len(b.n.reach) > 0 {
		// N ends the built-in chain for what finds neighbours: a connection that nobody may override would not get anywhere if
		// others could keep the next hop from being found. What else comes here goes back to them.
		var rules []string
		for _, kind := range b.n.reach {
			rules = append(rules, b.n.icmp+" "+kind+" -j ACCEPT")
		}
		t.chains = append([]chain{{name: b.chain("N"), rules: rules}}, t.chains...)
	}
	return t
}

// settled lets nearly every packet go at once: those of accepted connections, which carry no mark of their own. It is the first rule
// wherever such a packet would return in the end, because every packet pays for each rule that it meets; only neighbour discovery, which
// must not return, is looked for before.
func (b builder) settled() string {
	return packetMark(0) + " " + connMark(b.m.AcceptAlways) + " -j RETURN"
}

// found sends accepted neighbour discovery to N: what a router has forwarded has another hop limit.
func (b builder) found(sender string) []string {
	if len(b.n.reach) == 0 {
		return nil
	}
	protocol, _, _ := strings.Cut(b.n.icmp, " -m ")
	return []string{protocol + " " + packetMark(b.m.Accept) + " -m hl --hl-eq 255" + sender + " -g " + b.chain("N")}
}

// way is where connections with some marks are sent.
type way struct {
	marks maskedMark
	to    netip.AddrPort
}

// redirects returns the ways that are DNAT and on.
func (b builder) redirects() []way {
	var ways []way
	add := func(marks maskedMark, to netip.AddrPort) {
		if to.IsValid() {
			ways = append(ways, way{marks, to})
		}
	}
	add(maskedMark{b.m.Nameserver, ^uint32(0)}, b.cfg.Redirects.Nameserver.to(b.f))
	add(maskedMark{b.m.Tunnel, ^uint32(0)}, b.cfg.Redirects.Tunnel.to(b.f))
	for _, set := range b.m.splitTun() {
		add(set, b.cfg.Redirects.SplitTun.to(b.f))
	}
	return ways
}

// redirected lets a packet go on only if its connection goes where its mark says. An established connection does not pass nat
// again, other protocols than TCP and UDP never do, and neither must leave by the way it would have gone otherwise.
func (b builder) redirected(ways []way) []string {
	var rules []string
	for _, w := range ways {
		rules = append(rules, fmt.Sprintf("%s -m conntrack --ctreplsrc %v -j RETURN", packetMark(w.marks), w.to.Addr()))
	}
	return append(rules, "-j DROP")
}

// verdicts carries out what the marks say, first those of connections, then those of packets.
func (b builder) verdicts() []string {
	var rules []string
	add := func(parts ...string) { rules = append(rules, strings.Join(parts, " ")) }
	for _, set := range b.m.passing(b.cfg.Redirects, b.f) {
		add(connMark(set), "-j RETURN")
	}
	add(labelled(), "-j RETURN")
	add(connMark(b.m.DropAlways), "-j DROP")
	add(connMark(b.m.BlockAlways), "-g", b.chain("B"))
	if b.cfg.Mode == Enforce {
		add(packetMark(0), "-j DROP")
	}
	// Other software's marks stay; whether such a packet passes was decided in mangle.
	add("-m mark ! --mark", b.ourBlock().String(), "-j RETURN")
	add(packetMark(b.m.Drop), "-j DROP")
	add(packetMark(b.m.Block), "-g", b.chain("B"))
	for _, set := range b.m.refusedRoutes(b.cfg.Redirects, b.f) {
		add(packetMark(set), "-j DROP")
	}
	for _, way := range b.redirects() {
		add(packetMark(way.marks), "-j", b.chain("D"))
	}
	foreign := "-m connmark ! --mark 0 -m connmark ! --mark " + b.ourBlock().String()
	add(packetMark(b.m.AcceptAlways), foreign, labelled(), "--set -j RETURN")
	// No room for labels: the connection is older than our rules. It stays judged packet by packet.
	add(packetMark(b.m.AcceptAlways), foreign, "-j RETURN")
	add("-j CONNMARK --save-mark")
	add(packetMark(b.m.DropAlways), "-j DROP")
	add(packetMark(b.m.BlockAlways), "-g", b.chain("B"))
	return rules
}

func (b builder) nat() table {
	var rules []string
	for _, w := range b.redirects() {
		for _, proto := range []string{"udp", "tcp"} {
			rules = append(rules, fmt.Sprintf("-p %s %s -j DNAT --to-destination %v", proto, packetMark(w.marks), w.to))
		}
	}
	t := table{name: "nat"}
	if len(rules) > 0 {
		t.chains = append(t.chains, chain{name: b.chain("OUT"), from: "OUTPUT", rules: rules})
	}
	if b.cfg.Redirects.RouteSplitTun {
		// A socket takes its address from the way that it would have gone.
		rules := []string{packetMark(0) + " -j RETURN"}
		for _, set := range b.m.splitTun() {
			rules = append(rules, "! -o lo "+packetMark(set)+" -j MASQUERADE")
		}
		t.chains = append(t.chains, chain{name: b.chain("POST"), from: "POSTROUTING", rules: rules})
	}
	return t
}

func (b builder) mangle() table {
	exempt := []string{
		packetMark(0) + " -j MARK --set-mark " + fmt.Sprint(b.m.Accept),
		packetMark(b.ourBlock()) + " -j MARK --set-mark " + fmt.Sprint(b.m.Accept),
	}
	t := table{name: "mangle", chains: []chain{
		// E exempts what the kernel itself says. A mark of other software stays.
		{name: b.chain("E"), rules: exempt},
		{name: b.chain("F"), rules: []string{
			packetMark(maskedMark{bitJudged | bitForGood, bitJudged | bitForGood}) + " " + labelled() + " --set",
			fmt.Sprintf("-j MARK --set-xmark 0/%#x", uint32(bitJudged|bitForGood)),
		}},
		{name: b.chain("PRE"), from: "PREROUTING", rules: b.prerouting()},
		{name: b.chain("OUT"), from: "OUTPUT", rules: b.output()},
		{name: b.chain("IN"), from: "INPUT", rules: b.input()},
	}}
	if b.cfg.Redirects.RouteSplitTun {
		// S gives a packet the mark of its connection, and that is all there is to do about it.
		t.chains = append([]chain{{name: b.chain("S"), rules: []string{"-j CONNMARK --restore-mark"}}}, t.chains...)
	}
	if rules := b.postrouting(); len(rules) > 0 {
		t.chains = append(t.chains, chain{name: b.chain("POST"), from: "POSTROUTING", rules: rules})
	}
	if len(b.n.reach) > 0 {
		// N is E for what finds neighbours, and ends the built-in chain.
		t.chains = append([]chain{{name: b.chain("N"), rules: append(exempt, "-j ACCEPT")}}, t.chains...)
	}
	return t
}

func (b builder) prerouting() []string {
	// Over loopback a packet keeps its mark, and the receiving side would not be judged.
	rules := []string{"-i lo " + packetMark(b.ourBlock()) + " -j MARK --set-mark 0"}
	if b.cfg.Redirects.RouteSplitTun {
		// Before the reverse path is checked, which is done by marks, too.
		rules = append(rules, connMark(0)+" -j RETURN", connMark(b.m.AcceptAlways)+" -j RETURN")
		for _, set := range b.m.splitTun() {
			rules = append(rules, "! -i lo "+connMark(set)+" -g "+b.chain("S"))
		}
	}
	return rules
}

// postrouting looks at packets when their interface is final.
func (b builder) postrouting() []string {
	var rules []string
	if b.cfg.Redirects.SplitTun.to(b.f).IsValid() {
		// The last acknowledgements of a socket of the proxy that is closed (TIME_WAIT) may pass by its interface only. Without a
		// route there, the kernel sends those of IPv6 by another one, from the address of the first; and so it does with what
		// it routes again because a verdict came with a mark.
		rules = append(rules, "-p tcp "+connMark(b.m.AcceptFinal)+noOwner+" -m addrtype ! --src-type LOCAL --limit-iface-out -j DROP")
	}
	if !b.cfg.Redirects.RouteSplitTun {
		return rules
	}
	// A VPN's kill switch must not stop what shall not go through the VPN.
	rules = append(rules, packetMark(0)+" -j RETURN")
	for _, set := range b.m.splitTun() {
		rules = append(rules, "! -o lo "+packetMark(set)+" -j ACCEPT")
	}
	return rules
}

func (b builder) output() []string {
	rules := []string{b.settled(), b.n.icmp + " " + b.n.admin + noOwner + " -g " + b.chain("E")}
	for _, kind := range b.n.neighbours[0] {
		to := b.chain("E")
		if slices.Contains(b.n.reach, kind) {
			to = b.chain("N")
		}
		rules = append(rules, b.n.icmp+" "+kind+noOwner+" -g "+to)
	}
	if b.cfg.Redirects.SplitTun.to(b.f).IsValid() {
		// What the kernel answers where a socket of the proxy was goes by the host's routes, not by the interface that the socket
		// was bound to.
		lost := connMark(b.m.AcceptFinal) + noOwner
		rules = append(rules,
			"-p tcp -m tcp --tcp-flags RST RST "+lost+" -j DROP",
			b.n.icmp+" "+b.n.unreachable+" "+lost+" -j DROP",
		)
	}
	rules = append(rules,
		packetMark(b.m.AcceptFinal)+" -j ACCEPT",
		connMark(b.m.AcceptFinal)+" -j ACCEPT",
	)
	if b.cfg.Redirects.RouteSplitTun {
		rules = append(rules, connMark(b.m.AcceptAlways)+" -j RETURN")
		for _, set := range b.m.splitTun() {
			rules = append(rules, connMark(set)+" -g "+b.chain("S"))
		}
	}
	return append(rules, b.queue(b.queueNumber(true))...)
}

func (b builder) input() []string {
	rules := []string{b.settled(), "-i lo " + b.n.icmp + " " + b.n.admin + " -g " + b.chain("E")}
	for _, kind := range b.n.neighbours[1] {
		rules = append(rules, b.n.icmp+" "+kind+" -m hl --hl-eq 255 -g "+b.chain("E"))
	}
	return append(rules, b.queue(b.queueNumber(false))...)
}

// queue is the common end: what is decided returns, the rest is asked about.
func (b builder) queue(number uint16) []string {
	queue := fmt.Sprintf("-j NFQUEUE --queue-num %d", number)
	if b.cfg.Mode == Observe {
		queue += " --queue-bypass"
	}
	return []string{
		connMark(b.ourBlock()) + " -j RETURN",
		labelled() + " -j RETURN",
		packetMark(maskedMark{bitJudged, bitJudged}) + " -g " + b.chain("F"),
		packetMark(b.ourBlock()) + " -j RETURN",
		queue,
	}
}

func (b builder) queueNumber(out bool) uint16 {
	q := b.cfg.Queues
	switch {
	case out && b.f == family4:
		return q.Out4
	case out:
		return q.Out6
	case b.f == family4:
		return q.In4
	}
	return q.In6
}
