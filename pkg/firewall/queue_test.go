package firewall_test

import (
	"context"
	"sync"
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

// gate holds up whoever passes until it is opened.
type gate struct {
	ch   chan struct{}
	open func()
}

func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{ch: make(chan struct{})}
	g.open = sync.OnceFunc(func() { close(g.ch) })
	t.Cleanup(g.open)
	return g
}

// held is a ProcessFinder that waits for the gate.
func (g *gate) held() finder {
	return func(*packet.Info, packet.Direction) (*conn.Process, error) {
		<-g.ch
		return &conn.Process{PID: 1}, nil
	}
}

// The packets of an undecided connection wait, in order and in number bounded;
// those over it are dropped, and the others get the connection's verdict.
func TestQueueBounds(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(c *firewall.Config)
		over verdict.Action
	}{
		{"enforce", func(*firewall.Config) {}, verdict.ActionDrop},
		{"observe", func(c *firewall.Config) { c.Mode = firewall.Observe }, verdict.ActionAccept},
		{
			"observe, but functions may change its way",
			func(c *firewall.Config) { c.Mode, c.Tunneler = firewall.Observe, &ways{} }, verdict.ActionDrop,
		},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			g := newGate(t)
			r := start(t, func(c *firewall.Config) {
				c.Processes, c.QueueLength, c.Permanent = g.held(), 3, firewall.NeverPermanent
				tt.edit(c)
			})
			i := out(packet.UDP, 1, faraway)
			var all []*intercepttest.Result
			for range 5 {
				all = append(all, r.send(i))
			}
			synctest.Wait()
			for n, res := range all[3:] {
				if got := r.result(res); got.Action != tt.over {
					t.Errorf("packet %d: got %v; want %v", n+3, got, tt.over)
				}
			}
			if n := r.Stats().QueueFull; n != 2 {
				t.Errorf("got %d over the bound; want 2", n)
			}
			g.open()
			for n, res := range all[:3] {
				if got := r.result(res); got.Action != verdict.ActionAccept || got.By != intercepttest.ByHandler {
					t.Errorf("packet %d: got %v; want Accept by handler", n, got)
				}
			}
			synctest.Wait()
			r.wantBy(i, verdict.ActionAccept, intercepttest.ByLookup)
			if n := r.store.Get(i.Tuple).Snapshot().Packets; n != 4 {
				t.Errorf("got %d packets counted; want 4", n)
			}
		})
	}
}

// recorded is a packet that notes its verdict.
type recorded struct {
	packet.Once
	info   packet.Info
	issued func(p *recorded, action verdict.Action)
}

func newRecorded(i packet.Info, issued func(p *recorded, action verdict.Action)) *recorded {
	p := &recorded{info: i, issued: issued}
	p.info.Seen = time.Now()
	p.Init(p, 1)
	return p
}

func (p *recorded) Issue(_ uint64, action verdict.Action, _ uint8) error {
	p.issued(p, action)
	return nil
}

func (p *recorded) Info() *packet.Info       { return &p.info }
func (p *recorded) Payload() ([]byte, error) { return nil, packet.ErrNoPayload }
func (*recorded) FastTrackedByDriver() bool  { return false }
func (*recorded) ExpectsInfo() bool          { return false }

func TestOrderIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		r := start(t, func(c *firewall.Config) { c.Processes = g.held() })
		var order []uint8
		for n := range uint8(10) {
			i := out(packet.UDP, 1, faraway)
			i.HopLimit = n
			r.Handle(newRecorded(i, func(p *recorded, _ verdict.Action) { order = append(order, p.info.HopLimit) }))
		}
		g.open()
		synctest.Wait()
		for n, got := range order {
			if int(got) != n || len(order) != 10 {
				t.Fatalf("got %v; want 0 to 9", order)
			}
		}
	})
}

// More new connections than can be judged are not judged, and say so.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const room, over = 8192, 5
		g := newGate(t)
		r := start(t, func(c *firewall.Config) { c.Processes, c.Workers = g.held(), 1 })
		got := make(map[verdict.Action]int)
		var mu sync.Mutex
		for n := range room + 1 + over {
			r.Handle(newRecorded(out(packet.UDP, uint16(n+1), faraway), func(_ *recorded, a verdict.Action) {
				mu.Lock()
				defer mu.Unlock()
				got[a]++
			}))
			if n == 0 {
				synctest.Wait() // the worker has the first
			}
		}
		if n := r.Stats().Overload; n != over {
			t.Errorf("got %d not judged; want %d", n, over)
		}
		r.wantConditions("overload")
		g.open()
		synctest.Wait()
		if got[verdict.ActionDrop] != over || got[verdict.ActionPermanentAccept] != room+1 {
			t.Errorf("got %v; want %d dropped, %d accepted", got, over, room+1)
		}
		// what was not judged is judged when it is tried again
		r.want(out(packet.UDP, room+2, faraway), verdict.ActionPermanentAccept)
		time.Sleep(time.Minute)
		synctest.Wait()
		r.wantConditions("overload", "-overload")
	})
}

// Only so many connections wait at once. More are given up, which decides
// nothing about them: what they send later is judged.
func TestTooManyWait(t *testing.T) {
	for _, mode := range []firewall.Mode{firewall.Enforce, firewall.Observe} {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(t)
			r := start(t, func(c *firewall.Config) {
				c.Mode, c.MaxWaiting, c.HandlerDeadline = mode, 2, time.Hour
				c.External = slotOf(t, func(context.Context, *conn.Snapshot) extverdict.Result {
					<-g.ch
					return extverdict.Result{Verdict: verdict.Accept}
				})
			})
			waiting := []*intercepttest.Result{r.send(out(packet.UDP, 1, faraway)), r.send(out(packet.UDP, 2, faraway))}
			synctest.Wait()
			over, want := out(packet.UDP, 3, faraway), verdict.ActionDrop
			if mode == firewall.Observe {
				want = verdict.ActionAccept
			}
			for range 3 {
				r.want(over, want)
				if !r.gone(over.Tuple) {
					t.Fatalf("got %+v; want no record", r.state(over.Tuple).Decision)
				}
			}
			if s := r.Stats(); s.Waiting != 2 || s.Overload != 3 {
				t.Errorf("got %+v; want 2 waiting, 3 over", s)
			}
			r.wantConditions("overload")
			g.open()
			for _, res := range waiting {
				r.result(res)
			}
			synctest.Wait()
			if n := r.Stats().Waiting; n != 0 {
				t.Errorf("got %d waiting; want 0", n)
			}
			r.fate(over)
			synctest.Wait()
			if d := r.state(over.Tuple).Decision; d.Verdict != verdict.Accept || d.Reason.Code != firewall.CodeHandler {
				t.Errorf("got %+v; want the handler's Accept", d)
			}
		})
	}
}

// A scan of this host under "ask" takes no room from its own programs, neither
// from their questions nor from handler calls.
func TestTooManyQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		r := start(t, func(c *firewall.Config) {
			c.MaxWaiting, c.MaxAsking = 2, 3
			c.External = slotOf(t, answering(extverdict.Result{}))
			c.Deciders = []firewall.Decider{decider(func(*conn.Snapshot) firewall.Outcome {
				return firewall.Outcome{Decided: true, Wait: func(context.Context) (verdict.Decision, error) {
					<-g.ch
					return says(verdict.Accept).Decision, nil
				}}
			})}
		})
		var asked []*intercepttest.Result
		for port := range uint16(3) {
			asked = append(asked, r.send(in(packet.TCP, port+1, faraway)))
			synctest.Wait()
		}
		r.want(in(packet.TCP, 4, faraway), verdict.ActionDrop)
		if !r.gone(in(packet.TCP, 4, faraway).Tuple) {
			t.Error("a question too many decided about its connection")
		}
		r.wantConditions("overload")
		own := r.send(out(packet.TCP, 100, faraway))
		synctest.Wait()
		if s := r.Stats(); s.Waiting != 4 || s.Overload != 1 {
			t.Errorf("got %d waiting, %d over; want 4, 1", s.Waiting, s.Overload)
		}
		g.open()
		for _, res := range append(asked, own) {
			if got := r.result(res); got.Action != verdict.ActionPermanentAccept {
				t.Errorf("got %v; want PermanentAccept", got)
			}
		}
		synctest.Wait()
		if n := r.Stats().Waiting; n != 0 {
			t.Errorf("got %d waiting; want 0", n)
		}
	})
}

// What is given up before it was judged leaves no record, though one was begun.
func TestOverloadLeavesNoRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const room = 8192
		g := newGate(t)
		q := &quick{knows: func(packet.Tuple) bool { return false }}
		r := start(t, func(c *firewall.Config) {
			c.Processes, c.Workers = heldQuick{q, g}, 1
		})
		for n := range room + 1 {
			r.Handle(newRecorded(out(packet.TCP, uint16(n+1), faraway), func(*recorded, verdict.Action) {}))
			if n == 0 {
				synctest.Wait() // the worker has the first
			}
		}
		synctest.Wait()
		time.Sleep(time.Second) // time to judge on the spot again
		before := q.glanced.Load()
		over := out(packet.TCP, room+2, faraway)
		r.want(over, verdict.ActionDrop)
		if q.glanced.Load() == before {
			t.Error("not judged on the spot: this tests nothing")
		}
		if !r.gone(over.Tuple) {
			t.Errorf("got %+v; want no record", r.state(over.Tuple))
		}
		g.open()
		synctest.Wait()
		r.want(over, verdict.ActionPermanentAccept)
	})
}

// heldQuick searches as long as the gate is closed.
type heldQuick struct {
	*quick
	g *gate
}

func (h heldQuick) Find(ctx context.Context, i *packet.Info, d packet.Direction) (*conn.Process, error) {
	<-h.g.ch
	return h.quick.Find(ctx, i, d)
}

// A record that nobody decides about ends; one that somebody does goes on.
func TestOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		r := start(t, func(c *firewall.Config) { c.Processes = g.held() })
		orphan, waits := out(packet.TCP, 1, faraway).Tuple, out(packet.TCP, 2, faraway)
		r.store.GetOrAdd(orphan, func() *conn.Snapshot { return &conn.Snapshot{Started: time.Now()} })
		res := r.send(waits)
		time.Sleep(time.Minute)
		if r.gone(orphan) {
			t.Error("ended at once")
		}
		time.Sleep(10 * time.Minute)
		if !r.gone(orphan) || r.gone(waits.Tuple) {
			t.Errorf("ended: %t, %t; want true, false", r.gone(orphan), r.gone(waits.Tuple))
		}
		g.open()
		r.result(res)
	})
}

// When the firewall stops, every packet that waits gets a verdict, and nothing
// that could not be found out any more decides about a connection.
func TestStopWhileUndecided(t *testing.T) {
	asks := func(t *testing.T, c *firewall.Config) {
		t.Helper()
		c.Deciders = []firewall.Decider{&firewall.RuleDecider{Rules: askingRules(t), Asker: &asker{after: time.Hour}}}
	}
	for _, tt := range []struct {
		name string
		edit func(t *testing.T, c *firewall.Config)
		want verdict.Action
	}{
		{"a person is asked", asks, verdict.ActionDrop},
		{"a person is asked, observed", func(t *testing.T, c *firewall.Config) {
			t.Helper()
			asks(t, c)
			c.Mode = firewall.Observe
		}, verdict.ActionAccept},
		{"a handler thinks", func(t *testing.T, c *firewall.Config) {
			t.Helper()
			c.HandlerDeadline = time.Hour
			c.External = slotOf(t, func(ctx context.Context, _ *conn.Snapshot) extverdict.Result {
				<-ctx.Done()
				return extverdict.Result{Verdict: verdict.Accept}
			})
		}, verdict.ActionDrop},
		{"a process is looked up", func(_ *testing.T, c *firewall.Config) { c.Processes = untilDone{} }, verdict.ActionDrop},
		{"a name is waited for", func(_ *testing.T, c *firewall.Config) {
			c.NameWait, c.Names = time.Hour, names{time.Hour, time.Now()}
			c.Deciders = []firewall.Decider{decider(func(*conn.Snapshot) firewall.Outcome {
				return firewall.Outcome{Decided: true, NeedsName: true, Decision: says(verdict.Accept).Decision}
			})}
		}, verdict.ActionDrop},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			r := start(t, func(c *firewall.Config) {
				c.Workers = 1
				tt.edit(t, c)
			})
			var all []*intercepttest.Result
			for n := range 20 {
				all = append(all, r.send(out(packet.TCP, uint16(n/2+1), faraway)))
			}
			synctest.Wait()
			r.stop()
			for n, res := range all {
				if got := r.result(res); got.Action != tt.want || got.By != intercepttest.ByHandler {
					t.Errorf("packet %d: got %v; want %v by handler", n, got, tt.want)
				}
			}
			if n := r.store.Len(); n != 0 {
				t.Errorf("got %d connections; want none", n)
			}
			r.wantConditions()
			if n := r.Stats().HandlerLate; n != 0 {
				t.Errorf("got %d late; want 0", n)
			}
		})
	}
}

// untilDone is a ProcessFinder that is as slow as it may be.
type untilDone struct{}

func (untilDone) Find(ctx context.Context, _ *packet.Info, _ packet.Direction) (*conn.Process, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// What is handed over while nobody evaluates waits, and a firewall runs again.
func TestRunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		r.want(out(packet.UDP, 1, faraway), verdict.ActionPermanentAccept)
		r.stop()
		res := r.send(out(packet.UDP, 2, faraway))
		synctest.Wait()
		running(t, r.Run)
		if got := r.result(res); got.Action != verdict.ActionPermanentAccept {
			t.Errorf("got %v; want PermanentAccept", got)
		}
	})
}

// A verdict that comes too late for its packet is counted, and holds for the
// connection.
func TestLateVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		r := startOn(t, newSource(intercepttest.Config{Timeout: time.Second}), func(c *firewall.Config) { c.Processes = g.held() })
		i := out(packet.UDP, 1, faraway)
		if got := r.fate(i); got.By != intercepttest.ByTimeout {
			t.Errorf("got %v; want the source's default", got)
		}
		g.open()
		synctest.Wait()
		if n := r.Stats().ApplyErrors; n != 1 {
			t.Errorf("got %d errors; want 1", n)
		}
		r.wantBy(i, verdict.ActionPermanentAccept, intercepttest.ByLookup)
	})
}

// A packet of a refused connection is never accepted, whichever way it comes.
func TestVerdictIsNotWeakened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startOn(t, newSource(intercepttest.Config{Memory: intercepttest.Forgets}), nil)
		i := in(packet.TCP, 22, faraway)
		r.want(i, verdict.ActionPermanentDrop)
		for _, later := range []packet.Info{flags(i, packet.TCPAck), flags(back(i), packet.TCPAck), flags(back(i), packet.TCPSyn|packet.TCPAck)} {
			r.want(later, verdict.ActionPermanentDrop)
		}
		u := in(packet.UDP, 53, faraway)
		r.want(u, verdict.ActionPermanentDrop)
		r.want(u, verdict.ActionPermanentDrop)
	})
}

// A packet that was looked up before its connection was decided, and is handed
// over after, gets that decision: nobody judges again.
func TestDecidedBetweenLookupAndHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolicy(verdict.Block)
		r := start(t, func(c *firewall.Config) { c.Deciders = []firewall.Decider{p} })
		i := out(packet.UDP, 1, faraway)
		r.want(i, verdict.ActionPermanentBlock)
		p.set(says(verdict.Accept))
		var got []verdict.Action
		r.Handle(newRecorded(i, func(_ *recorded, a verdict.Action) { got = append(got, a) }))
		if len(got) != 1 || got[0] != verdict.ActionPermanentBlock || p.asked() != 1 {
			t.Errorf("got %v, asked %d times; want PermanentBlock at once, 1", got, p.asked())
		}
		if n := r.store.Get(i.Tuple).Snapshot().Packets; n != 2 {
			t.Errorf("got %d packets; want 2", n)
		}
	})
}
