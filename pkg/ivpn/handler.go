package ivpn

import (
	"context"
	"net/netip"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// view is what Handle reads: immutable.
type view struct {
	State
	// known is false if no connection can be the VPN's.
	known bool
	// first is not nil during the first attempt to reach the daemon, and closed
	// when that is over.
	first <-chan struct{}
	// session numbers the connections to the daemon; 0 is none.
	session uint64
}

// Handle says what the VPN needs of a connection. It is an extverdict.Handler:
// it takes no lock and allocates nothing. Only during the first attempt to reach
// the daemon it waits for what that brings about connections that it does not
// know, until shortly before ctx ends.
func (i *Interop) Handle(ctx context.Context, s *conn.Snapshot) extverdict.Result {
	v := i.view.Load()
	if !v.known {
		return extverdict.Result{}
	}
	why := v.judge(s)
	if why == "" && v.first != nil {
		awaitFirst(ctx, v.first)
		why = i.view.Load().judge(s)
	}
	if why == "" {
		return extverdict.Result{}
	}
	// to go its way, and by no tunnel of ours
	return extverdict.Result{Verdict: verdict.Accept, Reason: why, SkipTunnel: true}
}

// awaitFirst waits until the first attempt is over or ctx has a fifth of its
// time left: who asks must still get the answer in time.
func awaitFirst(ctx context.Context, first <-chan struct{}) {
	limit := DefaultConnectTimeout + DefaultAnswerTimeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)*4/5)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-first:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// judge says why a connection belongs to the VPN; empty if it does not.
func (v *view) judge(s *conn.Snapshot) (why string) {
	t := &s.Tuple
	switch {
	case t.Protocol == v.Endpoint.Protocol && t.Remote == v.Endpoint.Address &&
		(s.Direction == packet.Outbound || t.Protocol == packet.UDP):
		return "the VPN connection of IVPN"
	case t.Protocol == packet.TCP && v.ServicePort != 0 && (t.Remote.Port() == v.ServicePort || t.Local.Port() == v.ServicePort) &&
		onLoopback(t):
		return "talks to the service of IVPN"
	case s.Process != nil && v.ServiceBinary != "" && s.Process.Path == v.ServiceBinary && privileged(s.Process.UID):
		return "the service of IVPN"
	}
	return ""
}

// onLoopback reports whether both ends of an IPv4 connection are loopback
// addresses, and the end with the daemon's port could be the daemon's.
func onLoopback(t *packet.Tuple) bool {
	here := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	return t.Remote.Addr() == here && t.Local.Addr() == here
}

// Concerns reports whether the VPN has to do with a connection: Handle accepts
// it, or accepted it before. Those have to be decided anew after OnChange.
func (i *Interop) Concerns(s *conn.Snapshot) bool {
	v := i.view.Load()
	return v.known && v.judge(s) != "" || s.Decision.Reason.By == HandlerName
}
