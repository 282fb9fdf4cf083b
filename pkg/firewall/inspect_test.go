package firewall_test

import (
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// byLength inspects UDP: what a packet's length says is done.
type byLength struct{ seen []*conn.Snapshot }

// What lengths say.
const (
	lenAccept = 100 + iota
	lenBlock
	lenDrop
	lenEnough
	lenTooMuch
	lenNonsense
)

func (b *byLength) Inspects(s *conn.Snapshot) bool { return s.Tuple.Protocol == packet.UDP }

func (b *byLength) Inspect(s *conn.Snapshot, p packet.Packet) (d verdict.Decision, done bool) {
	b.seen = append(b.seen, s)
	d.Reason.Code = "by-length"
	switch p.Info().Length {
	case lenAccept, lenEnough:
		d.Verdict = verdict.Accept
	case lenBlock, lenTooMuch:
		d.Verdict = verdict.Block
	case lenDrop:
		d.Verdict = verdict.Drop
	default:
		d.Verdict = verdict.RerouteToTunnel
	}
	return d, p.Info().Length == lenEnough || p.Info().Length == lenTooMuch
}

func ofLength(i packet.Info, n int) packet.Info {
	i.Length = n
	return i
}

// Each packet of an inspected connection gets its own verdict, until the inspector is done.
func TestInspection(t *testing.T) {
	begin := func(t *testing.T, v verdict.Verdict, mode firewall.Mode) (*rig, *byLength, *policy) {
		t.Helper()
		b, p := &byLength{}, newPolicy(v)
		r := start(t, func(c *firewall.Config) {
			c.Inspector, c.Mode, c.Deciders = b, mode, []firewall.Decider{p}
		})
		return r, b, p
	}
	dgram := out(packet.UDP, 5000, "198.51.100.7:53")
	bubble(t, "packet by packet", func(t *testing.T) {
		r, b, _ := begin(t, verdict.Accept, firewall.Enforce)
		r.want(ofLength(dgram, lenAccept), verdict.ActionAccept)
		r.want(ofLength(dgram, lenBlock), verdict.ActionBlock)
		r.want(ofLength(dgram, lenDrop), verdict.ActionDrop)
		r.want(ofLength(dgram, lenNonsense), verdict.ActionDrop)
		r.want(ofLength(back(dgram), lenBlock), verdict.ActionBlock)
		r.want(ofLength(dgram, lenAccept), verdict.ActionAccept)
		if s := r.state(dgram.Tuple); s.Verdict() != verdict.Accept || len(b.seen) != 6 {
			t.Errorf("got %+v after %d packets; want it accepted, and 6", s.Decision, len(b.seen))
		}
	})
	bubble(t, "refused for good", func(t *testing.T) {
		r, b, p := begin(t, verdict.Accept, firewall.Enforce)
		r.want(ofLength(dgram, lenAccept), verdict.ActionAccept)
		r.want(ofLength(dgram, lenTooMuch), verdict.ActionPermanentBlock)
		r.wantBy(ofLength(dgram, lenAccept), verdict.ActionPermanentBlock, intercepttest.ByKernel)
		if s := r.state(dgram.Tuple); s.Verdict() != verdict.Block || s.Decision.Reason.Code != "by-length" || len(b.seen) != 2 {
			t.Errorf("got %+v after %d packets; want the inspector's block after 2", s.Decision, len(b.seen))
		}
		// policy comes first, and then the inspector again
		p.set(says(verdict.Drop))
		r.reevaluate(firewall.Everything, 1)
		p.set(says(verdict.Accept))
		r.reevaluate(firewall.Everything, 1)
		r.want(ofLength(dgram, lenAccept), verdict.ActionAccept)
		r.want(ofLength(dgram, lenTooMuch), verdict.ActionPermanentBlock)
	})
	bubble(t, "by the first packet", func(t *testing.T) {
		r, _, _ := begin(t, verdict.Accept, firewall.Enforce)
		r.want(ofLength(dgram, lenTooMuch), verdict.ActionPermanentBlock)
		r.want(ofLength(dgram, lenAccept), verdict.ActionPermanentBlock)
	})
	bubble(t, "seen enough", func(t *testing.T) {
		r, b, _ := begin(t, verdict.Accept, firewall.Enforce)
		r.want(ofLength(dgram, lenAccept), verdict.ActionAccept)
		r.want(ofLength(dgram, lenEnough), verdict.ActionPermanentAccept)
		r.wantBy(ofLength(dgram, lenBlock), verdict.ActionPermanentAccept, intercepttest.ByKernel)
		if len(b.seen) != 2 {
			t.Errorf("got %d packets inspected; want 2", len(b.seen))
		}
	})
	bubble(t, "only what is accepted and asked for", func(t *testing.T) {
		r, b, _ := begin(t, verdict.Block, firewall.Enforce)
		r.want(ofLength(dgram, lenAccept), verdict.ActionPermanentBlock)
		r, other, _ := begin(t, verdict.Accept, firewall.Enforce)
		r.want(out(packet.TCP, 5000, faraway), verdict.ActionPermanentAccept)
		if n := len(b.seen) + len(other.seen); n != 0 {
			t.Errorf("got %d packets inspected; want none", n)
		}
	})
	bubble(t, "observed", func(t *testing.T) {
		r, b, _ := begin(t, verdict.Accept, firewall.Observe)
		r.want(ofLength(dgram, lenBlock), verdict.ActionAccept)
		r.want(ofLength(dgram, lenTooMuch), verdict.ActionAccept)
		r.want(ofLength(dgram, lenAccept), verdict.ActionAccept)
		if s := r.state(dgram.Tuple); s.Verdict() != verdict.Block || s.Enforced || len(b.seen) != 2 {
			t.Errorf("got %+v after %d packets; want what would be blocked, after 2", s, len(b.seen))
		}
	})
}

// An announcement that is taken back lets nobody pass.
func TestWithdraw(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		r := start(t, func(c *firewall.Config) { c.DefaultOutbound = verdict.Block })
		r.preAuthenticate(packet.UDP, 5000)
		r.preAuthenticate(packet.TCP, 5000)
		r.Withdraw(packet.UDP, 5000)
		r.Withdraw(packet.UDP, 6000)
		r.want(out(packet.UDP, 5000, faraway), verdict.ActionPermanentBlock)
		r.want(out(packet.TCP, 5000, faraway), verdict.ActionPermanentAcceptFinal)
	})
}
