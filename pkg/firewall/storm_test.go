package firewall_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Everything at once on a few tuples: packets, changes of policy, ends,
// tunnels. Every packet gets one verdict, and in the end table, kernel
// and tunnels agree with the last policy.
func TestStorm(t *testing.T) {
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) { storm(t, seed) })
	}
}

func storm(t *testing.T, seed uint64) {
	t.Helper()
	const senders, rounds = 8, 300
	w, p := &ways{}, newPolicy(verdict.Accept)
	r := start(t, func(c *firewall.Config) {
		c.Workers, c.Tunneler, c.Deciders = 4, w, []firewall.Decider{p}
		if seed%2 == 1 {
			c.External = slotOf(t, func(_ context.Context, s *conn.Snapshot) extverdict.Result {
				time.Sleep(time.Duration(s.Tuple.Local.Port()%3) * time.Millisecond)
				return extverdict.Result{}
			})
		}
	})
	tuples := make([]packet.Info, 60)
	for n := range tuples {
		proto := packet.UDP
		if n%2 == 0 {
			proto = packet.TCP
		}
		tuples[n] = out(proto, uint16(n/12+1), faraway)
		tuples[n].Remote = addr("198.51.100.7:443")
		if n%12 > 5 {
			tuples[n].Remote = addr("198.51.100.8:443")
		}
	}
	var all sync.WaitGroup
	for n := range senders {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(n)))
			for range rounds {
				i := tuples[rnd.IntN(len(tuples))]
				switch rnd.IntN(12) {
				case 0:
					i = flags(back(i), packet.TCPAck)
				case 1:
					i = flags(i, packet.TCPFin)
				case 2:
					time.Sleep(time.Duration(rnd.IntN(800)) * time.Millisecond)
				case 3:
					_ = r.src.ReportEnd(intercept.End{Tuple: i.Tuple, At: time.Now()}) // the source runs
					continue
				}
				r.result(r.send(i))
			}
		})
	}
	all.Go(func() {
		rnd := rand.New(rand.NewPCG(seed, 99))
		for range rounds / 3 {
			w.set([]*conn.TunnelContext{nil, nil, spn}[rnd.IntN(3)], nil, nil)
			p.set(says([]verdict.Verdict{verdict.Accept, verdict.Block, verdict.Drop, verdict.Accept}[rnd.IntN(4)]))
			if _, err := r.Reevaluate(context.Background(), firewall.Everything); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
		}
	})
	all.Wait()
	p.set(says(verdict.Block))
	if _, err := r.Reevaluate(context.Background(), firewall.Everything); err != nil {
		t.Error(err)
	}
	time.Sleep(30 * time.Second)
	synctest.Wait()
	settled := 0
	r.store.Range(func(c *conn.Conn) bool {
		settled++
		s := c.State()
		if s.Decision.Reason.Code == firewall.CodeOlder {
			return true
		}
		r.wantPolicy(s.Tuple, verdict.ActionPermanentBlock)
		return true
	})
	for _, i := range tuples {
		if a, _, ok := r.src.Remembered(i.Tuple); ok && a != verdict.ActionPermanentBlock {
			t.Errorf("%v: the kernel has %v; want PermanentBlock or nothing", i.Tuple, a)
		}
	}
	if s := r.Stats(); s.Waiting != 0 || s.ApplyErrors != 0 {
		t.Errorf("got %+v; want nothing waiting, no errors", s)
	}
	t.Logf("%d connections at the end, %+v", settled, r.Stats())
}

var _ intercept.Handler = (*firewall.Firewall)(nil)
var _ intercept.Traffic = (*firewall.Firewall)(nil)
