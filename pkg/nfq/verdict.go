package nfq

import (
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// What netfilter does with a packet that comes back (netfilter.h).
const (
	nfDrop   = 0
	nfAccept = 1
	nfRepeat = 4
)

// Bits that carry a verdict to our chains beside a mark that belongs to other
// software; the chains clear them.
const (
	bitJudged  uint32 = 1 << 31
	bitForGood uint32 = 1 << 30
)

// Style says how a verdict reaches the rules that fed the queue.
type Style uint8

const (
	// StyleRepeat sends an accepted packet through the hook again, with a mark
	// that our chains act on. Other software's rules that come later see the
	// packet. It needs our ruleset, or rules that let packets with our marks
	// pass the queue: a rule that ignores marks queues the packet for ever.
	StyleRepeat Style = iota
	// StylePlain lets an accepted packet continue behind the hook, marked, and
	// drops the others. It needs no rules but the one that feeds the queue.
	// Block is silent, and a permanent verdict holds for the packet unless
	// rules of the caller save the mark. The reroutes only mark: rules of the
	// caller must act on marks 1717, 1719 and up, and 1799. A packet with a
	// mark of other software keeps it.
	StylePlain
)

// plan is how one verdict is told to the kernel.
type plan struct {
	nf   uint32
	mark uint32 // 0 leaves the packet's mark
	// label asks for the connection's label: the packet's own mark has no room
	// to say "for good".
	label bool
	// remember asks for a conntrack entry with this mark, because a refused
	// first packet leaves none; 0 does not.
	remember uint32
}

// planner turns actions into plans. It is a value that nobody changes.
type planner struct {
	marks [verdict.NumActions]uint32
	// value and mask are the block of numbers that is ours.
	value, mask uint32
	style       Style
}

func newPlanner(m Marks, s Style) planner {
	p := planner{style: s}
	p.value, p.mask = m.block()
	for a := range p.marks {
		p.marks[a] = m.forAction(verdict.Action(a), 0)
	}
	return p
}

func (p *planner) mark(a verdict.Action, route uint8) uint32 {
	if a == verdict.ActionRerouteToSplitTun {
		return p.marks[a] + uint32(route)
	}
	return p.marks[a]
}

// foreign reports whether mark is other software's.
func (p *planner) foreign(mark uint32) bool { return mark != 0 && mark&p.mask != p.value }

// plan says how action is told for the packet of i.
func (p *planner) plan(i *packet.Info, action verdict.Action, route uint8) plan {
	action = allowed(i, action)
	if action == verdict.ActionRerouteToSplitTun && route > MaxRoute {
		action = verdict.ActionDrop
	}
	mark := p.mark(action, route)
	if p.style == StylePlain {
		return p.plain(i.Mark, action, mark)
	}
	pl := plan{nf: nfRepeat, mark: mark}
	if action == verdict.ActionPermanentBlock || action == verdict.ActionPermanentDrop {
		pl.remember = mark
	}
	if !p.foreign(i.Mark) {
		return pl
	}
	switch action {
	case verdict.ActionAccept:
		return keepForeign(i.Mark, bitJudged)
	case verdict.ActionPermanentAccept, verdict.ActionPermanentAcceptFinal:
		return keepForeign(i.Mark, bitJudged|bitForGood)
	case verdict.ActionDrop, verdict.ActionPermanentDrop:
		pl.nf, pl.mark = nfDrop, 0
	case verdict.ActionBlock, verdict.ActionPermanentBlock:
		// The packet does not leave, so its mark is ours to use; a permanent
		// mark would be saved over the connection's, which others use.
		pl.mark = p.marks[verdict.ActionBlock]
	case verdict.ActionRerouteToNameserver, verdict.ActionRerouteToTunnel, verdict.ActionRerouteToSplitTun:
		// A packet that goes elsewhere has no use for a mark that chose its way.
	}
	return pl
}

// bare is the plan for packets of which nothing is known: no mark is touched.
func bare(action verdict.Action) plan {
	if action.Verdict() == verdict.Accept {
		return plan{nf: nfAccept}
	}
	return plan{nf: nfDrop}
}

// keepForeign accepts a packet that leaves with the mark it came with.
func keepForeign(mark, bits uint32) plan {
	if mark&(bitJudged|bitForGood) != 0 {
		// No room for the bits. Later mangle rules of others miss this packet.
		return plan{nf: nfAccept, label: bits&bitForGood != 0}
	}
	return plan{nf: nfRepeat, mark: mark | bits}
}

// plain is the plan of StylePlain for a packet that came with the mark had.
func (p *planner) plain(had uint32, action verdict.Action, mark uint32) plan {
	switch action.Verdict() {
	case verdict.Accept:
		if p.foreign(had) {
			return plan{nf: nfAccept}
		}
		return plan{nf: nfAccept, mark: mark}
	case verdict.RerouteToNameserver, verdict.RerouteToTunnel, verdict.RerouteToSplitTun:
		return plan{nf: nfAccept, mark: mark}
	case verdict.Block, verdict.Drop, verdict.Undecided, verdict.Undeterminable, verdict.Failed:
		return plan{nf: nfDrop}
	}
	return plan{nf: nfDrop}
}

// allowed is the safety net under the firewall: it takes back what an action
// would do to other packets than it was meant for.
func allowed(i *packet.Info, action verdict.Action) verdict.Action {
	if action >= verdict.NumActions {
		return verdict.ActionDrop
	}
	if !action.Permanent() {
		return action
	}
	switch {
	case i.Protocol.IsICMP() && !i.IsEcho():
		// It belongs to another connection, whose mark it would change.
		return action.Once()
	case i.Direction == packet.Outbound && isLoopback(i.Tuple) && action.Verdict() == verdict.Accept:
		// The mark would be saved to the connection, and the inbound side of
		// the same packet would skip its queue.
		return verdict.ActionAccept
	}
	return action
}

// updateMark returns the mark that makes a live connection be treated by action.
// ok is false if there is none: then the kernel has to ask again.
func (p *planner) updateMark(t packet.Tuple, action verdict.Action) (mark uint32, ok bool) {
	if action >= verdict.NumActions || t.Protocol.IsICMP() && t.Local.Port() == 0 && t.Remote.Port() == 0 {
		return 0, false // ICMP that is not echo belongs to another connection
	}
	switch action {
	case verdict.ActionPermanentAccept, verdict.ActionPermanentAcceptFinal:
		// The direction is not known, and an outbound packet's mark would let
		// the inbound one pass: see allowed.
		ok = !isLoopback(t)
	case verdict.ActionPermanentBlock, verdict.ActionPermanentDrop:
		ok = true
	case verdict.ActionDrop, verdict.ActionBlock, verdict.ActionAccept, verdict.ActionRerouteToNameserver,
		verdict.ActionRerouteToTunnel, verdict.ActionRerouteToSplitTun:
		// Verdicts on one packet need a packet, and a connection that exists
		// does not pass the nat table again.
	}
	return p.marks[action], ok
}

// isLoopback reports whether both ends of the connection are this host.
func isLoopback(t packet.Tuple) bool {
	return t.Remote.Addr().IsLoopback() || t.Local.Addr() == t.Remote.Addr()
}

// Plain tells verdicts in StylePlain, for other readers of NFQUEUE than Source,
// such as package gonfqueue. It may be used by several goroutines.
type Plain struct{ planner planner }

// NewPlain returns a Plain that uses m, or DefaultMarks if m is zero. The error
// wraps ErrBadMarks.
func NewPlain(m Marks) (*Plain, error) {
	if m == (Marks{}) {
		m = DefaultMarks()
	}
	if err := m.validate(); err != nil {
		return nil, err
	}
	return &Plain{planner: newPlanner(m, StylePlain)}, nil
}

// Verdict returns what to tell the kernel about the packet of i: NF_DROP or
// NF_ACCEPT, and the mark to set, where 0 leaves the packet's own.
func (p *Plain) Verdict(i *packet.Info, action verdict.Action, route uint8) (nf int, mark uint32) {
	told := p.planner.plan(i, action, route)
	return int(told.nf), told.mark
}
