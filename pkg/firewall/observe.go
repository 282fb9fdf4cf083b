package firewall

import (
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// wanted reports whether the observer wants a connection that is not our own.
func (f *Firewall) wanted(s *conn.Snapshot) bool {
	return f.cfg.Observer != nil && !s.Internal && f.cfg.Observer.Observes(s)
}

// observes reports whether packets of a connection have to be shown to the
// observer.
func (f *Firewall) observes(s *conn.Snapshot) bool {
	action, _ := f.actionOf(s)
	return action == verdict.ActionAccept && f.wanted(s)
}

// observe shows the observer a packet that is about to get an action.
func (f *Firewall) observe(c *conn.Conn, p packet.Packet, action verdict.Action) {
	if c.Observed() && action == verdict.ActionAccept {
		f.cfg.Observer.Observe(c.State(), p)
	}
}
