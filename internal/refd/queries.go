package refd

import (
	"context"
	"net/netip"
	"os"
	"slices"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/firewall/dnsguard"
	"github.com/weirfw/weir/pkg/firewall/naming"
	"github.com/weirfw/weir/pkg/names"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

// Codes of reasons about queries.
const (
	// codeNotRefused accepts a query for a name that connections may lead to.
	codeNotRefused verdict.Code = "dns-not-refused"
	// codeOwnQuery accepts what refd itself asks.
	codeOwnQuery verdict.Code = "dns-own"
)

// handlerAsker asks the external handler. It is a firewall.Firewall.
type handlerAsker interface {
	// HasHandler reports whether there is one.
	HasHandler() bool
	AskHandler(ctx context.Context, s *conn.Snapshot) (d verdict.Decision, ok bool)
}

// queries decides about the queries of programs by the rules, and learns names from the answers. It is a nameserver.QuickDecider.
type queries struct {
	askers  askers
	rules   *rules.Live
	handler handlerAsker
	table   *names.Table
	// guard knows names that are of use for going round us, passes those that are needed to get online.
	guard  *dnsguard.Guard
	passes func(name string) bool
	// observe lets pass what would be refused.
	observe bool
	ownPID  int
	// known returns a process that runs an executable; optional, as is the answer.
	known func(path string) *conn.Process
}

var (
	_ nameserver.QuickDecider = (*queries)(nil)
	_ handlerAsker            = (*firewall.Firewall)(nil)
)

func newQueries(processes firewall.QuickFinder, live *rules.Live, table *names.Table, observe bool) *queries { //nolint:revive // a setting
	return &queries{askers: askers{processes: processes}, rules: live, table: table, observe: observe, ownPID: os.Getpid()}
}

// Decide implements nameserver.Decider. Nobody is asked: a program does not wait for a name so long.
func (d *queries) Decide(ctx context.Context, q nameserver.Query, a *nameserver.Answer) verdict.Decision {
	who := d.askers.find(ctx, &q)
	if d.isOwn(who) {
		return accepted(codeOwnQuery, "asked by this firewall itself")
	}
	s := snapshotOf(&q, who, a)
	if by, ok := d.handler.AskHandler(ctx, s); ok {
		return d.enforced(by)
	}
	if d.passes(q.Name) {
		return accepted(codePortal, "needed to get online, which this host is not")
	}
	if o := d.guard.DecideName(s.Process, s.Domain, s.CNAMEs); o.Decided {
		o.Hit.Hit()
		return d.enforced(o.Decision)
	}
	o, refused := d.rules.Load().RefusedName(s, a != nil)
	if !refused {
		return notRefused(a)
	}
	if !d.observe && o.Rule != nil {
		o.Rule.Hit()
	}
	return d.enforced(o.Decision)
}

// DecideQuick implements nameserver.QuickDecider.
func (d *queries) DecideQuick(q nameserver.Query, a *nameserver.Answer) (verdict.Decision, bool) {
	if d.handler.HasHandler() {
		return verdict.Decision{}, false
	}
	who, ok := d.askers.quick(&q)
	if !ok {
		return verdict.Decision{}, false
	}
	if d.isOwn(who) {
		return accepted(codeOwnQuery, "asked by this firewall itself"), true
	}
	if d.passes(q.Name) {
		return accepted(codePortal, "needed to get online, which this host is not"), true
	}
	s := snapshotOf(&q, who, a)
	if d.guard.DecideName(s.Process, s.Domain, s.CNAMEs).Decided {
		return verdict.Decision{}, false
	}
	if _, refused := d.rules.Load().RefusedName(s, a != nil); refused {
		return verdict.Decision{}, false
	}
	return notRefused(a), true
}

func (d *queries) isOwn(who *asker) bool { return who.process != nil && who.process.PID == d.ownPID }

// enforced is what becomes of a decision.
func (d *queries) enforced(by verdict.Decision) verdict.Decision {
	if d.observe && by.Verdict.Refuses() {
		by.Verdict = verdict.Accept
		by.Reason.Text = "would be refused: " + by.Reason.Text
	}
	return by
}

func accepted(code verdict.Code, text string) verdict.Decision {
	return verdict.Decision{Verdict: verdict.Accept, Reason: verdict.Reason{Code: code, Text: text}}
}

// notRefused leaves an answer at what was decided before.
func notRefused(a *nameserver.Answer) verdict.Decision {
	if a != nil {
		return verdict.Decision{}
	}
	return accepted(codeNotRefused, "no rule refuses every connection to this name")
}

// Types of records by which programs find addresses that belong to other names (RFC 9460).
const (
	typeSVCB  nameserver.Type = 64
	typeHTTPS nameserver.Type = 65
)

// snapshotOf describes a query as a connection to the server that its process meant to ask.
func snapshotOf(q *nameserver.Query, who *asker, a *nameserver.Answer) *conn.Snapshot {
	s := &conn.Snapshot{
		Tuple:     packet.Tuple{Protocol: q.Protocol, Local: q.Client, Remote: who.asked},
		Direction: packet.Outbound, Scope: netscope.Of(who.asked.Addr()), Process: who.process, Domain: q.Name,
		Internal: true, Started: q.Time,
	}
	if a != nil {
		s.CNAMEs = a.CNAMEs
		if q.Type == typeSVCB || q.Type == typeHTTPS {
			s.CNAMEs = slices.Concat(a.CNAMEs, a.Targets)
		}
	}
	return s
}

// answered learns names. Those that a resolver asks for, others want to know.
func (d *queries) answered(q nameserver.Query, r nameserver.Reply) {
	var who names.Asker
	// the context ends searches; who asked was found when the query was decided
	if p := d.askers.find(context.Background(), &q).process; p != nil && !dnsguard.SystemResolver(p) {
		who = naming.AskerOf(p)
	}
	d.table.Add(names.Nameserver, who, names.Resolve(answerOf(&q, &r))...)
}

// isServer reports whether the program that asks is the one that answers at a server on this host. Two programs of one executable are not
// the same: the other one may ask what it likes.
func (d *queries) isServer(ctx context.Context, q nameserver.Query, u nameserver.Upstream) bool {
	who := d.askers.find(ctx, &q).process
	if who == nil {
		return false
	}
	i := &packet.Info{Direction: packet.Inbound, Version: 6, Seen: q.Time}
	i.Tuple = packet.Tuple{Protocol: packet.TCP, Local: u.Addr, Remote: netip.AddrPortFrom(u.Addr.Addr(), q.Client.Port())}
	if u.Protocol == nameserver.PlainUDP {
		i.Protocol = packet.UDP
	}
	if i.Is4() {
		i.Version = 4
	}
	server, err := d.askers.processes.Find(ctx, i, packet.Inbound)
	return err == nil && server.PID == who.PID && server.StartTicks == who.StartTicks
}

// answerOf is an answer as the system's resolver would tell it.
func answerOf(q *nameserver.Query, r *nameserver.Reply) *dnsmon.Answer {
	a := &dnsmon.Answer{Asked: []string{q.Name}}
	name := q.Name
	for _, alias := range r.Answer.CNAMEs {
		a.Records = append(a.Records, dnsmon.Record{Name: name, TTL: r.TTL, Target: alias})
		name = alias
	}
	if (q.Type == typeSVCB || q.Type == typeHTTPS) && len(r.Answer.Targets) == 1 {
		// of several, nobody can tell whose the hints are
		a.Records = append(a.Records, dnsmon.Record{Name: name, TTL: r.TTL, Target: r.Answer.Targets[0]})
		name = r.Answer.Targets[0]
	}
	for _, addr := range r.Answer.Addrs {
		a.Records = append(a.Records, dnsmon.Record{Name: name, TTL: r.TTL, Addr: addr})
	}
	return a
}
