package firewall_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// gone reports whether a connection ended.
func (r *rig) gone(t packet.Tuple) bool { return r.store.Get(t) == nil }

func TestReportEnd(t *testing.T) {
	i := out(packet.TCP, 1, faraway)
	for _, tt := range []struct {
		name        string
		age         time.Duration // of the connection at the end that is reported
		stillThere  bool          // the kernel still knows it afterwards
		atOnce, end bool
	}{
		{"the end", time.Minute, false, true, true},
		{"of the last connection", -time.Second, true, false, false},
		{"of the last connection, told late", time.Millisecond, true, false, false},
		{"a short life", time.Millisecond, false, false, true},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			r := start(t, nil)
			r.want(i, verdict.ActionPermanentAccept)
			began := r.state(i.Tuple).Started
			time.Sleep(max(0, tt.age))
			r.reportEnd(i.Tuple, began.Add(tt.age))
			if got := r.gone(i.Tuple); got != tt.atOnce {
				t.Errorf("ended at once: %t; want %t", got, tt.atOnce)
			}
			if tt.stillThere {
				r.src.track(i.Tuple, packet.Outbound)
			}
			time.Sleep(pastNews)
			synctest.Wait()
			if got := r.gone(i.Tuple); got != tt.end {
				t.Errorf("ended: %t; want %t", got, tt.end)
			}
			r.wantCalls(intercepttest.OpForget, 0) // the kernel knows
		})
	}
}

// A connection that waits for a decision has not begun, so it does not end.
func TestReportEndOfUndecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(c *firewall.Config) {
			c.Deciders = []firewall.Decider{&firewall.RuleDecider{
				Rules: askingRules(t), Asker: &asker{after: 40 * time.Second, answer: verdict.Accept},
			}}
		})
		i := out(packet.TCP, 1, faraway)
		res := r.send(i)
		synctest.Wait()
		r.end(i.Tuple)
		time.Sleep(30 * time.Second)
		if r.gone(i.Tuple) {
			t.Fatal("ended while it waited")
		}
		r.src.track(i.Tuple, packet.Outbound)
		if got := r.result(res); got.Action != verdict.ActionPermanentAccept {
			t.Errorf("got %v; want PermanentAccept", got)
		}
		time.Sleep(pastNews)
		if r.gone(i.Tuple) {
			t.Error("ended by the report about the connection before it")
		}
	})
}

// The end of TCP connections that user space sees every packet of.
func TestClosing(t *testing.T) {
	syn := out(packet.TCP, 1, faraway)
	fin, rst := flags(syn, packet.TCPFin|packet.TCPAck), flags(syn, packet.TCPRst)
	for _, tt := range []struct {
		name string
		last []packet.Info
		end  bool
	}{
		{"open", []packet.Info{flags(syn, packet.TCPAck)}, false},
		{"half closed", []packet.Info{fin}, false},
		{"one side, twice", []packet.Info{fin, fin}, false},
		{"closed", []packet.Info{fin, back(fin)}, true},
		{"reset", []packet.Info{back(rst)}, true},
		{"udp has no flags", []packet.Info{{Tuple: out(packet.UDP, 1, faraway).Tuple, TCPFlags: packet.TCPRst}}, false},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			r := start(t, func(c *firewall.Config) { c.Permanent = firewall.NeverPermanent })
			r.want(syn, verdict.ActionAccept)
			for _, i := range tt.last {
				r.want(i, verdict.ActionAccept)
			}
			time.Sleep(9 * time.Second)
			if r.gone(syn.Tuple) {
				t.Error("ended before late segments")
			}
			time.Sleep(pastNews)
			if got := r.gone(syn.Tuple); got != tt.end {
				t.Errorf("ended: %t; want %t", got, tt.end)
			}
		})
	}
}

// Segments that waited for the decision close the connection too.
func TestClosingWhileUndecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		r := start(t, func(c *firewall.Config) { c.Permanent, c.Processes = firewall.NeverPermanent, g.held() })
		i := out(packet.TCP, 1, faraway)
		r.send(i)
		last := r.send(flags(i, packet.TCPRst))
		synctest.Wait()
		g.open()
		r.result(last)
		time.Sleep(pastNews)
		if !r.gone(i.Tuple) {
			t.Error("goes on; want it ended by its reset")
		}
	})
}

// Who gets a tuple's next packet: the connection it has, or a new one.
func TestReuse(t *testing.T) {
	syn := out(packet.TCP, 1, faraway)
	for _, tt := range []struct {
		name        string
		permanence  firewall.Permanence
		v           verdict.Verdict
		first, then packet.Info
		after       time.Duration
		anew        bool
	}{
		{"syn again soon", firewall.NeverPermanent, verdict.Accept, syn, syn, 300 * time.Millisecond, false},
		{"syn again later", firewall.NeverPermanent, verdict.Accept, syn, syn, time.Second, true},
		{"data later", firewall.NeverPermanent, verdict.Accept, syn, flags(syn, packet.TCPAck), time.Hour, false},
		{"syn after the kernel was told", firewall.PermanentWhereSafe, verdict.Accept, syn, syn, 200 * time.Millisecond, true},
		{"syn before the kernel was told", firewall.PermanentWhereSafe, verdict.Accept, syn, syn, 50 * time.Millisecond, false},
		{"refused syn again soon", firewall.PermanentWhereSafe, verdict.Block, syn, syn, 300 * time.Millisecond, false},
		{
			"own datagram after a refused one", firewall.NeverPermanent, verdict.Drop,
			in(packet.UDP, 1, faraway), out(packet.UDP, 1, faraway), time.Second, true,
		},
		{
			"another refused datagram", firewall.NeverPermanent, verdict.Drop,
			in(packet.UDP, 1, faraway), in(packet.UDP, 1, faraway), time.Second, false,
		},
		{
			"an answer", firewall.NeverPermanent, verdict.Drop,
			out(packet.UDP, 1, faraway), in(packet.UDP, 1, faraway), time.Second, false,
		},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			r := startOn(t, newSource(intercepttest.Config{Memory: intercepttest.Forgets}), func(c *firewall.Config) {
				c.Permanent, c.Deciders = tt.permanence, always(tt.v)
			})
			r.fate(tt.first)
			synctest.Wait()
			old := r.state(tt.first.Tuple).ID
			time.Sleep(tt.after)
			r.fate(tt.then)
			synctest.Wait()
			if s := r.state(tt.first.Tuple); (s.ID != old) != tt.anew || tt.anew && s.Direction != tt.then.Direction {
				t.Errorf("got connection %d %v after %d; want a new one: %t", s.ID, s.Direction, old, tt.anew)
			}
			if n := r.store.Len(); n != 1 {
				t.Errorf("got %d live; want 1", n)
			}
		})
	}
}

// What ends without the kernel's word has to be asked about again.
func TestForget(t *testing.T) {
	for _, tt := range []struct {
		name   string
		v      verdict.Verdict
		perm   firewall.Permanence
		end    func(r *rig, i packet.Info)
		forget int
	}{
		{"silent", verdict.Accept, firewall.PermanentWhereSafe, (*rig).outlive, 1},
		{"silent, refused", verdict.Drop, firewall.PermanentWhereSafe, (*rig).outlive, 1},
		{"silent, watched", verdict.Accept, firewall.NeverPermanent, (*rig).outlive, 0},
		{"evicted", verdict.Accept, firewall.PermanentWhereSafe, (*rig).flood, 1},
		{"evicted, refused", verdict.Drop, firewall.PermanentWhereSafe, (*rig).flood, 0},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			r := start(t, func(c *firewall.Config) {
				c.Store = connstore.NewLive(connstore.Config{MaxLive: 64, Idle: time.Minute, WatchedIdle: time.Minute})
				c.Deciders, c.Permanent = always(tt.v), tt.perm
			})
			i := out(packet.UDP, 1, faraway)
			r.fate(i)
			synctest.Wait()
			tt.end(r, i)
			synctest.Wait()
			if r.store.Get(i.Tuple) != nil {
				t.Fatal("the connection lives on")
			}
			n := 0
			for _, c := range r.calls(intercepttest.OpForget) {
				if c.Tuple == i.Tuple {
					n++
				}
			}
			if n != tt.forget {
				t.Errorf("the kernel was told to forget it %d times; want %d", n, tt.forget)
			}
		})
	}
}

func (r *rig) outlive(packet.Info) { time.Sleep(3 * time.Minute) }

func (r *rig) flood(i packet.Info) {
	for port := uint16(2); r.store.Get(i.Tuple) != nil; port++ {
		r.fate(out(packet.UDP, port, faraway))
		synctest.Wait()
	}
}

func TestReportUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionPermanentAccept)
		other := out(packet.TCP, 2, faraway)
		if err := r.src.ReportUsage(
			intercept.Usage{Tuple: i.Tuple, ReceivedBytes: 10, SentBytes: 1}, intercept.Usage{Tuple: other.Tuple, SentBytes: 9},
			intercept.Usage{Tuple: i.Tuple, ReceivedBytes: 5},
		); err != nil {
			t.Fatal(err)
		}
		if s := r.store.Get(i.Tuple).Snapshot(); s.ReceivedBytes != 15 || s.SentBytes != 1 {
			t.Errorf("got %d, %d bytes; want 15, 1", s.ReceivedBytes, s.SentBytes)
		}
	})
}

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolicy(verdict.Accept)
		r := start(t, func(c *firewall.Config) { c.Deciders = []firewall.Decider{p} })
		for n, v := range []verdict.Verdict{verdict.Accept, verdict.Accept, verdict.Block, verdict.Drop, verdict.Failed, verdict.RerouteToNameserver} {
			p.set(says(v))
			r.fate(out(packet.UDP, uint16(n+1), faraway))
			synctest.Wait()
		}
		want := firewall.Stats{}
		want.Verdicts[verdict.Accept], want.Verdicts[verdict.Block], want.Verdicts[verdict.Drop] = 2, 1, 1
		want.Verdicts[verdict.Failed], want.Verdicts[verdict.RerouteToNameserver] = 1, 1
		if got := r.Stats(); got != want {
			t.Errorf("got %+v; want %+v", got, want)
		}
	})
}

// A condition is raised once, stays while it goes on, and ends 30 s after.
func TestConditions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolicy(verdict.Accept)
		r := start(t, func(c *firewall.Config) {
			c.Deciders = []firewall.Decider{p}
			c.External = slotOf(t, func(_ context.Context, s *conn.Snapshot) extverdict.Result {
				if s.Tuple.Local.Port() < 100 {
					panic(fmt.Sprint("port ", s.Tuple.Local.Port()))
				}
				return extverdict.Result{}
			})
		})
		for port := range uint16(4) {
			r.want(out(packet.UDP, port+1, faraway), verdict.ActionDrop)
			time.Sleep(20 * time.Second)
		}
		r.wantConditions("handler-panic")
		time.Sleep(20 * time.Second)
		r.wantConditions("handler-panic", "-handler-panic")
		r.want(out(packet.UDP, 100, faraway), verdict.ActionPermanentAccept)
		r.want(out(packet.UDP, 5, faraway), verdict.ActionDrop)
		r.wantConditions("handler-panic", "-handler-panic", "handler-panic")
	})
}
