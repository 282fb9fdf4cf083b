package nfq

import (
	"net/netip"
	"testing"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

const wgMark = 51820 // of wg-quick

func infoOf(proto packet.Protocol, local, remote string, dir packet.Direction, mark uint32) *packet.Info {
	return &packet.Info{
		Tuple: packet.Tuple{
			Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Protocol: proto,
		},
		Direction: dir, Mark: mark,
	}
}

// TestEveryActionHasItsMark is the check that no action is missing in the table.
func TestEveryActionHasItsMark(t *testing.T) {
	p := newPlanner(DefaultMarks(), StyleRepeat)
	want := map[verdict.Action]uint32{
		verdict.ActionDrop: 1702, verdict.ActionBlock: 1701, verdict.ActionAccept: 1700,
		verdict.ActionPermanentDrop: 1712, verdict.ActionPermanentBlock: 1711, verdict.ActionPermanentAccept: 1710,
		verdict.ActionPermanentAcceptFinal: 1709, verdict.ActionRerouteToNameserver: 1799,
		verdict.ActionRerouteToTunnel: 1717, verdict.ActionRerouteToSplitTun: 1719,
	}
	i := infoOf(packet.TCP, "10.0.0.1:1", "10.0.0.2:2", packet.Outbound, 0)
	for a := range verdict.Action(verdict.NumActions) {
		got := p.plan(i, a, 0)
		if got.nf != nfRepeat || got.mark != want[a] || got.mark == 0 || got.label {
			t.Errorf("%v: got %+v; want NF_REPEAT with mark %d", a, got, want[a])
		}
		remembered := a == verdict.ActionPermanentDrop || a == verdict.ActionPermanentBlock
		if (got.remember != 0) != remembered || remembered && got.remember != got.mark {
			t.Errorf("%v: got remember %d; want it for refused connections only", a, got.remember)
		}
	}
}

func TestPlan(t *testing.T) {
	const (
		out = packet.Outbound
		in  = packet.Inbound
	)
	tcp := func(mark uint32) *packet.Info { return infoOf(packet.TCP, "10.0.0.1:1", "10.0.0.2:2", out, mark) }
	lo := func(d packet.Direction) *packet.Info { return infoOf(packet.TCP, "127.0.0.1:1", "127.0.0.1:2", d, 0) }
	icmpError := infoOf(packet.ICMP, "10.0.0.1:0", "10.0.0.2:0", in, 0)
	icmpError.ICMPType = 3
	ping := infoOf(packet.ICMPv6, "[fd00::1]:9", "[fd00::2]:0", out, 0)
	ping.ICMPType = 128
	const full = 0x6d6f6c65

	for _, test := range []struct {
		name   string
		style  Style
		info   *packet.Info
		action verdict.Action
		route  uint8
		want   plan
	}{
		{"route", StyleRepeat, tcp(0), verdict.ActionRerouteToSplitTun, 70, plan{nf: nfRepeat, mark: 1789}},
		{"route too high", StyleRepeat, tcp(0), verdict.ActionRerouteToSplitTun, 71, plan{nf: nfRepeat, mark: 1702}},
		{"no such action", StyleRepeat, tcp(0), verdict.NumActions, 0, plan{nf: nfRepeat, mark: 1702}},
		{"our mark on it already", StyleRepeat, tcp(1719), verdict.ActionAccept, 0, plan{nf: nfRepeat, mark: 1700}},

		{"foreign, accept", StyleRepeat, tcp(wgMark), verdict.ActionAccept, 0, plan{nf: nfRepeat, mark: wgMark | 1<<31}},
		{"foreign, accept always", StyleRepeat, tcp(wgMark), verdict.ActionPermanentAccept, 0, plan{nf: nfRepeat, mark: wgMark | 3<<30}},
		{"foreign, final", StyleRepeat, tcp(wgMark), verdict.ActionPermanentAcceptFinal, 0, plan{nf: nfRepeat, mark: wgMark | 3<<30}},
		{"foreign, drop", StyleRepeat, tcp(wgMark), verdict.ActionDrop, 0, plan{nf: nfDrop}},
		{"foreign, drop always", StyleRepeat, tcp(wgMark), verdict.ActionPermanentDrop, 0, plan{nf: nfDrop, remember: 1712}},
		{"foreign, block", StyleRepeat, tcp(wgMark), verdict.ActionBlock, 0, plan{nf: nfRepeat, mark: 1701}},
		{"foreign, block always", StyleRepeat, tcp(wgMark), verdict.ActionPermanentBlock, 0, plan{nf: nfRepeat, mark: 1701, remember: 1711}},
		{"foreign, reroute", StyleRepeat, tcp(wgMark), verdict.ActionRerouteToTunnel, 0, plan{nf: nfRepeat, mark: 1717}},
		{"no room, accept", StyleRepeat, tcp(full), verdict.ActionAccept, 0, plan{nf: nfAccept}},
		{"no room, accept always", StyleRepeat, tcp(full), verdict.ActionPermanentAccept, 0, plan{nf: nfAccept, label: true}},
		{"no room, drop", StyleRepeat, tcp(full), verdict.ActionDrop, 0, plan{nf: nfDrop}},

		{"loopback out, accept always", StyleRepeat, lo(out), verdict.ActionPermanentAccept, 0, plan{nf: nfRepeat, mark: 1700}},
		{"loopback out, final", StyleRepeat, lo(out), verdict.ActionPermanentAcceptFinal, 0, plan{nf: nfRepeat, mark: 1700}},
		{"loopback out, drop always", StyleRepeat, lo(out), verdict.ActionPermanentDrop, 0, plan{nf: nfRepeat, mark: 1712, remember: 1712}},
		{"loopback in, accept always", StyleRepeat, lo(in), verdict.ActionPermanentAccept, 0, plan{nf: nfRepeat, mark: 1710}},
		{"to our own address", StyleRepeat, infoOf(packet.UDP, "10.0.0.1:1", "10.0.0.1:2", out, 0), verdict.ActionPermanentAccept, 0, plan{nf: nfRepeat, mark: 1700}},

		{"icmp error, accept always", StyleRepeat, icmpError, verdict.ActionPermanentAccept, 0, plan{nf: nfRepeat, mark: 1700}},
		{"icmp error, block always", StyleRepeat, icmpError, verdict.ActionPermanentBlock, 0, plan{nf: nfRepeat, mark: 1701}},
		{"icmp error, drop always", StyleRepeat, icmpError, verdict.ActionPermanentDrop, 0, plan{nf: nfRepeat, mark: 1702}},
		{"icmp error, reroute", StyleRepeat, icmpError, verdict.ActionRerouteToTunnel, 0, plan{nf: nfRepeat, mark: 1702}},
		{"echo, accept always", StyleRepeat, ping, verdict.ActionPermanentAccept, 0, plan{nf: nfRepeat, mark: 1710}},

		{"plain accept", StylePlain, tcp(0), verdict.ActionPermanentAccept, 0, plan{nf: nfAccept, mark: 1710}},
		{"plain foreign accept", StylePlain, tcp(wgMark), verdict.ActionPermanentAccept, 0, plan{nf: nfAccept}},
		{"plain block", StylePlain, tcp(0), verdict.ActionPermanentBlock, 0, plan{nf: nfDrop}},
		{"plain drop", StylePlain, tcp(0), verdict.ActionDrop, 0, plan{nf: nfDrop}},
		{"plain reroute", StylePlain, tcp(0), verdict.ActionRerouteToSplitTun, 2, plan{nf: nfAccept, mark: 1721}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPlanner(DefaultMarks(), test.style)
			if got := p.plan(test.info, test.action, test.route); got != test.want {
				t.Errorf("got %+v; want %+v", got, test.want)
			}
		})
	}
}

func TestUpdateMark(t *testing.T) {
	p := newPlanner(DefaultMarks(), StyleRepeat)
	tcp := infoOf(packet.TCP, "10.0.0.1:1", "10.0.0.2:2", packet.Outbound, 0).Tuple
	lo := infoOf(packet.TCP, "127.0.0.1:1", "127.0.0.1:2", packet.Outbound, 0).Tuple
	icmp := infoOf(packet.ICMP, "10.0.0.1:0", "10.0.0.2:0", packet.Outbound, 0).Tuple
	for _, test := range []struct {
		tuple  packet.Tuple
		action verdict.Action
		mark   uint32
		ok     bool
	}{
		{tcp, verdict.ActionPermanentAccept, 1710, true},
		{tcp, verdict.ActionPermanentAcceptFinal, 1709, true},
		{tcp, verdict.ActionPermanentBlock, 1711, true},
		{tcp, verdict.ActionPermanentDrop, 1712, true},
		{tcp, verdict.ActionAccept, 0, false},
		{tcp, verdict.ActionRerouteToSplitTun, 0, false},
		{tcp, verdict.NumActions, 0, false},
		{lo, verdict.ActionPermanentAccept, 0, false},
		{lo, verdict.ActionPermanentDrop, 1712, true},
		{icmp, verdict.ActionPermanentDrop, 0, false},
	} {
		mark, ok := p.updateMark(test.tuple, test.action)
		if ok != test.ok || ok && mark != test.mark {
			t.Errorf("%v to %v: got %d, %v; want %d, %v", test.tuple, test.action, mark, ok, test.mark, test.ok)
		}
	}
}
