package rules

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Set is compiled rules. It does not change, but for the hit counters; all
// methods may be called from any goroutine. A nil Set denies everything.
type Set struct {
	profiles []profile
	global   list
	fallback *fallback
	// rules in order: of the apps, then the global ones.
	rules []*rule
	byID  map[string]*rule

	apps       appTable
	ifaces     ifaceTable
	domains    domainTable
	hasDomains bool
	split      splitter
	lists      listTable
	// ignoreCNAMEs: only the name that was asked for counts.
	ignoreCNAMEs bool

	seed      maphash.Seed
	unknown   *view
	byPointer viewCache
	byContent viewCache
}

// profile is a compiled AppProfile.
type profile struct {
	id       string
	fallback *fallback
	list     list
	// split is shared by all profiles that say nothing about it.
	split *splitPolicy
	// preventDNSBypass is nil where the profile does not say.
	preventDNSBypass *bool
}

// Outcome is what a Set says about a connection.
type Outcome struct {
	// Action of the rule or of the default. It is Drop where a default of
	// block drops; see DenyFor.
	Action Action
	// Decision follows from Action, for this packet. With Ask its verdict is
	// Undecided.
	Decision verdict.Decision
	// Ask is set if the user has to be asked; see AskTimeout.
	Ask bool
	// Inspect is set if the decision must not be made permanent.
	Inspect bool
	// NeedsDomain is set if the connection is outbound, its domain is not
	// known, and a rule with domains could have led to something else.
	NeedsDomain bool
	// Rule that decided, nil for a default.
	Rule *RuleInfo
	// Layer that decided, 0 without a Set.
	Layer Layer
	// Profile is the id of the app's profile, "" if it has none.
	Profile string
}

// Decide returns what the rules say about a connection and counts a hit. It
// does not allocate, but when it sees a process for the first time, or a
// connection with more than three names that rules are about.
func (t *Set) Decide(s *conn.Snapshot) Outcome {
	o := t.Evaluate(s)
	if o.Rule != nil {
		o.Rule.Hit()
	}
	return o
}

// Evaluate is Decide without counting, for callers that may ask again.
func (t *Set) Evaluate(s *conn.Snapshot) Outcome {
	if t == nil {
		return noRules(s.Direction)
	}
	var q query
	t.prepare(&q, s)
	p := t.profileOf(&q)
	r := t.winner(&q, p)
	o := t.outcome(&q, p, r)
	if q.domainUnknown && t.hasDomains && q.direction == packet.Outbound {
		o.NeedsDomain = t.needsDomain(&q, p, r, o.effect())
	}
	return o
}

// winner returns the rule that decides, nil if there is none.
func (t *Set) winner(q *query, p *profile) *rule {
	if p != nil {
		if r := p.list.first(q); r != nil {
			return r
		}
	}
	return t.global.first(q)
}

// outcome returns what r, or the default if r is nil, leads to.
func (t *Set) outcome(q *query, p *profile, r *rule) Outcome {
	var o Outcome
	switch {
	case r != nil:
		o = Outcome{
			Action: r.info.Action, Decision: r.decision, Ask: r.info.Action == Ask, Inspect: r.src.Inspect,
			Rule: &r.info, Layer: r.info.Layer,
		}
	case p != nil && p.fallback.of(q).Layer != 0:
		o = *p.fallback.of(q)
	default:
		o = *t.fallback.of(q)
	}
	if p != nil {
		o.Profile = p.id
	}
	return o
}

// needsDomain reports whether a rule in front of the winner, which has the
// given effect, could turn out to do something else.
func (t *Set) needsDomain(q *query, p *profile, winner *rule, e effect) bool {
	if p != nil {
		if winner != nil && winner.info.Layer == LayerApp {
			return p.list.maybeOther(q, winner.pos, e)
		}
		if p.list.maybeOther(q, len(p.list.rules), e) {
			return true
		}
	}
	end := len(t.global.rules)
	if winner != nil {
		end = winner.pos
	}
	return t.global.maybeOther(q, end, e)
}

// prepare fills in q, which is zero.
func (t *Set) prepare(q *query, s *conn.Snapshot) {
	q.fill(s)
	q.iface = t.ifaces.find(s.Interface)
	q.view = t.viewOf(s.Process)
	if t.hasDomains {
		q.setDomains(t.domains, s.Domain, t.cnamesOf(s))
	}
	q.setLists(&t.lists, s.Tuple.Remote.Addr())
}

// fill sets what the packet says.
func (q *query) fill(s *conn.Snapshot) {
	q.direction, q.protocol, q.icmpType = s.Direction, s.Tuple.Protocol, s.ICMPType
	if a := s.Tuple.Remote.Addr(); a.IsValid() {
		q.hasAddr, q.addr = true, addrPoint(a)
	}
	q.remotePort, q.localPort = portPoint(s.Tuple.Remote.Port()), portPoint(s.Tuple.Local.Port())
	scope := s.Scope
	if scope == netscope.Unknown {
		// whoever built the snapshot may know better than the number; if it
		// knew nothing, a rule against the lan must still hold
		scope = netscope.Of(s.Tuple.Remote.Addr())
	}
	if scope < maxScopes {
		q.scopes = 1 << scope
	}
}

func (t *Set) profileOf(q *query) *profile {
	if q.view.profile < 0 {
		return nil
	}
	return &t.profiles[q.view.profile]
}

// Profile returns the id of the profile that a process has; ok is false if it
// has none.
func (t *Set) Profile(p *conn.Process) (id string, ok bool) {
	if t == nil {
		return "", false
	}
	v := t.viewOf(p)
	if v.profile < 0 {
		return "", false
	}
	return t.profiles[v.profile].id, true
}

// PreventsDNSBypass reports whether a process may not go round the system's DNS: as its profile says, otherwise where that says nothing,
// or there is none.
func (t *Set) PreventsDNSBypass(p *conn.Process, otherwise bool) bool { //nolint:revive // the setting for all
	if t == nil {
		return otherwise
	}
	v := t.viewOf(p)
	if v.profile < 0 || t.profiles[v.profile].preventDNSBypass == nil {
		return otherwise
	}
	return *t.profiles[v.profile].preventDNSBypass
}

// Rules returns all rules in the order of the Config: those of the apps, then
// the global ones.
func (t *Set) Rules() []*RuleInfo {
	if t == nil {
		return nil
	}
	all := make([]*RuleInfo, 0, len(t.rules))
	for _, r := range t.rules {
		all = append(all, &r.info)
	}
	return all
}

// Hits returns how often each rule decided, by id.
func (t *Set) Hits() map[string]uint64 {
	hits := map[string]uint64{}
	for _, r := range t.Rules() {
		hits[r.ID] = r.Hits()
	}
	return hits
}

// Live holds the Set that is in force. Readers pay one atomic load. The zero
// value holds nil, which denies everything.
type Live struct{ set atomic.Pointer[Set] }

// Load returns the Set in force.
func (l *Live) Load() *Set { return l.set.Load() }

// Swap puts a Set into force and returns the one before. Compile the new one
// WithPrevious to keep the hit counters.
func (l *Live) Swap(s *Set) (previous *Set) { return l.set.Swap(s) }

// Decide is Decide of the Set in force.
func (l *Live) Decide(s *conn.Snapshot) Outcome { return l.Load().Decide(s) }

// Split is Split of the Set in force.
func (l *Live) Split(s *conn.Snapshot) SplitOutcome { return l.Load().Split(s) }
