package rules

import (
	"sync/atomic"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// RuleInfo tells about a rule of a Set. It does not change, but for its hits.
type RuleInfo struct {
	ID      string
	Comment string
	Action  Action
	// Layer is LayerApp or LayerGlobal.
	Layer Layer
	// Profile is the id of the profile that the rule belongs to, "" for a
	// global rule.
	Profile string

	// hits belongs to the id: sets that follow each other share it.
	hits *atomic.Uint64
}

// Hits returns how often the rule decided.
func (r *RuleInfo) Hits() uint64 { return r.hits.Load() }

// Hit counts that the rule decided about a connection; Set.Decide calls it.
func (r *RuleInfo) Hit() { r.hits.Add(1) }

// tri is the answer to whether a rule matches.
type tri uint8

const (
	no tri = iota
	// maybe depends on the domain, which is not known.
	maybe
	yes
)

// condition names a part of a rule, in the order they are checked.
type condition uint8

const (
	condNone condition = iota
	condDirection
	condProtocol
	condICMP
	condRemotePort
	condLocalPort
	condInterface
	condApp
	condRemote
)

// rule is a compiled Rule. Conditions that are not given are nil or -1.
type rule struct {
	info     RuleInfo
	src      Rule
	decision verdict.Decision
	// pos is the place in its list.
	pos    int
	effect effect

	direction   Direction
	protocols   *byteSet
	icmp        *icmpSet
	remotePorts spans
	localPorts  spans
	// interfaces are numbers of ifaceTable patterns.
	interfaces []int32
	// app is the number of an appTable match, -1 for any.
	app    int32
	remote *remote
}

// effect numbers what rules do, so that rules of equal effect can be told from
// others.
type effect uint8

// numEffects is the size of tables by effect.
const numEffects = 2 * numActions

func (r *Rule) effect() effect {
	if r.Inspect {
		return effect(r.Action) + numActions
	}
	return effect(r.Action)
}

func (o *Outcome) effect() effect {
	if o.Inspect {
		return effect(o.Action) + numActions
	}
	return effect(o.Action)
}

// query is a connection, prepared for matching. It lives on the stack.
type query struct {
	direction  packet.Direction
	protocol   packet.Protocol
	icmpType   uint8
	hasAddr    bool
	addr       point
	remotePort point
	localPort  point
	scopes     scopeSet
	// iface is nil if the interface is not known or no rule asks.
	iface *ifaceEntry
	view  *view

	// domain and cnames are canonical.
	domain string
	cnames []string
	// domainUnknown is set if there is no name at all.
	domainUnknown bool
	// inLists are the lists that it is in, maybeInLists those that it may be in once its domain is known.
	inLists, maybeInLists listSet
	// nodes are the domains of rules that stand for the names, see domainTable.
	nodes     [maxNodes]*domainNode
	numNodes  int
	moreNodes []*domainNode
}

// match checks the rule against a connection, every condition.
func (r *rule) match(q *query) tri {
	t, _ := r.check(q)
	return t
}

// check is match with the first condition that does not hold.
func (r *rule) check(q *query) (tri, condition) {
	switch {
	case !r.direction.has(q.direction):
		return no, condDirection
	case r.protocols != nil && !r.protocols.has(uint8(q.protocol)):
		return no, condProtocol
	case r.icmp != nil && !r.icmp.has(q.protocol, q.icmpType):
		return no, condICMP
	case r.remotePorts != nil && !r.remotePorts.has(q.remotePort):
		return no, condRemotePort
	case r.localPorts != nil && !r.localPorts.has(q.localPort):
		return no, condLocalPort
	case r.interfaces != nil && !q.iface.hasAny(r.interfaces):
		return no, condInterface
	case r.app >= 0 && !q.view.has(r.app):
		return no, condApp
	case r.remote == nil:
		return yes, condNone
	}
	if t := r.remote.match(q); t != yes {
		return t, condRemote
	}
	return yes, condNone
}

func (r *remote) match(q *query) tri {
	switch {
	case q.hasAddr && r.addrs.has(q.addr), r.scopes&q.scopes != 0, r.lists.set&q.inLists != 0:
		return yes
	case q.domainUnknown && (!r.domains.empty() || r.lists.set&q.maybeInLists != 0):
		return maybe
	case q.domainUnknown, r.domains.empty():
		return no
	case r.domains.has(q.domain):
		return yes
	}
	for _, n := range q.cnames {
		if r.domains.has(n) {
			return yes
		}
	}
	return no
}
