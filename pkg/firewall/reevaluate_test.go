package firewall_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// One connection, one app's, or all; only what changed is told to the kernel.
func TestReevaluateSelection(t *testing.T) {
	for _, tt := range []struct {
		name string
		sel  func(r *rig) firewall.Selection
		want []uint16 // local ports
	}{
		{"everything", func(*rig) firewall.Selection { return firewall.Everything }, []uint16{1, 2, 3}},
		{"one app", func(*rig) firewall.Selection { return firewall.OfApp("/bin/a") }, []uint16{1, 3}},
		{"another app", func(*rig) firewall.Selection { return firewall.OfApp("/bin/c") }, nil},
		{"one", func(r *rig) firewall.Selection { return firewall.OfID(r.state(out(packet.TCP, 2, faraway).Tuple).ID) }, []uint16{2}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			p := newPolicy(verdict.Accept)
			r := start(t, func(c *firewall.Config) {
				c.Deciders = []firewall.Decider{p}
				c.Processes = finder(func(i *packet.Info, _ packet.Direction) (*conn.Process, error) {
					return &conn.Process{PID: 5, Path: "/bin/" + string("ba"[i.Local.Port()%2])}, nil
				})
			})
			for port := range uint16(3) {
				r.want(out(packet.TCP, port+1, faraway), verdict.ActionPermanentAccept)
			}
			p.set(says(verdict.Block))
			r.reevaluate(tt.sel(r), len(tt.want))
			r.wantCalls(intercepttest.OpUpdate, len(tt.want))
			r.wantCalls(intercepttest.OpCut, len(tt.want))
			for _, port := range tt.want {
				i := out(packet.TCP, port, faraway)
				r.wantBy(flags(i, packet.TCPAck), verdict.ActionPermanentBlock, intercepttest.ByKernel)
				if v := r.state(i.Tuple).Verdict(); v != verdict.Block {
					t.Errorf("port %d: got %v; want Block", port, v)
				}
			}
			r.reevaluate(tt.sel(r), 0)
			r.wantCalls(intercepttest.OpUpdate, len(tt.want))
		})
	}
}

// What a change of the verdict means for a running connection.
func TestCutOrLeave(t *testing.T) {
	type step struct {
		v     verdict.Verdict
		split *conn.SplitTunContext
	}
	accept, block, drop := step{v: verdict.Accept}, step{v: verdict.Block}, step{v: verdict.Drop}
	viaEth1, viaEth2 := step{verdict.Accept, eth1}, step{verdict.Accept, eth2}
	for _, tt := range []struct {
		name     string
		proto    packet.Protocol
		on       firewall.OnChange
		from, to step
		changed  int
		cuts     int
		want     verdict.Action
	}{
		{"refused", packet.TCP, firewall.CutChanged, accept, block, 1, 1, verdict.ActionPermanentBlock},
		{"refused udp", packet.UDP, firewall.CutChanged, accept, drop, 1, 1, verdict.ActionPermanentDrop},
		{"refused sctp", packet.SCTP, firewall.CutChanged, accept, drop, 1, 0, verdict.ActionPermanentDrop},
		{"left", packet.TCP, firewall.LeaveChanged, accept, block, 1, 0, verdict.ActionPermanentBlock},
		{"refused before", packet.TCP, firewall.CutChanged, block, drop, 1, 0, verdict.ActionPermanentDrop},
		{"allowed now", packet.TCP, firewall.CutChanged, block, accept, 1, 0, verdict.ActionPermanentAccept},
		{"rerouted", packet.TCP, firewall.CutChanged, accept, viaEth1, 1, 1, verdict.ActionRerouteToSplitTun},
		{"rerouted elsewhere", packet.TCP, firewall.CutChanged, viaEth1, viaEth2, 1, 1, verdict.ActionRerouteToSplitTun},
		{"rerouted as before", packet.TCP, firewall.CutChanged, viaEth1, viaEth1, 0, 0, verdict.ActionRerouteToSplitTun},
		{"left on its way", packet.TCP, firewall.LeaveChanged, viaEth1, viaEth2, 0, 0, verdict.ActionRerouteToSplitTun},
		{"left on the split way", packet.TCP, firewall.LeaveChanged, viaEth1, accept, 0, 0, verdict.ActionRerouteToSplitTun},
		{"left on the common way", packet.TCP, firewall.LeaveChanged, accept, viaEth1, 0, 0, verdict.ActionPermanentAccept},
		{"left, but refused", packet.TCP, firewall.LeaveChanged, viaEth1, block, 1, 0, verdict.ActionPermanentBlock},
		{"no longer rerouted", packet.TCP, firewall.CutChanged, viaEth1, accept, 1, 1, verdict.ActionPermanentAccept},
		{"the same", packet.TCP, firewall.CutChanged, accept, accept, 0, 0, verdict.ActionPermanentAccept},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			w, p := &ways{}, newPolicy(verdict.Undecided)
			r := start(t, func(c *firewall.Config) {
				w.use(c)
				c.Deciders, c.OnChange = []firewall.Decider{p}, tt.on
			})
			set := func(s step) {
				p.set(says(s.v))
				w.set(nil, s.split, nil)
			}
			i := out(tt.proto, 1, faraway)
			set(tt.from)
			r.fate(i)
			synctest.Wait()
			before := r.state(i.Tuple).SplitTun
			set(tt.to)
			r.reevaluate(firewall.Everything, tt.changed)
			r.wantCalls(intercepttest.OpCut, tt.cuts)
			r.wantCalls(intercepttest.OpUpdate, tt.changed)
			if a, _, ok := r.store.Get(i.Tuple).Action(); a != tt.want || !ok {
				t.Errorf("got %v, %t; want %v", a, ok, tt.want)
			}
			if s := r.state(i.Tuple); tt.changed == 0 && s.SplitTun != before {
				t.Error("the context was replaced though it is the same")
			}
		})
	}
}

// Another tunnel is another way.
func TestReevaluateTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &ways{tunnel: spn}
		r := start(t, w.use)
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionRerouteToTunnel)
		r.reevaluate(firewall.Everything, 0)
		w.set(&conn.TunnelContext{Provider: "wg"}, nil, nil)
		r.reevaluate(firewall.Everything, 1)
		r.wantCalls(intercepttest.OpCut, 1)
		if c := r.state(i.Tuple).Tunnel; c == nil || c.Provider != "wg" || w.stops() != 0 {
			t.Errorf("got %+v, %d stopped; want wg, 0", c, w.stops())
		}
	})
}

// In observe mode a connection that was to be refused went its way; when it is
// to take another one it has to begin anew.
func TestReevaluateObservedToSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := &ways{}, newPolicy(verdict.Block)
		r := start(t, func(c *firewall.Config) {
			w.use(c)
			c.Mode, c.Deciders = firewall.Observe, []firewall.Decider{p}
		})
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionAccept)
		w.set(nil, eth1, nil)
		r.reevaluate(firewall.Everything, 1)
		r.wantCalls(intercepttest.OpCut, 1)
		r.want(flags(i, packet.TCPAck), verdict.ActionRerouteToSplitTun)
	})
}

// What never depended on policy is left alone.
func TestReevaluateLeaves(t *testing.T) {
	for _, tt := range []struct {
		name string
		i    packet.Info
		prep func(r *rig)
	}{
		{"own", out(packet.TCP, 5000, faraway), func(r *rig) { r.preAuthenticate(packet.TCP, 5000) }},
		{"self", between(out(packet.TCP, 0, faraway), "127.0.0.1:5", "127.0.0.1:5"), nil},
		{"dhcp", out(packet.UDP, 68, "192.168.1.1:67"), nil},
		{"sinkhole", out(packet.TCP, 1, "0.0.0.17:443"), nil},
		{"multicast answer", in(packet.UDP, 5, "192.168.1.9:1900"), func(r *rig) { r.fate(out(packet.UDP, 5, "239.255.255.250:1900")) }},
		{"ended", out(packet.TCP, 1, faraway), func(r *rig) {
			r.fate(out(packet.TCP, 1, faraway))
			synctest.Wait()
			r.store.End(out(packet.TCP, 1, faraway).Tuple, time.Now())
		}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			p := newPolicy(verdict.Accept)
			r := start(t, func(c *firewall.Config) { c.Deciders = []firewall.Decider{p} })
			if tt.prep != nil {
				tt.prep(r)
			}
			if tt.name != "ended" {
				r.fate(tt.i)
				synctest.Wait()
			}
			p.set(says(verdict.Accept))
			before := p.asked()
			sel := func(s *conn.Snapshot) bool { return s.Tuple == tt.i.Tuple }
			r.reevaluate(sel, 0)
			if got := p.asked(); got != before {
				t.Errorf("asked %d times more; want 0", got-before)
			}
		})
	}
}

// A handler that comes later applies to connections that are there, at their
// next re-evaluation, and many of them may wait for it at once.
func TestReevaluateWithHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slot extverdict.Slot
		r := start(t, func(c *firewall.Config) { c.External = &slot })
		const n = 640
		for port := range uint16(n) {
			r.want(out(packet.UDP, port+1, faraway), verdict.ActionPermanentAccept)
		}
		if err := slot.Set("late", func(_ context.Context, s *conn.Snapshot) extverdict.Result {
			time.Sleep(100 * time.Millisecond)
			return extverdict.Result{Verdict: verdict.Block, Reason: "no"}
		}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		r.reevaluate(firewall.Everything, n)
		if took := time.Since(began); took != time.Second {
			t.Errorf("took %v; want 1s", took)
		}
		if d := r.state(out(packet.UDP, 1, faraway).Tuple).Decision; d.Reason.Code != firewall.CodeHandler || d.Reason.By != "late" {
			t.Errorf("got %+v; want the handler's", d)
		}
	})
}

// A re-evaluation that is given up leaves what it did not reach, and does not
// take silence for an answer.
func TestReevaluateCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolicy(verdict.Accept)
		r := start(t, func(c *firewall.Config) {
			c.Deciders, c.HandlerDeadline = []firewall.Decider{p}, time.Minute
			c.External = slotOf(t, func(_ context.Context, s *conn.Snapshot) extverdict.Result {
				time.Sleep(time.Second)
				return extverdict.Result{Verdict: verdict.Accept}
			})
		})
		i := out(packet.UDP, 1, faraway)
		r.want(i, verdict.ActionPermanentAccept)
		p.set(says(verdict.Block))
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		n, err := r.Reevaluate(ctx, firewall.Everything)
		if n != 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %d changed, %v; want 0, DeadlineExceeded", n, err)
		}
		if v := r.state(i.Tuple).Verdict(); v != verdict.Accept {
			t.Errorf("got %v; want Accept", v)
		}
		time.Sleep(time.Minute)
	})
}

// Errors of the kernel are told, all of them; the verdict holds anyway.
func TestReevaluateErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolicy(verdict.Accept)
		r := start(t, func(c *firewall.Config) { c.Deciders = []firewall.Decider{p} })
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionPermanentAccept)
		p.set(says(verdict.Block))
		r.unplug()
		n, err := r.Reevaluate(t.Context(), firewall.Everything)
		if n != 1 || !errors.Is(err, intercepttest.ErrNotRunning) {
			t.Errorf("got %d changed, %v; want 1, ErrNotRunning", n, err)
		}
		if v := r.state(i.Tuple).Verdict(); v != verdict.Block {
			t.Errorf("got %v; want Block", v)
		}
	})
}

// Policy changes after a connection was judged by the old one and before its
// packet has a verdict: it ends with the new policy, and the kernel knows.
func TestPolicyChangesWhileJudging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := newGate(t), newPolicy(verdict.Accept)
		r := start(t, func(c *firewall.Config) {
			c.Deciders = []firewall.Decider{decider(func(*conn.Snapshot) firewall.Outcome {
				o := p.Decide(t.Context(), nil)
				<-g.ch
				return o
			})}
		})
		i := out(packet.TCP, 1, faraway)
		res := r.send(i)
		synctest.Wait()
		p.set(says(verdict.Block))
		r.reevaluate(firewall.Everything, 0)
		g.open()
		r.result(res)
		synctest.Wait()
		r.wantPolicy(i.Tuple, verdict.ActionPermanentBlock)
		r.wantCalls(intercepttest.OpCut, 1)
	})
}

// wantPolicy checks that table and kernel agree about a connection.
func (r *rig) wantPolicy(t packet.Tuple, want verdict.Action) {
	r.t.Helper()
	c := r.store.Get(t)
	if a, _, ok := c.Action(); a != want || !ok || c.State().Decision.Action() != want {
		r.t.Errorf("%v: got %v, %t, decision %v; want %v", t, a, ok, c.State().Decision.Action(), want)
	}
	if a, _, ok := r.src.Remembered(t); ok && a != want {
		r.t.Errorf("%v: the kernel has %v; want %v", t, a, want)
	}
}

// Policy changes between the record of a decision and its packets' verdicts; in
// the second case again, so that a person would have to be asked.
func TestPolicyChangesWhileCarriedOut(t *testing.T) {
	for _, ask := range []bool{false, true} {
		bubble(t, fmt.Sprint(ask), func(t *testing.T) {
			g, p := newGate(t), newPolicy(verdict.Accept)
			r := start(t, func(c *firewall.Config) { c.Deciders = []firewall.Decider{p} })
			i := out(packet.TCP, 1, faraway)
			r.Handle(newRecorded(i, func(*recorded, verdict.Action) { <-g.ch }))
			synctest.Wait()
			p.set(says(verdict.Block))
			r.reevaluate(firewall.Everything, 1)
			if ask {
				p.set(firewall.Outcome{Decided: true, Wait: func(context.Context) (verdict.Decision, error) {
					return verdict.Decision{}, errors.New("asked in re-evaluation")
				}})
				r.reevaluate(firewall.Everything, 0)
			}
			g.open()
			synctest.Wait()
			r.wantPolicy(i.Tuple, verdict.ActionPermanentBlock)
			updates := r.calls(intercepttest.OpUpdate)
			if n := len(updates); n != 2 || updates[n-1].Action != verdict.ActionPermanentBlock {
				t.Errorf("got %v; want the block told before and after the packets' verdicts", updates)
			}
		})
	}
}

// A verdict that was looked up before policy changed may reach the kernel after
// it was told the new one. So it is told again.
func TestLateLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolicy(verdict.Accept)
		r := start(t, func(c *firewall.Config) { c.Deciders = []firewall.Decider{p} })
		i, quiet := out(packet.UDP, 1, faraway), out(packet.UDP, 2, faraway)
		r.want(i, verdict.ActionPermanentAccept)
		r.want(quiet, verdict.ActionPermanentAccept)
		time.Sleep(3 * time.Second)
		i.Seen = time.Now()
		late, _, ok := r.Lookup(&i)
		p.set(says(verdict.Block))
		r.reevaluate(firewall.Everything, 2)
		if err := r.src.Update(i.Tuple, late, 0); err != nil || !ok { // what a late verdict does
			t.Fatal(err, ok)
		}
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		r.wantPolicy(i.Tuple, verdict.ActionPermanentBlock)
		r.wantCalls(intercepttest.OpUpdate, 2+1+1) // both, the late one, and once more for i alone
		time.Sleep(10 * time.Second)
		r.wantCalls(intercepttest.OpUpdate, 2+1+1)

		// a while later again, and of many at several times
		const many = 50
		for port := range uint16(many) {
			r.want(out(packet.UDP, 100+port, faraway), verdict.ActionPermanentBlock)
		}
		before := len(r.calls(intercepttest.OpUpdate))
		p.set(says(verdict.Accept))
		for port := range uint16(many) {
			r.reevaluate(ofTuple(out(packet.UDP, 100+port, faraway).Tuple), 1)
			time.Sleep(7 * time.Millisecond)
		}
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		r.wantCalls(intercepttest.OpUpdate, before+2*many)
	})
}

// Hits are counted when an outcome takes effect, once.
func TestHits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var first, second hitCounter
		one, two := says(verdict.Accept), says(verdict.Block)
		one.Hit, two.Hit = &first, &second
		p := newPolicy(verdict.Undecided)
		p.set(one)
		r := start(t, func(c *firewall.Config) {
			c.Deciders = []firewall.Decider{p}
			c.External = slotOf(t, answering(extverdict.Result{})) // makes it park
		})
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionPermanentAccept)
		r.want(i, verdict.ActionPermanentAccept)
		r.Preview(t.Context(), r.state(i.Tuple))
		r.reevaluate(firewall.Everything, 0)
		if n := first.Load(); n != 1 {
			t.Errorf("got %d hits; want 1", n)
		}
		p.set(two)
		r.reevaluate(firewall.Everything, 1)
		r.reevaluate(firewall.Everything, 0)
		if first.Load() != 1 || second.Load() != 1 {
			t.Errorf("got %d, %d hits; want 1, 1", first.Load(), second.Load())
		}
	})
}

// Of two re-evaluations at once the newer policy wins, whichever ends last.
func TestReevaluateTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, g := newPolicy(verdict.Accept), newGate(t)
		var held atomic.Bool
		r := start(t, func(c *firewall.Config) {
			c.Deciders = []firewall.Decider{decider(func(*conn.Snapshot) firewall.Outcome {
				o := p.Decide(t.Context(), nil)
				if held.CompareAndSwap(true, false) {
					<-g.ch
				}
				return o
			})}
		})
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionPermanentAccept)
		p.set(says(verdict.Block))
		held.Store(true)
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.reevaluate(firewall.Everything, 0)
		}()
		for held.Load() {
			time.Sleep(time.Millisecond)
		}
		p.set(says(verdict.Drop))
		if n, err := r.Reevaluate(t.Context(), firewall.Everything); n != 1 || err != nil {
			t.Errorf("got %d changed, %v; want 1", n, err)
		}
		g.open()
		<-done
		r.wantPolicy(i.Tuple, verdict.ActionPermanentDrop)
		r.wantCalls(intercepttest.OpUpdate, 1)
	})
}

// Nobody waits for names of connections that are there already.
func TestReevaluateDoesNotWaitForNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		r := start(t, func(c *firewall.Config) {
			c.Names, c.Deciders = names{time.Hour, time.Now()}, []firewall.Decider{blocksAds(&asked)}
		})
		r.want(out(packet.TCP, 1, faraway), verdict.ActionPermanentAccept)
		began := time.Now()
		r.reevaluate(firewall.Everything, 0)
		if took := time.Since(began); took != 0 {
			t.Errorf("took %v; want no time", took)
		}
	})
}
