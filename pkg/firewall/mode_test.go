package firewall_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// How long a decision holds in the kernel.
func TestPermanence(t *testing.T) {
	loop := func(i packet.Info) packet.Info { return between(i, "127.0.0.1:5", "127.0.0.1:6") }
	inspect := func(c *firewall.Config) {
		o := says(verdict.Accept)
		o.Inspect = true
		c.Deciders = []firewall.Decider{decider(func(*conn.Snapshot) firewall.Outcome { return o })}
	}
	say := func(v verdict.Verdict) func(c *firewall.Config) {
		return func(c *firewall.Config) { c.Deciders = always(v) }
	}
	for _, tt := range []struct {
		name string
		i    packet.Info
		edit func(c *firewall.Config)
		want verdict.Action
	}{
		{"accept", out(packet.TCP, 1, faraway), say(verdict.Accept), verdict.ActionPermanentAccept},
		{"block", out(packet.TCP, 1, faraway), say(verdict.Block), verdict.ActionPermanentBlock},
		{"drop", in(packet.UDP, 1, faraway), say(verdict.Drop), verdict.ActionPermanentDrop},
		{"failed", out(packet.TCP, 1, faraway), say(verdict.Failed), verdict.ActionDrop},
		{"nameserver", out(packet.UDP, 1, "198.51.100.7:53"), say(verdict.RerouteToNameserver), verdict.ActionRerouteToNameserver},
		{"never", out(packet.TCP, 1, faraway), func(c *firewall.Config) { c.Permanent = firewall.NeverPermanent }, verdict.ActionAccept},
		{"inspected", out(packet.TCP, 1, faraway), inspect, verdict.ActionAccept},
		{"outbound loopback", loop(out(packet.TCP, 0, faraway)), say(verdict.Accept), verdict.ActionAccept},
		{"outbound loopback, refused", loop(out(packet.TCP, 0, faraway)), say(verdict.Block), verdict.ActionBlock},
		{"inbound loopback", loop(in(packet.TCP, 0, faraway)), say(verdict.Accept), verdict.ActionPermanentAccept},
		{"to an own address", between(out(packet.TCP, 0, faraway), "192.168.1.2:5", "192.168.1.2:6"), say(verdict.Accept), verdict.ActionAccept},
		{"echo", ping(packet.Outbound, "198.51.100.7"), say(verdict.Accept), verdict.ActionPermanentAccept},
		{"echo with identifier 0", between(ping(packet.Outbound, "198.51.100.7"), "192.168.1.2:0", "198.51.100.7:0"), say(verdict.Block), verdict.ActionPermanentBlock},
		{"igmp", out(packet.IGMP, 0, "224.0.0.22:0"), say(verdict.Accept), verdict.ActionPermanentAccept},
		{"observed", out(packet.TCP, 1, faraway), func(c *firewall.Config) { c.Mode = firewall.Observe }, verdict.ActionAccept},
		{
			"failed, answered", out(packet.TCP, 1, faraway),
			func(c *firewall.Config) { c.Deciders, c.FailedAnswer = always(verdict.Failed), firewall.FailLikeBlock },
			verdict.ActionBlock,
		},
		{
			"failed inbound, not answered", in(packet.TCP, 1, faraway),
			func(c *firewall.Config) { c.Deciders, c.FailedAnswer = always(verdict.Failed), firewall.FailLikeBlock },
			verdict.ActionDrop,
		},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			r := start(t, tt.edit)
			r.want(tt.i, tt.want)
			_, _, remembered := r.src.Remembered(tt.i.Tuple)
			if want := tt.want.Permanent(); remembered != want {
				t.Errorf("the kernel remembers: %t; want %t", remembered, want)
			}
			again := intercepttest.ByLookup
			if tt.want.Permanent() {
				again = intercepttest.ByKernel
			}
			r.wantBy(tt.i, tt.want, again)
		})
	}
}

// FilterConnection says the same of ICMP that is not echo, whose packets are
// accepted one by one.
func TestPermanenceOfICMP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		i := between(out(packet.ICMP, 0, faraway), "192.168.1.2:0", "198.51.100.7:0")
		if d := r.FilterConnection(t.Context(), &conn.Snapshot{Tuple: i.Tuple, ICMPType: 3}); d.Scope != verdict.ScopePacket {
			t.Errorf("got %+v; want it for the packet only", d)
		}
	})
}

// Observe mode shows decisions and carries none out.
func TestObserve(t *testing.T) {
	for _, v := range []verdict.Verdict{verdict.Block, verdict.Drop, verdict.Failed} {
		bubble(t, v.String(), func(t *testing.T) {
			r := start(t, func(c *firewall.Config) { c.Mode, c.Deciders = firewall.Observe, always(v) })
			i := out(packet.TCP, 1, faraway)
			r.wantWhy(i, verdict.ActionAccept, v, "test")
			if s := r.state(i.Tuple); s.Enforced {
				t.Error("got an enforced decision")
			}
			r.wantBy(i, verdict.ActionAccept, intercepttest.ByLookup)
			if n := r.Stats().Verdicts[v]; n != 1 {
				t.Errorf("got %d counted; want 1", n)
			}
		})
	}
}

// Switching the handler's block over in observe mode neither cuts nor tells the
// kernel anything but to go on asking.
func TestObserveReevaluate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolicy(verdict.Accept)
		r := start(t, func(c *firewall.Config) { c.Mode, c.Deciders = firewall.Observe, []firewall.Decider{p} })
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionAccept)
		p.set(says(verdict.Block))
		r.reevaluate(firewall.Everything, 1)
		r.wantCalls(intercepttest.OpCut, 0)
		r.wantBy(flags(i, packet.TCPAck), verdict.ActionAccept, intercepttest.ByLookup)
	})
}

// Connections older than the firewall that would have to be rerouted.
func TestOlderConnections(t *testing.T) {
	ack := func(i packet.Info) packet.Info { return flags(i, packet.TCPAck) }
	split := func(w *ways) { w.split = eth1 }
	for _, tt := range []struct {
		name    string
		i       packet.Info
		edit    func(c *firewall.Config)
		ways    func(w *ways)
		tracked bool
		want    verdict.Action
		code    verdict.Code
		cuts    int
	}{
		{"tunnel", ack(out(packet.TCP, 1, faraway)), nil, func(w *ways) { w.tunnel = spn }, true, verdict.ActionPermanentBlock, firewall.CodeOlder, 1},
		{"split", ack(out(packet.TCP, 1, faraway)), nil, split, true, verdict.ActionPermanentBlock, firewall.CodeOlder, 1},
		{"split, untracked", ack(out(packet.TCP, 1, faraway)), nil, split, false, verdict.ActionPermanentBlock, firewall.CodeOlder, 1},
		{
			"observed", ack(out(packet.TCP, 1, faraway)), func(c *firewall.Config) { c.Mode = firewall.Observe }, split, true,
			verdict.ActionBlock, firewall.CodeOlder, 1,
		},
		{"nowhere else", ack(out(packet.TCP, 1, faraway)), nil, nil, true, verdict.ActionPermanentAccept, firewall.CodeDefault, 0},
		{
			"nameserver", ack(out(packet.TCP, 1, "198.51.100.7:53")),
			func(c *firewall.Config) { c.Deciders = always(verdict.RerouteToNameserver) }, nil, true,
			verdict.ActionPermanentBlock, firewall.CodeOlder, 1,
		},
		{
			"loopback", between(ack(out(packet.TCP, 0, faraway)), "127.0.0.1:5", "127.0.0.53:53"),
			func(c *firewall.Config) { c.Deciders = always(verdict.RerouteToNameserver) }, nil, true,
			verdict.ActionAccept, firewall.CodeOlder, 0,
		},
		{"new", out(packet.TCP, 1, faraway), nil, split, false, verdict.ActionRerouteToSplitTun, firewall.CodeSplitTun, 0},
		{"new udp", out(packet.UDP, 1, faraway), nil, split, false, verdict.ActionRerouteToSplitTun, firewall.CodeSplitTun, 0},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			w := &ways{}
			if tt.ways != nil {
				tt.ways(w)
			}
			r := start(t, func(c *firewall.Config) {
				w.use(c)
				if tt.edit != nil {
					tt.edit(c)
				}
			})
			if tt.tracked {
				r.src.track(tt.i.Tuple, packet.Outbound)
			}
			r.want(tt.i, tt.want)
			if d := r.state(tt.i.Tuple).Decision; d.Reason.Code != tt.code {
				t.Errorf("got %+v; want %v", d, tt.code)
			}
			r.wantCalls(intercepttest.OpCut, tt.cuts)
			// what was reset stays so, and what was left alone too
			if tt.code == firewall.CodeOlder {
				r.reevaluate(firewall.Everything, 0)
				r.want(tt.i, tt.want)
				r.wantCalls(intercepttest.OpCut, tt.cuts)
			}
		})
	}
}

// An older UDP connection takes its new way once the kernel knows nothing of it:
// what waited meanwhile is lost, and its socket, which may serve others, is not.
func TestOlderUDP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &ways{split: eth1}
		r := start(t, w.use)
		i := out(packet.UDP, 1, faraway)
		r.src.track(i.Tuple, packet.Outbound)
		r.wantWhy(i, verdict.ActionDrop, verdict.RerouteToSplitTun, firewall.CodeSplitTun)
		want := intercepttest.Call{Op: intercepttest.OpUpdate, Tuple: i.Tuple, Action: verdict.ActionRerouteToSplitTun, Route: 3}
		if got := r.src.Calls(); len(got) != 1 || got[0] != want {
			t.Errorf("got %v; want %v", got, want)
		}
	})
}

func TestProcessIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(c *firewall.Config) {
			c.Processes = finder(func(i *packet.Info, d packet.Direction) (*conn.Process, error) {
				if i.Local.Port() == 2 {
					return nil, errors.New("gone")
				}
				return &conn.Process{PID: 12, Path: "/usr/bin/curl", Args: []string{d.String()}}, nil
			})
		})
		known, unknown := out(packet.TCP, 1, faraway), out(packet.TCP, 2, faraway)
		r.want(known, verdict.ActionPermanentAccept)
		r.want(unknown, verdict.ActionPermanentAccept)
		if p := r.state(known.Tuple).Process; p == nil || p.PID != 12 || p.Args[0] != "out" {
			t.Errorf("got %+v; want process 12", p)
		}
		if p := r.state(unknown.Tuple).Process; p != nil {
			t.Errorf("got %+v; want none", p)
		}
	})
}

// Without a source that tells, a datagram is taken for the first one, and a
// connection that cannot be cut is refused all the same.
func TestOlderWithoutSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &ways{split: eth1}
		r := start(t, func(c *firewall.Config) {
			w.use(c)
			c.Source = nil
		})
		r.want(out(packet.UDP, 1, faraway), verdict.ActionRerouteToSplitTun)
		r.wantWhy(flags(out(packet.TCP, 1, faraway), packet.TCPAck), verdict.ActionPermanentBlock, verdict.Block, firewall.CodeOlder)
		r.reevaluate(firewall.Everything, 0)
		r.end(out(packet.UDP, 1, faraway).Tuple)
		time.Sleep(pastNews)
		if !r.gone(out(packet.UDP, 1, faraway).Tuple) {
			t.Error("a reported end was not believed though nobody denies it")
		}
	})
}
