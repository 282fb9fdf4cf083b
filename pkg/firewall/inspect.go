package firewall

import (
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// inspects reports whether the inspector decides about the packets of a connection that is not our own.
func (f *Firewall) inspects(s *conn.Snapshot) bool {
	return f.cfg.Inspector != nil && !s.Internal && f.cfg.Inspector.Inspects(s)
}

// beginInspection notes whether packets of a connection that was just decided are inspected. One whose inspector has seen enough before
// is inspected again: policy has changed.
func (f *Firewall) beginInspection(c *conn.Conn, s *conn.Snapshot) {
	if action, _ := f.actionOf(s); action == verdict.ActionAccept && f.inspects(s) {
		c.SetInspection(conn.Inspected)
		return
	}
	c.SetInspection(conn.NotInspected)
}

// pass gives a packet of a decided connection its verdict, which is action unless somebody inspects it. It returns what holds for the
// packets behind it.
func (f *Firewall) pass(c *conn.Conn, p packet.Packet, action verdict.Action, route uint8) (verdict.Action, uint8) {
	now, next := action, action
	if action == verdict.ActionAccept && c.Inspection() == conn.Inspected {
		now, next = f.inspect(c, p)
	}
	f.observe(c, p, now)
	f.apply(p, now, route)
	return next, route
}

// inspect asks the inspector about a packet: now is what it says about that, next what holds for those behind it.
func (f *Firewall) inspect(c *conn.Conn, p packet.Packet) (now, next verdict.Action) {
	s := c.State()
	d, done := f.cfg.Inspector.Inspect(s, p)
	if d.Verdict != verdict.Accept && d.Verdict != verdict.Block && d.Verdict != verdict.Drop {
		bad := d.Verdict
		d = decide(verdict.Failed, CodeBadDecision, "an inspector answered "+bad.String()+", which it may not")
	}
	if !done {
		if d.Verdict.Refuses() && !f.enforced(d) {
			return verdict.ActionAccept, verdict.ActionAccept
		}
		d.Scope = verdict.ScopePacket
		return d.Action(), verdict.ActionAccept
	}
	// in the order of what re-evaluations tell the kernel
	lock := &f.again[s.ID%againLocks]
	lock.Lock()
	defer lock.Unlock()
	if c.State() != s {
		d.Scope = verdict.ScopePacket // somebody has decided meanwhile: the next packet is inspected again if that is still so
		return d.Action(), verdict.ActionAccept
	}
	c.SetInspection(conn.InspectionDone)
	s = c.Update(func(s *conn.Snapshot) {
		s.Decision, s.Enforced = d, f.enforced(d)
		s.Decision.Scope = f.scopeOf(s, filtered{About: s, Decision: d, inspected: true})
	})
	f.stats.verdicts[s.Decision.Verdict].Add(1)
	next, _ = f.actionOf(s)
	c.SetAction(next, 0)
	return next, next
}
