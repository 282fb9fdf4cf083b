package rules

import (
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
)

// RefusedName reports whether a process may be refused to look up the name s.Domain, because the rules refuse whatever connection it
// could make to it. Of s only Process, Domain and CNAMEs count. answered tells that the name has no other aliases than s.CNAMEs;
// before that, rules about other domains may turn out to be about this one.
//
// A lookup is refused by a rule that blocks or drops and asks for neither address nor protocol, ports or interface, unless a rule in
// front of it could allow a connection. Defaults refuse none: of a connection to an address that rules allow, the name is wanted, too.
// Nothing is counted. Where it refuses it goes through all rules in front.
func (t *Set) RefusedName(s *conn.Snapshot, answered bool) (o Outcome, refused bool) { //nolint:revive // says what is known
	if t == nil {
		return Outcome{}, false
	}
	bare := conn.Snapshot{Direction: packet.Outbound, Process: s.Process, Domain: s.Domain, CNAMEs: s.CNAMEs}
	var q query
	t.prepare(&q, &bare)
	q.scopes = 0
	p := t.profileOf(&q)
	r := t.winner(&q, p)
	if r == nil || !r.refuses() {
		return Outcome{}, false
	}
	l := lookup{query: &q, anyAlias: !answered && !t.ignoreCNAMEs}
	before := t.global.rules
	switch {
	case r.info.Layer == LayerApp:
		before = p.list.rules
	case p != nil && l.mayPass(p.list.rules):
		return Outcome{}, false
	}
	if l.mayPass(before[:r.pos]) {
		return Outcome{}, false
	}
	return t.outcome(&q, p, r), true
}

func (r *rule) refuses() bool { return r.info.Action == Block || r.info.Action == Drop }

// lookup stands for all connections to the names of a query. With anyAlias they may have further names.
type lookup struct {
	query    *query
	anyAlias bool
}

// mayPass reports whether one of the rules lets any of the connections pass, or asks about it.
func (l *lookup) mayPass(rules []*rule) bool {
	for _, r := range rules {
		if !r.refuses() && l.concerns(r) {
			return true
		}
	}
	return false
}

// concerns reports whether a rule may match any of the connections.
func (l *lookup) concerns(r *rule) bool {
	switch m := r.remote; {
	case !r.direction.has(packet.Outbound), r.app >= 0 && !l.query.view.has(r.app):
		return false
	case m == nil, len(m.addrs) > 0, m.scopes != 0, m.lists.addrs, l.anyAlias:
		return true
	default:
		return m.match(l.query) == yes
	}
}
