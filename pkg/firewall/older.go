package firewall

import (
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// older reports whether the TCP connection of a first packet was there before
// the firewall. Without flags it is not a packet but what a driver tells about a
// socket that connects or accepts (or one that no TCP sends).
func older(i *packet.Info) bool {
	return i.Protocol == packet.TCP && i.TCPFlags != 0 && !isOpening(i)
}

// findOlder completes fl.older for a connection that is to be redirected: for
// those without a handshake it asks the kernel. turned tells that another host
// opened it, which c says from now on: it has to be judged again.
func (f *Firewall) findOlder(fl *flow, c *conn.Conn, r *filtered) (turned bool) {
	if fl.tuple.Protocol == packet.TCP || f.tracker == nil || !r.redirects() {
		return false
	}
	var d packet.Direction
	d, fl.older = f.tracker.Origin(fl.tuple)
	if !fl.older || d == packet.Outbound || c.State().Direction == packet.Inbound {
		return false
	}
	c.Update(func(s *conn.Snapshot) { s.Direction = packet.Inbound })
	return true
}

// redirectOlder is for a connection that would have to be redirected but is
// older than the firewall: with a mark alone it would hang, or go its old way.
// lost tells that the packets that waited must not go any way.
func (f *Firewall) redirectOlder(r filtered) (_ filtered, lost bool) {
	t, action := r.About.Tuple, r.Decision.Action()
	if !r.Decision.Verdict.Redirects() {
		action = wayOf(r.Tunnel, r.SplitTun)
	}
	switch {
	case toSelf(r.About):
		r.Decision = decide(verdict.Accept, CodeOlder, "was there before the firewall and does not leave this host: it stays as it is")
		r.SplitTun, r.Tunnel = nil, nil
		return r, false
	case t.Protocol != packet.TCP && f.updater != nil:
		// The socket may serve others as well, and need not end: once the kernel
		// has no entry, the next packet is the first of a new one.
		err := f.updater.Update(t, action, routeOf(r.SplitTun))
		if err == nil {
			return r, true
		}
		f.cfg.Logger.Warn("redirect a connection older than the firewall", "connection", t, "err", err)
	}
	return f.resetOlder(r, action.Verdict()), false
}

// resetOlder ends a connection that would have to take another way, so that its
// program connects again.
func (f *Firewall) resetOlder(r filtered, way verdict.Verdict) filtered {
	t := r.About.Tuple
	if f.cutter != nil {
		if err := f.cutter.Cut(t); err != nil {
			f.cfg.Logger.Warn("cut a connection older than the firewall", "connection", t, "err", err)
		}
	}
	f.stopWay(way, t)
	r.Decision = decide(verdict.Block, CodeOlder,
		"was there before the firewall and would have to be "+way.Verb()+"; it was reset so that its program connects again")
	r.Tunnel, r.SplitTun = nil, nil
	return r
}
