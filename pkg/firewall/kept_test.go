package firewall_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

// moody is a handler that answers while it is well.
type moody struct {
	says extverdict.Result
	ill  atomic.Bool
	mu   sync.Mutex // guards gone
	gone chan struct{}
}

func (m *moody) handle(context.Context, *conn.Snapshot) extverdict.Result {
	if !m.ill.Load() {
		return m.says
	}
	m.mu.Lock()
	gone := m.gone
	m.mu.Unlock()
	if gone != nil {
		<-gone // beyond its deadline
	} else {
		time.Sleep(time.Second)
	}
	return extverdict.Result{}
}

// A handler that does not answer takes back nothing of what it said, in time or
// because too many calls of it hang; what others decided is decided again.
func TestSilentHandlerKeepsItsWord(t *testing.T) {
	for _, tt := range []struct {
		name    string
		handler extverdict.Result
		split   *conn.SplitTunContext // after the handler spoke
		decider verdict.Verdict       // likewise; Accept before
		want    verdict.Action
		cuts    int
	}{
		{"its block", extverdict.Result{Verdict: verdict.Block}, nil, verdict.Accept, verdict.ActionPermanentBlock, 0},
		{"its accept", extverdict.Result{Verdict: verdict.Accept}, nil, verdict.Block, verdict.ActionPermanentAccept, 0},
		{"its accept, by another way", extverdict.Result{Verdict: verdict.Accept}, eth1, verdict.Block, verdict.ActionRerouteToSplitTun, 1},
		{"its accept by no other way", extverdict.Result{Verdict: verdict.Accept, SkipTunnel: true}, eth1, verdict.Block, verdict.ActionPermanentAccept, 0},
		{"nothing", extverdict.Result{}, nil, verdict.Block, verdict.ActionPermanentBlock, 1},
		{"nothing, and nothing changed", extverdict.Result{}, nil, verdict.Accept, verdict.ActionPermanentAccept, 0},
	} {
		for _, hangs := range []bool{false, true} {
			name := tt.name + ", late"
			if hangs {
				name = tt.name + ", hangs"
			}
			bubble(t, name, func(t *testing.T) {
				w, p, m := &ways{}, newPolicy(verdict.Accept), &moody{says: tt.handler}
				r := start(t, func(c *firewall.Config) {
					w.use(c)
					c.Deciders, c.External = []firewall.Decider{p}, slotOf(t, m.handle)
				})
				i := out(packet.TCP, 1, faraway)
				r.fate(i)
				synctest.Wait()
				if hangs {
					m.mu.Lock()
					m.gone = make(chan struct{})
					m.mu.Unlock()
					defer close(m.gone)
				}
				m.ill.Store(true)
				if hangs {
					for port := range uint16(1024) {
						r.send(out(packet.TCP, port+2, faraway))
					}
					time.Sleep(time.Second)
				}
				w.set(nil, tt.split, nil)
				p.set(says(tt.decider))
				if _, err := r.Reevaluate(t.Context(), ofTuple(i.Tuple)); err != nil {
					t.Fatal(err)
				}
				if a, _, _ := r.store.Get(i.Tuple).Action(); a != tt.want {
					t.Errorf("got %v for %+v; want %v", a, r.state(i.Tuple).Decision, tt.want)
				}
				r.wantCalls(intercepttest.OpCut, tt.cuts)
				time.Sleep(2 * time.Second)
			})
		}
	}
}

func ofTuple(t packet.Tuple) firewall.Selection {
	return func(s *conn.Snapshot) bool { return s.Tuple == t }
}

// A person's answer stays as long as the connection, and what it allowed takes
// the way that is the right one now.
func TestAnswersTakeTheirWay(t *testing.T) {
	type step struct {
		tunnel *conn.TunnelContext
		split  *conn.SplitTunContext
		err    error
		want   verdict.Action
		code   verdict.Code
	}
	direct := step{want: verdict.ActionPermanentAccept, code: "person"}
	viaEth1 := step{split: eth1, want: verdict.ActionRerouteToSplitTun, code: firewall.CodeSplitTun}
	viaEth2 := step{split: eth2, want: verdict.ActionRerouteToSplitTun, code: firewall.CodeSplitTun}
	viaTunnel := step{tunnel: spn, want: verdict.ActionRerouteToTunnel, code: firewall.CodeTunnel}
	failed := step{err: errors.New("no such interface"), split: eth1, want: verdict.ActionDrop, code: firewall.CodeTunnelFailed}
	blocked := step{split: eth1, want: verdict.ActionPermanentBlock, code: "person"}
	for _, tt := range []struct {
		name   string
		answer verdict.Verdict
		steps  []step
	}{
		{"tunnel comes and goes", verdict.Accept, []step{direct, viaTunnel, viaTunnel, direct}},
		{"split comes and goes", verdict.Accept, []step{direct, viaEth1, viaEth1, direct, viaEth2}},
		{"interface changes", verdict.Accept, []step{viaEth1, viaEth2, viaTunnel, viaEth1}},
		{"interface goes and comes", verdict.Accept, []step{viaEth1, failed, viaEth1, failed, direct}},
		{"refused", verdict.Block, []step{blocked, blocked}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			w, ask := &ways{}, &asker{answer: tt.answer}
			r := start(t, func(c *firewall.Config) {
				w.use(c)
				c.Deciders = []firewall.Decider{&firewall.RuleDecider{Rules: askingRules(t), Asker: ask}}
			})
			i := out(packet.TCP, 1, faraway)
			for n, s := range tt.steps {
				if s.err != nil {
					w.set(nil, s.split, s.err)
				} else {
					w.set(s.tunnel, s.split, nil)
				}
				if n == 0 {
					r.fate(i)
					synctest.Wait()
				} else {
					changed := 1
					if a, _, _ := r.store.Get(i.Tuple).Action(); a == s.want && sameWay(r.state(i.Tuple), s.split) {
						changed = 0
					}
					r.reevaluate(firewall.Everything, changed)
				}
				a, _, _ := r.store.Get(i.Tuple).Action()
				if d := r.state(i.Tuple).Decision; a != s.want || d.Reason.Code != s.code {
					t.Fatalf("step %d: got %v for %+v; want %v for %q", n, a, d, s.want, s.code)
				}
			}
			if n := ask.asked.Load(); n != 1 {
				t.Errorf("a person was asked %d times; want 1", n)
			}
		})
	}
}

func sameWay(s *conn.Snapshot, split *conn.SplitTunContext) bool {
	return s.SplitTun == nil || split != nil && *s.SplitTun == *split
}

// Observed, a refused connection takes its way too, and the answer stays.
func TestObservedAnswersTakeTheirWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &ways{}
		r := start(t, func(c *firewall.Config) {
			w.use(c)
			c.Mode = firewall.Observe
			c.Deciders = []firewall.Decider{&firewall.RuleDecider{Rules: askingRules(t), Asker: &asker{answer: verdict.Block}}}
		})
		i := out(packet.TCP, 1, faraway)
		r.wantWhy(i, verdict.ActionAccept, verdict.Block, "person")
		for _, split := range []*conn.SplitTunContext{eth1, nil} {
			w.set(nil, split, nil)
			r.reevaluate(firewall.Everything, 1)
			if s := r.state(i.Tuple); s.Verdict() != verdict.Block || s.Enforced || (s.SplitTun != nil) != (split != nil) {
				t.Errorf("got %v, enforced %t, by %+v; want the block observed, by %+v", s.Decision, s.Enforced, s.SplitTun, split)
			}
		}
	})
}

// A rule that begins to ask leaves what it allowed before, on its way of now.
func TestRuleBeginsToAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := &ways{split: eth1}, newPolicy(verdict.Accept)
		r := start(t, func(c *firewall.Config) {
			w.use(c)
			c.Deciders = []firewall.Decider{p}
		})
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionRerouteToSplitTun)
		p.set(firewall.Outcome{Decided: true, Wait: func(context.Context) (verdict.Decision, error) {
			return verdict.Decision{}, errors.New("asked in re-evaluation")
		}})
		r.reevaluate(firewall.Everything, 0)
		w.set(nil, nil, nil)
		r.reevaluate(firewall.Everything, 1)
		if d := r.state(i.Tuple).Decision; d.Verdict != verdict.Accept || d.Reason.Code != "test" {
			t.Errorf("got %+v; want what the rule said", d)
		}
	})
}

// What failed for a reason that passes is judged again, though its packets keep
// coming.
func TestFailedForATime(t *testing.T) {
	for _, mode := range []firewall.Mode{firewall.Enforce, firewall.Observe} {
		for _, tt := range []struct {
			name string
			edit func(t *testing.T, c *firewall.Config, broken *atomic.Bool)
			code verdict.Code
		}{
			{"handler panics", func(t *testing.T, c *firewall.Config, broken *atomic.Bool) {
				t.Helper()
				c.External = slotOf(t, func(context.Context, *conn.Snapshot) extverdict.Result {
					if broken.Load() {
						panic("broken")
					}
					return extverdict.Result{Verdict: verdict.Accept}
				})
			}, firewall.CodeHandlerPanic},
			{"nobody can be asked", func(_ *testing.T, c *firewall.Config, broken *atomic.Bool) {
				c.Deciders = []firewall.Decider{decider(func(*conn.Snapshot) firewall.Outcome {
					return firewall.Outcome{Decided: true, Wait: func(context.Context) (verdict.Decision, error) {
						if broken.Load() {
							return verdict.Decision{}, errors.New("no screen")
						}
						return says(verdict.Accept).Decision, nil
					}}
				})}
			}, firewall.CodeWaitFailed},
		} {
			bubble(t, tt.name, func(t *testing.T) {
				var broken atomic.Bool
				broken.Store(true)
				r := start(t, func(c *firewall.Config) {
					c.Mode = mode
					tt.edit(t, c, &broken)
				})
				want := verdict.ActionDrop
				if mode == firewall.Observe {
					want = verdict.ActionAccept
				}
				i := out(packet.UDP, 1, faraway)
				r.wantWhy(i, want, verdict.Failed, tt.code)
				first := r.state(i.Tuple).ID
				for range 4 {
					time.Sleep(time.Second)
					r.want(i, want)
				}
				if id := r.state(i.Tuple).ID; id != first {
					t.Error("judged again too early")
				}
				time.Sleep(2 * time.Second)
				r.wantWhy(i, want, verdict.Failed, tt.code) // still
				if id := r.state(i.Tuple).ID; id == first {
					t.Error("not judged again")
				}
				broken.Store(false)
				time.Sleep(6 * time.Second)
				r.fate(i)
				synctest.Wait()
				if v := r.state(i.Tuple).Verdict(); v != verdict.Accept {
					t.Errorf("got %v; want Accept", v)
				}
			})
		}
	}
}

// What a decider failed stays so: it said so.
func TestFailedByDecider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolicy(verdict.Failed)
		r := start(t, func(c *firewall.Config) { c.Deciders = []firewall.Decider{p} })
		i := out(packet.UDP, 1, faraway)
		for range 10 {
			r.want(i, verdict.ActionDrop)
			time.Sleep(10 * time.Second)
		}
		if n := p.asked(); n != 1 {
			t.Errorf("asked %d times; want 1", n)
		}
	})
}

// The denial of a question that nobody answered is no failure.
func TestAskTimeoutStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ask := &asker{after: time.Hour}
		r := start(t, func(c *firewall.Config) {
			c.Deciders = []firewall.Decider{&firewall.RuleDecider{Rules: askingRules(t), Asker: ask, Timeout: 10 * time.Second}}
		})
		i := out(packet.UDP, 1, faraway)
		r.wantWhy(i, verdict.ActionPermanentBlock, verdict.Block, rules.CodeAskTimeout)
		time.Sleep(20 * time.Second)
		r.want(i, verdict.ActionPermanentBlock)
		if n := ask.asked.Load(); n != 1 {
			t.Errorf("asked %d times; want 1", n)
		}
	})
}
