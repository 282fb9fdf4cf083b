package rules

import (
	"slices"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
)

// Split says which connections leave by an interface of their own although
// another one, usually a VPN's, owns the default route. The zero value of a
// Config splits nothing, that of an AppProfile goes by the Config's.
type Split struct {
	// Use turns the split tunnel on or off. Unset inherits: a profile from the
	// Config; there it is off.
	Use *bool `json:"use,omitempty" yaml:"use,omitempty"`
	// Interface is the one to leave by: its name, an address, its hardware
	// address or its index. Empty is the best physical default. Unset inherits:
	// a profile from the Config; there it is empty.
	Interface *string `json:"interface,omitempty" yaml:"interface,omitempty"`
	// Include narrows the split tunnel to connections that an entry matches. A
	// profile's list takes the place of the Config's. An empty list is no list:
	// to include everything although the Config has a list, name 0.0.0.0/0 and
	// ::/0.
	Include []SplitRule `json:"include,omitempty" yaml:"include,omitempty"`
	// Exclude keeps connections that an entry matches out of it. The Config's
	// list holds for every app, in addition to the profile's.
	Exclude []SplitRule `json:"exclude,omitempty" yaml:"exclude,omitempty"`
}

// SplitRule is a condition on connections; it needs at least one of Protocols,
// Remote and RemotePorts. All that are given must hold.
type SplitRule struct {
	// ID is for people and programs that want to name the entry. Optional; if
	// given, unique among the split entries of a Config.
	ID string `json:"id,omitempty" yaml:"id,omitempty"`
	// Comment is for people. Optional.
	Comment string `json:"comment,omitempty" yaml:"comment,omitempty"`
	// Protocols are TCP, UDP, ICMP and ICMPv6; one is enough.
	Protocols []packet.Protocol `json:"protocols,omitempty" yaml:"protocols,omitempty"`
	// Remote is who is on the other side, as in Rule.Remote.
	Remote []string `json:"remote,omitempty" yaml:"remote,omitempty"`
	// RemotePorts such as "80,443,8000-8100".
	RemotePorts string `json:"remotePorts,omitempty" yaml:"remote_ports,omitempty"`
}

// SplitOutcome is what a Set says about the way a connection leaves.
type SplitOutcome struct {
	// Use is set if the connection leaves by an interface of its own.
	Use bool
	// Interface is the one it leaves by, as the Config has it; "" is the best
	// physical default. It is "" also where Use is not set.
	Interface string
	// Profile is the id of the app's profile, "" if it has none.
	Profile string
	// NeedsDomain is set if the domain is not known and an entry with domains
	// could turn Use around. With Use, an exclude entry may match.
	NeedsDomain bool
	// Why is for people: what decided.
	Why string
}

// splitter is what a Set knows about the split tunnel. Its entries have domains
// of their own, so that they cost decisions by rules nothing.
type splitter struct {
	// global is for connections without a profile.
	global     splitPolicy
	domains    domainTable
	hasDomains bool
	// interfaces is sorted.
	interfaces []string
}

// splitPolicy is a Split with what it inherits.
type splitPolicy struct {
	use   bool
	iface string
	// exclude has the profile's list and the global one, include the one in
	// force. A list is nil if it has no entries.
	exclude [2]*list
	include *list
	// useBy and ifaceBy are the layers that say so.
	useBy, ifaceBy Layer
	// whyUse is the reason where no entry decides, whyNone where no entry of
	// include matches, whyUnsure the same while the domain is not known.
	whyUse, whyNone, whyUnsure string
}

const (
	whyNoRules = "there are no rules"
	whyInbound = "the connection is inbound"
)

// Split returns whether a connection leaves by an interface of its own, and by
// which. Connections that are not outbound never do, and without a Set none
// does. Which connections a split tunnel can carry at all (protocols, addresses
// on this link) is not its business. It allocates only where Decide does.
func (t *Set) Split(s *conn.Snapshot) SplitOutcome {
	if t == nil {
		return SplitOutcome{Why: whyNoRules}
	}
	p, profile := t.splitPolicyOf(s.Process)
	switch {
	case s.Direction != packet.Outbound:
		return SplitOutcome{Profile: profile, Why: whyInbound}
	case !p.use:
		return SplitOutcome{Profile: profile, Why: p.whyUse}
	}
	var q query
	t.prepareSplit(&q, s)
	o := p.decide(&q)
	o.Profile = profile
	return o
}

// splitPolicyOf returns the policy of a process and the id of its profile.
func (t *Set) splitPolicyOf(process *conn.Process) (p *splitPolicy, profile string) {
	v := t.viewOf(process)
	if v.profile < 0 {
		return &t.split.global, ""
	}
	return t.profiles[v.profile].split, t.profiles[v.profile].id
}

// prepareSplit fills in q, which is zero, with what split entries look at.
func (t *Set) prepareSplit(q *query, s *conn.Snapshot) {
	q.fill(s)
	if t.split.hasDomains {
		q.setDomains(t.split.domains, s.Domain, t.cnamesOf(s))
	}
	q.setLists(&t.lists, s.Tuple.Remote.Addr())
}

// decide is for a policy that is in use.
func (p *splitPolicy) decide(q *query) SplitOutcome {
	o := SplitOutcome{Use: true, Interface: p.iface, Why: p.whyUse}
	for _, l := range p.exclude {
		r, unsure := l.find(q)
		if r != nil {
			return SplitOutcome{Why: r.why()}
		}
		o.NeedsDomain = o.NeedsDomain || unsure
	}
	if p.include == nil {
		return o
	}
	switch r, unsure := p.include.find(q); {
	case r != nil:
		o.Why = r.why()
	case unsure:
		return SplitOutcome{NeedsDomain: true, Why: p.whyUnsure}
	default:
		return SplitOutcome{Why: p.whyNone}
	}
	return o
}

// find returns the first entry that matches. If there is none, unsure tells
// whether there could be one if the domain were known. A nil list has none.
func (l *list) find(q *query) (r *rule, unsure bool) {
	if l == nil {
		return nil, false
	}
	if r = l.first(q); r != nil || !q.domainUnknown {
		return r, false
	}
	return nil, l.maybeOther(q, len(l.rules), noEffect)
}

// why is the text of a split entry.
func (r *rule) why() string { return r.decision.Reason.Text }

// SplitOn reports whether the split tunnel is in use: globally or by a profile.
func (t *Set) SplitOn() bool { return t != nil && len(t.split.interfaces) != 0 }

// SplitInterfaces returns, sorted, every value that SplitOutcome.Interface can
// have where Use is set; "" is the best physical default. It is empty exactly
// if the split tunnel is not in use.
func (t *Set) SplitInterfaces() []string {
	if t == nil {
		return nil
	}
	return slices.Clone(t.split.interfaces)
}
