package rules_test

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

// reference is the slow, obvious twin of a Set: it reads the texts of the rules
// again for each connection and goes through them one by one.
type reference struct {
	cfg   rules.Config
	names map[uint32]string
}

// refOutcome is what the twin must agree on.
type refOutcome struct {
	Rule, Profile string
	Layer         rules.Layer
	Verdict       verdict.Verdict
	Ask, Inspect  bool
	NeedsDomain   bool
}

func outcomeOf(o rules.Outcome) refOutcome {
	r := refOutcome{
		Profile: o.Profile, Layer: o.Layer, Verdict: o.Decision.Verdict, Ask: o.Ask, Inspect: o.Inspect,
		NeedsDomain: o.NeedsDomain,
	}
	if o.Rule != nil {
		r.Rule = o.Rule.ID
	}
	return r
}

func (f *reference) decide(s *conn.Snapshot) refOutcome {
	var out refOutcome
	var doubts []rules.Rule
	profile := f.profile(s.Process)
	var lists [][]rules.Rule
	if profile != nil {
		out.Profile = profile.ID
		lists = append(lists, profile.Rules)
	} else {
		lists = append(lists, nil)
	}
	lists = append(lists, f.cfg.Global)
	for i, list := range lists {
		for _, r := range list {
			sure, possible := f.matches(&r, s)
			if sure {
				out.Rule, out.Layer = r.ID, rules.Layer(i+1)
				out.Verdict, out.Ask, out.Inspect = refVerdict(r.Action), r.Action == rules.Ask, r.Inspect
				out.NeedsDomain = s.Direction == packet.Outbound && differs(doubts, out)
				return out
			}
			if possible {
				doubts = append(doubts, r)
			}
		}
	}
	out.Layer = rules.LayerDefault
	a := f.fallback(profile, s)
	out.Ask = a == rules.Ask
	out.Verdict = refVerdict(a)
	if a == rules.Block && s.Direction == packet.Inbound {
		out.Verdict = verdict.Drop
	}
	out.NeedsDomain = s.Direction == packet.Outbound && differs(doubts, out)
	return out
}

func differs(doubts []rules.Rule, out refOutcome) bool {
	return slices.ContainsFunc(doubts, func(r rules.Rule) bool {
		return refVerdict(r.Action) != out.Verdict || r.Inspect != out.Inspect
	})
}

func refVerdict(a rules.Action) verdict.Verdict {
	switch a {
	case rules.Allow:
		return verdict.Accept
	case rules.Block:
		return verdict.Block
	case rules.Drop:
		return verdict.Drop
	case rules.Ask:
	}
	return verdict.Undecided
}

func (f *reference) fallback(p *rules.AppProfile, s *conn.Snapshot) rules.Action {
	pick := func(x rules.Defaults) rules.Action {
		switch {
		case s.Direction == packet.Outbound:
			return x.Out
		case s.Scope == netscope.Host, s.Scope == netscope.Unknown && s.Tuple.Remote.Addr().IsLoopback():
			return x.Local
		}
		return x.In
	}
	if p != nil && pick(p.Default) != 0 {
		return pick(p.Default)
	}
	if a := pick(f.cfg.Default); a != 0 {
		return a
	}
	return pick(rules.Defaults{In: rules.Block, Out: rules.Allow, Local: rules.Allow})
}

func (f *reference) profile(p *conn.Process) *rules.AppProfile {
	for i := range f.cfg.Apps {
		for _, m := range f.cfg.Apps[i].Match {
			if refApp(&m, p) {
				return &f.cfg.Apps[i]
			}
		}
	}
	return nil
}

// refApp checks a condition that is not empty.
func refApp(m *rules.AppMatch, p *conn.Process) bool {
	if m.Children {
		self := *m
		self.Children = false
		for a := p; a != nil && p.PID != 0; a = a.Parent {
			if refApp(&self, a) {
				return true
			}
		}
		return false
	}
	if p == nil || p.PID == 0 {
		return false
	}
	if m.Identity != "" && !refGlob(m.Identity, p.App.ID, false) || m.Unit != "" && !refGlob(m.Unit, p.App.Unit, false) {
		return false
	}
	if m.Path != "" && !refGlob(m.Path, p.Path, true) ||
		m.Script != "" && !refGlob(m.Script, p.Script, true) ||
		m.Cgroup != "" && !refGlob(m.Cgroup, p.Cgroup, true) ||
		m.Args != "" && !refGlob(m.Args, strings.Join(p.Args, " "), false) ||
		len(m.UIDs) != 0 && !slices.Contains(m.UIDs, p.UID) {
		return false
	}
	if m.Parent == nil {
		return true
	}
	for a := p.Parent; a != nil; a = a.Parent {
		if refApp(m.Parent, a) {
			return true
		}
	}
	return false
}

func (f *reference) matches(r *rules.Rule, s *conn.Snapshot) (sure, possible bool) {
	t := s.Tuple
	ports := t.Protocol == packet.TCP || t.Protocol == packet.UDP || t.Protocol == packet.UDPLite || t.Protocol == packet.SCTP
	switch {
	case r.Direction == rules.In && s.Direction != packet.Inbound,
		r.Direction == rules.Out && s.Direction != packet.Outbound,
		len(r.Protocols) != 0 && !slices.Contains(r.Protocols, t.Protocol),
		len(r.ICMP) != 0 && !slices.ContainsFunc(r.ICMP, func(n string) bool { return refICMP(n, t.Protocol, s.ICMPType) }),
		r.RemotePorts != "" && !(ports && refPorts(r.RemotePorts, t.Remote.Port())),
		r.LocalPorts != "" && !(ports && refPorts(r.LocalPorts, t.Local.Port())),
		len(r.Interfaces) != 0 && !f.onInterface(r.Interfaces, s.Interface),
		!isAny(&r.App) && !refApp(&r.App, s.Process):
		return false, false
	case len(r.Remote) == 0:
		return true, true
	}
	for _, e := range r.Remote {
		ok, domain := refRemote(e, s)
		if ok {
			return true, true
		}
		possible = possible || domain && s.Domain == "" && len(s.CNAMEs) == 0
	}
	return false, possible
}

func isAny(m *rules.AppMatch) bool {
	return m.Path == "" && m.Script == "" && m.Args == "" && m.Cgroup == "" && len(m.UIDs) == 0 && m.Parent == nil &&
		m.Identity == "" && m.Unit == ""
}

func (f *reference) onInterface(patterns []string, index uint32) bool {
	name := f.names[index]
	return name != "" && slices.ContainsFunc(patterns, func(p string) bool { return refGlob(p, name, false) })
}

func refICMP(name string, p packet.Protocol, typ uint8) bool {
	switch name {
	case "echo":
		return p == packet.ICMP && (typ == 0 || typ == 8) || p == packet.ICMPv6 && (typ == 128 || typ == 129)
	case "echo-request":
		return p == packet.ICMP && typ == 8 || p == packet.ICMPv6 && typ == 128
	case "icmp:3":
		return p == packet.ICMP && typ == 3
	case "icmpv6:135":
		return p == packet.ICMPv6 && typ == 135
	}
	panic("the generator does not make " + name)
}

func refPorts(list string, port uint16) bool {
	for _, part := range strings.Split(list, ",") {
		from, to, ok := strings.Cut(part, "-")
		if !ok {
			to = from
		}
		a, errA := strconv.Atoi(from)
		b, errB := strconv.Atoi(to)
		if errA != nil || errB != nil {
			panic("bad port " + part)
		}
		if int(port) >= a && int(port) <= b {
			return true
		}
	}
	return false
}

// refRemote also says whether the entry is a domain.
func refRemote(e string, s *conn.Snapshot) (ok, domain bool) {
	if name, isList := strings.CutPrefix(e, "list:"); isList {
		for _, entry := range worldLists()[name] {
			in, isDomain := refRemote(entry, s)
			ok, domain = ok || in, domain || isDomain
		}
		return ok, domain
	}
	a := s.Tuple.Remote.Addr()
	if p, err := netip.ParsePrefix(e); err == nil {
		return p.Contains(a), false
	}
	if x, err := netip.ParseAddr(e); err == nil {
		return x == a, false
	}
	if from, to, cut := strings.Cut(e, "-"); cut {
		if lo, err := netip.ParseAddr(from); err == nil {
			hi := netip.MustParseAddr(to)
			return lo.BitLen() == a.BitLen() && !a.Less(lo) && !hi.Less(a), false
		}
	}
	if strings.Contains(e, ".") {
		return slices.ContainsFunc(append([]string{s.Domain}, s.CNAMEs...), func(n string) bool { return refDomain(e, n) }), true
	}
	scope := s.Scope
	if scope == netscope.Unknown {
		scope = netscope.Of(a)
	}
	switch e {
	case "lan":
		return scope.IsLAN(), false
	case "local":
		return scope.IsLocal(), false
	case "multicast":
		return scope == netscope.LocalMulticast || scope == netscope.GlobalMulticast, false
	}
	return scope.String() == e, false
}

func refDomain(e, name string) bool {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	e = strings.TrimSuffix(strings.ToLower(e), ".")
	if below, ok := strings.CutPrefix(e, "*"); ok {
		return strings.HasSuffix(name, below)
	}
	if apex, ok := strings.CutPrefix(e, "."); ok {
		return name == apex || strings.HasSuffix(name, e)
	}
	return name == e
}

//nolint:gochecknoglobals // compiled expressions are slow to make
var refGlobs sync.Map

// refGlob matches by a regular expression.
func refGlob(glob, s string, isPath bool) bool {
	if s == "" {
		return false
	}
	key := glob + "\x00" + strconv.FormatBool(isPath)
	re, ok := refGlobs.Load(key)
	if !ok {
		re, _ = refGlobs.LoadOrStore(key, regexp.MustCompile(globExpr(glob, isPath)))
	}
	return re.(*regexp.Regexp).MatchString(s)
}

func globExpr(glob string, isPath bool) string {
	one := `.`
	if isPath {
		one = `[^/]`
	}
	out := `(?s)\A`
	for i := 0; i < len(glob); i++ {
		switch rest := glob[i:]; {
		case isPath && strings.HasPrefix(rest, "**/") && (i == 0 || glob[i-1] == '/'):
			out += `(?:.*/)?`
			i += 2
		case strings.HasPrefix(rest, "**"):
			out += `.*`
			i++
		case rest[0] == '*':
			out += one + `*`
		case rest[0] == '?':
			out += one
		case rest[0] == '[':
			end := strings.Index(rest[2:], "]") + 2
			class := strings.Replace(rest[:end], "[!", "[^", 1)
			if isPath && strings.HasPrefix(class, "[^") {
				class += "/"
			}
			out += class + "]"
			i += end
		default:
			out += regexp.QuoteMeta(rest[:1])
		}
	}
	return out + `\z`
}
