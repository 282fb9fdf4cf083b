package firewall_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

func slotOf(t *testing.T, h extverdict.Handler) *extverdict.Slot {
	t.Helper()
	var s extverdict.Slot
	if err := s.Set("test", h); err != nil {
		t.Fatal(err)
	}
	return &s
}

func answering(res extverdict.Result) extverdict.Handler {
	return func(context.Context, *conn.Snapshot) extverdict.Result { return res }
}

func TestDefaults(t *testing.T) {
	for _, tt := range []struct {
		name string
		i    packet.Info
		want verdict.Action
	}{
		{"out", out(packet.TCP, 1, faraway), verdict.ActionPermanentAccept},
		{"in", in(packet.TCP, 1, faraway), verdict.ActionPermanentDrop},
		{"in from this host", between(in(packet.TCP, 0, faraway), "127.0.0.1:5", "127.0.0.1:6"), verdict.ActionPermanentAccept},
		{"in from this host's own address", between(in(packet.TCP, 0, faraway), "192.168.1.2:5", "192.168.1.2:6"), verdict.ActionPermanentAccept},
		{"in6", in(packet.UDP, 1, "[2001:db8:1::1]:5"), verdict.ActionPermanentDrop},
		{"ping in", ping(packet.Inbound, "198.51.100.7"), verdict.ActionPermanentDrop},
		{"ping out", ping(packet.Outbound, "198.51.100.7"), verdict.ActionPermanentAccept},
	} {
		bubble(t, tt.name, func(t *testing.T) { start(t, nil).wantWhy(tt.i, tt.want, tt.want.Verdict(), firewall.CodeDefault) })
	}
}

func TestConfig(t *testing.T) {
	for name, edit := range map[string]func(c *firewall.Config){
		"no store":         func(c *firewall.Config) { c.Store = nil },
		"default outbound": func(c *firewall.Config) { c.DefaultOutbound = verdict.RerouteToTunnel },
		"default inbound":  func(c *firewall.Config) { c.DefaultInbound = verdict.Failed },
		"default local":    func(c *firewall.Config) { c.DefaultLocal = 99 },
		"queue":            func(c *firewall.Config) { c.QueueLength = -1 },
		"workers":          func(c *firewall.Config) { c.Workers = -1 },
		"waiting":          func(c *firewall.Config) { c.MaxWaiting = -1 },
		"deadline":         func(c *firewall.Config) { c.HandlerDeadline = -1 },
		"name wait":        func(c *firewall.Config) { c.NameWait = -1 },
	} {
		c := firewall.Config{Store: newStore()}
		edit(&c)
		if _, err := firewall.New(c); !errors.Is(err, firewall.ErrConfig) {
			t.Errorf("%s: got %v; want ErrConfig", name, err)
		}
	}
}

func TestHandler(t *testing.T) {
	for _, tt := range []struct {
		name       string
		handler    extverdict.Handler
		want       verdict.Action
		code       verdict.Code
		after      time.Duration
		conditions []string
	}{
		{"accept", answering(extverdict.Result{Verdict: verdict.Accept, Reason: "nice"}), verdict.ActionPermanentAccept, firewall.CodeHandler, 0, nil},
		{"block", answering(extverdict.Result{Verdict: verdict.Block}), verdict.ActionPermanentBlock, firewall.CodeHandler, 0, nil},
		{"undecided", answering(extverdict.Result{}), verdict.ActionPermanentDrop, "test", 0, nil},
		{"drop is not its", answering(extverdict.Result{Verdict: verdict.Accept + 2}), verdict.ActionPermanentDrop, "test", 0, []string{"handler-verdict"}},
		{"reroute is not its", answering(extverdict.Result{Verdict: verdict.RerouteToTunnel}), verdict.ActionPermanentDrop, "test", 0, []string{"handler-verdict"}},
		{"no verdict", answering(extverdict.Result{Verdict: 77}), verdict.ActionPermanentDrop, "test", 0, []string{"handler-verdict"}},
		{
			"panic", func(context.Context, *conn.Snapshot) extverdict.Result { panic("ouch") },
			verdict.ActionDrop, firewall.CodeHandlerPanic, 0, []string{"handler-panic"},
		},
		{
			"just in time", func(context.Context, *conn.Snapshot) extverdict.Result {
				time.Sleep(249 * time.Millisecond)
				return extverdict.Result{Verdict: verdict.Accept}
			}, verdict.ActionPermanentAccept, firewall.CodeHandler, 249 * time.Millisecond, nil,
		},
		{
			"late", func(context.Context, *conn.Snapshot) extverdict.Result {
				time.Sleep(time.Minute)
				return extverdict.Result{Verdict: verdict.Accept}
			}, verdict.ActionPermanentDrop, "test", 250 * time.Millisecond, []string{"handler-slow"},
		},
		{
			"late panic", func(context.Context, *conn.Snapshot) extverdict.Result {
				time.Sleep(time.Second)
				panic("ouch")
			}, verdict.ActionPermanentDrop, "test", 250 * time.Millisecond, []string{"handler-slow", "handler-panic"},
		},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			r := start(t, func(c *firewall.Config) { c.External, c.Deciders = slotOf(t, tt.handler), always(verdict.Drop) })
			began := time.Now()
			i := out(packet.TCP, 1, faraway)
			r.want(i, tt.want)
			if took := time.Since(began); took != tt.after {
				t.Errorf("took %v; want %v", took, tt.after)
			}
			if d := r.state(i.Tuple).Decision; d.Reason.Code != tt.code || tt.code == firewall.CodeHandler && d.Reason.By != "test" {
				t.Errorf("got %+v; want %v", d, tt.code)
			}
			time.Sleep(2 * time.Second)
			r.wantConditions(tt.conditions...)
			if n, want := r.Stats().HandlerLate, uint64(strings.Count(strings.Join(tt.conditions, " "), "slow")); n != want {
				t.Errorf("got %d late; want %d", n, want)
			}
			time.Sleep(time.Minute) // no handler runs when the test ends
		})
	}
}

// About what is no connection only the handler is asked, by its deadline, and nothing is changed.
func TestAskHandler(t *testing.T) {
	about := &conn.Snapshot{Direction: packet.Outbound, Domain: "example.test", Internal: true}
	for name, tt := range map[string]struct {
		handler extverdict.Handler
		want    verdict.Verdict
		code    verdict.Code
	}{
		"none":       {},
		"no opinion": {handler: answering(extverdict.Result{})},
		"block":      {answering(extverdict.Result{Verdict: verdict.Block, Reason: "no"}), verdict.Block, firewall.CodeHandler},
		"panic":      {func(context.Context, *conn.Snapshot) extverdict.Result { panic("ouch") }, verdict.Failed, firewall.CodeHandlerPanic},
		"slow": {handler: func(ctx context.Context, _ *conn.Snapshot) extverdict.Result {
			<-ctx.Done()
			return extverdict.Result{Verdict: verdict.Block}
		}},
	} {
		bubble(t, name, func(t *testing.T) {
			r := start(t, func(c *firewall.Config) {
				if c.Deciders = always(verdict.Drop); tt.handler != nil {
					c.External = slotOf(t, tt.handler)
				}
			})
			if r.HasHandler() != (tt.handler != nil) {
				t.Errorf("got %v", r.HasHandler())
			}
			began := time.Now()
			d, ok := r.AskHandler(t.Context(), about)
			if d.Verdict != tt.want || d.Reason.Code != tt.code || ok != (tt.want != verdict.Undecided) {
				t.Errorf("got %+v, %v; want %v", d, ok, tt.want)
			}
			if took := time.Since(began); took > firewall.DefaultHandlerDeadline {
				t.Errorf("took %v", took)
			}
		})
	}
}

// Another connection does not wait for a handler that is slow about one.
func TestSlowHandlerHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(c *firewall.Config) {
			c.Workers = 1
			c.External = slotOf(t, func(_ context.Context, s *conn.Snapshot) extverdict.Result {
				if s.Tuple.Local.Port() == 1 {
					time.Sleep(200 * time.Millisecond)
				}
				return extverdict.Result{Verdict: verdict.Accept}
			})
		})
		slow := r.send(out(packet.TCP, 1, faraway))
		synctest.Wait()
		began := time.Now()
		r.want(out(packet.TCP, 2, faraway), verdict.ActionPermanentAccept)
		if took := time.Since(began); took != 0 {
			t.Errorf("took %v; want no time", took)
		}
		r.result(slow)
	})
}

// Handlers that never return are bounded; then connections are decided without.
func TestHandlerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var calls atomic.Int64
		r := start(t, func(c *firewall.Config) {
			c.External = slotOf(t, func(context.Context, *conn.Snapshot) extverdict.Result {
				calls.Add(1)
				<-release
				return extverdict.Result{}
			})
		})
		const connections, most = 1500, 1024
		for n := range connections {
			r.send(out(packet.UDP, uint16(n+1), faraway))
			if n%500 == 0 {
				synctest.Wait()
			}
		}
		time.Sleep(time.Second)
		if n := calls.Load(); n != most {
			t.Errorf("got %d calls under way; want %d", n, most)
		}
		if n := r.Stats().Verdicts[verdict.Accept]; n != connections {
			t.Errorf("got %d accepted; want %d", n, connections)
		}
		r.wantConditions("handler-slow")
		close(release)
	})
}

func TestDecidersInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		named := func(name string, o firewall.Outcome) firewall.Decider {
			return decider(func(*conn.Snapshot) firewall.Outcome {
				order = append(order, name)
				return o
			})
		}
		r := start(t, func(c *firewall.Config) {
			c.Deciders = []firewall.Decider{
				named("none", firewall.Outcome{}), named("first", says(verdict.Block)), named("second", says(verdict.Accept)),
			}
		})
		r.wantWhy(out(packet.TCP, 1, faraway), verdict.ActionPermanentBlock, verdict.Block, "test")
		if got := strings.Join(order, " "); got != "none first" {
			t.Errorf("asked %q; want %q", got, "none first")
		}
	})
}

// What a decider answers can be nonsense: it fails, and does not stay undecided.
func TestDeciderMayNot(t *testing.T) {
	for _, v := range append(verdict.All(), 9, 255) {
		bubble(t, v.String(), func(t *testing.T) {
			r := start(t, func(c *firewall.Config) { c.Deciders = always(v) })
			i := out(packet.TCP, 1, faraway)
			switch v {
			case verdict.Accept, verdict.Block, verdict.Drop, verdict.RerouteToNameserver:
				r.want(i, verdict.Decision{Verdict: v, Scope: verdict.ScopePermanent}.Action())
			case verdict.Failed:
				r.wantWhy(i, verdict.ActionDrop, verdict.Failed, "test")
			default:
				r.wantWhy(i, verdict.ActionDrop, verdict.Failed, firewall.CodeBadDecision)
			}
		})
	}
}

// asker answers after a time.
type asker struct {
	after  time.Duration
	answer verdict.Verdict
	err    error
	asked  atomic.Int64
}

func (a *asker) Ask(ctx context.Context, _ *conn.Snapshot) (verdict.Decision, error) {
	a.asked.Add(1)
	select {
	case <-ctx.Done():
		return verdict.Decision{}, ctx.Err()
	case <-time.After(a.after):
		return verdict.Decision{Verdict: a.answer, Reason: verdict.Reason{Code: "person"}}, a.err
	}
}

func askingRules(t *testing.T) *rules.Live {
	t.Helper()
	set, err := rules.Compile(rules.Config{Global: []rules.Rule{{ID: "ask-all", Action: rules.Ask}}})
	if err != nil {
		t.Fatal(err)
	}
	var live rules.Live
	live.Swap(set)
	return &live
}

func TestAsk(t *testing.T) {
	for _, tt := range []struct {
		name string
		i    packet.Info
		ask  *asker
		want verdict.Action
		code verdict.Code
		took time.Duration
	}{
		{"yes", out(packet.TCP, 1, faraway), &asker{after: 5 * time.Second, answer: verdict.Accept}, verdict.ActionPermanentAccept, "person", 5 * time.Second},
		{"no", out(packet.TCP, 1, faraway), &asker{after: 5 * time.Second, answer: verdict.Drop}, verdict.ActionPermanentDrop, "person", 5 * time.Second},
		{"out, nobody", out(packet.TCP, 1, faraway), &asker{after: time.Hour}, verdict.ActionPermanentBlock, rules.CodeAskTimeout, time.Minute},
		{"in, nobody", in(packet.TCP, 1, faraway), &asker{after: time.Hour}, verdict.ActionPermanentDrop, rules.CodeAskTimeout, time.Minute},
		{"error", out(packet.TCP, 1, faraway), &asker{err: errors.New("no screen")}, verdict.ActionDrop, firewall.CodeWaitFailed, 0},
		{"no answer", out(packet.TCP, 1, faraway), &asker{}, verdict.ActionDrop, firewall.CodeBadDecision, 0},
		{"no asker out", out(packet.TCP, 1, faraway), nil, verdict.ActionPermanentBlock, rules.CodeAskTimeout, 0},
		{"no asker in", in(packet.TCP, 1, faraway), nil, verdict.ActionPermanentDrop, rules.CodeAskTimeout, 0},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			d := &firewall.RuleDecider{Rules: askingRules(t)}
			if tt.ask != nil {
				d.Asker = tt.ask
			}
			r := start(t, func(c *firewall.Config) { c.Deciders = []firewall.Decider{d} })
			began := time.Now()
			r.want(tt.i, tt.want)
			if took := time.Since(began); took != tt.took {
				t.Errorf("took %v; want %v", took, tt.took)
			}
			if d := r.state(tt.i.Tuple).Decision; d.Reason.Code != tt.code {
				t.Errorf("got %+v; want %v", d, tt.code)
			}
			if n := d.Rules.Load().Hits()["ask-all"]; n != 1 {
				t.Errorf("got %d hits; want 1", n)
			}
		})
	}
}

// A question holds up its own connection only, its packets wait in order, and
// re-evaluation and previews ask nobody.
func TestAskWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ask := &asker{after: 5 * time.Second, answer: verdict.Accept}
		r := start(t, func(c *firewall.Config) {
			c.Workers = 1
			c.Processes = isProcess(conn.Process{PID: 9, Path: "/bin/x"})
			c.Deciders = []firewall.Decider{
				decider(func(s *conn.Snapshot) firewall.Outcome {
					if s.Tuple.Local.Port() == 1 {
						return firewall.Outcome{}
					}
					return says(verdict.Block)
				}),
				&firewall.RuleDecider{Rules: askingRules(t), Asker: ask},
			}
		})
		i := out(packet.TCP, 1, faraway)
		first, second := r.send(i), r.send(i)
		synctest.Wait()
		if s := r.state(i.Tuple); s.Process == nil || s.Verdict() != verdict.Undecided {
			t.Errorf("got %+v while a person is asked; want the process, and no verdict", s)
		}
		if n := r.Stats().Waiting; n != 1 {
			t.Errorf("got %d waiting; want 1", n)
		}
		r.want(out(packet.TCP, 2, faraway), verdict.ActionPermanentBlock)
		if _, ok := r.Preview(t.Context(), r.state(i.Tuple)); ok {
			t.Error("got a preview of what a person has to decide")
		}
		for _, res := range []interface{ Done() <-chan struct{} }{first, second} {
			select {
			case <-res.Done():
				t.Error("got a verdict before the answer")
			default:
			}
		}
		for _, res := range []*resultOf{first, second} {
			if got := r.result(res); got.Action != verdict.ActionPermanentAccept {
				t.Errorf("got %v; want PermanentAccept", got)
			}
		}
		r.reevaluate(firewall.OfID(r.state(i.Tuple).ID), 0)
		if n := ask.asked.Load(); n != 1 {
			t.Errorf("asked %d times; want 1", n)
		}
	})
}

// names knows one name, after a time.
type names struct {
	after time.Duration
	since time.Time
}

func (n names) FindName(ctx context.Context, _ *conn.Snapshot, wait time.Duration) (firewall.Name, bool) {
	left := max(0, time.Until(n.since.Add(n.after)))
	if left > wait {
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		return firewall.Name{}, false
	}
	time.Sleep(left)
	return firewall.Name{Domain: "ads.example", CNAMEs: []string{"cdn.example"}}, true
}

// blocksAds needs the name.
func blocksAds(asked *atomic.Int64) firewall.Decider {
	return decider(func(s *conn.Snapshot) firewall.Outcome {
		asked.Add(1)
		o := says(verdict.Accept)
		if s.Domain == "ads.example" {
			o = says(verdict.Block)
		}
		o.NeedsName = s.Domain == "" && s.Tuple.Local.Port() != 9
		return o
	})
}

func TestNameWait(t *testing.T) {
	for _, tt := range []struct {
		name        string
		port        uint16
		known       time.Duration
		want        verdict.Action
		took        time.Duration
		asked       int64
		domain      string
		againDomain string
	}{
		{"known", 1, 0, verdict.ActionPermanentBlock, 0, 1, "ads.example", "ads.example"},
		{"comes soon", 1, 20 * time.Millisecond, verdict.ActionPermanentBlock, 20 * time.Millisecond, 3, "ads.example", "ads.example"},
		{"comes late", 1, time.Second, verdict.ActionPermanentAccept, firewall.DefaultNameWait, 2, "", "ads.example"},
		{"does not matter", 9, time.Second, verdict.ActionPermanentAccept, 0, 1, "", ""},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			var asked atomic.Int64
			second := decider(func(s *conn.Snapshot) firewall.Outcome {
				t.Errorf("got to the second decider with %q", s.Domain)
				return firewall.Outcome{}
			})
			r := start(t, func(c *firewall.Config) {
				c.Names = names{tt.known, time.Now()}
				c.Deciders = []firewall.Decider{blocksAds(&asked), second}
			})
			began := time.Now()
			i := out(packet.TCP, tt.port, faraway)
			r.want(i, tt.want)
			if took := time.Since(began); took != tt.took || asked.Load() != tt.asked {
				t.Errorf("took %v, asked %d times; want %v, %d", took, asked.Load(), tt.took, tt.asked)
			}
			if s := r.state(i.Tuple); s.Domain != tt.domain || tt.domain != "" && len(s.CNAMEs) != 1 {
				t.Errorf("got name %q %q; want %q", s.Domain, s.CNAMEs, tt.domain)
			}
			time.Sleep(2 * time.Second)
			before := time.Now()
			if _, err := r.Reevaluate(t.Context(), firewall.Everything); err != nil {
				t.Error(err)
			}
			if s := r.state(i.Tuple); s.Domain != tt.againDomain || !time.Now().Equal(before) {
				t.Errorf("re-evaluated: got name %q after %v; want %q at once", s.Domain, time.Since(before), tt.againDomain)
			}
		})
	}
}

// A name that was waited for is known to the deciders that come later.
func TestNameIsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got string
		r := start(t, func(c *firewall.Config) {
			c.Names = names{20 * time.Millisecond, time.Now()}
			c.Deciders = []firewall.Decider{
				decider(func(s *conn.Snapshot) firewall.Outcome { return firewall.Outcome{NeedsName: s.Domain == ""} }),
				decider(func(s *conn.Snapshot) firewall.Outcome {
					got = s.Domain
					return says(verdict.Accept)
				}),
			}
		})
		i := out(packet.TCP, 1, faraway)
		r.want(i, verdict.ActionPermanentAccept)
		if got != "ads.example" || r.state(i.Tuple).Domain != got {
			t.Errorf("got %q, recorded %q; want ads.example", got, r.state(i.Tuple).Domain)
		}
	})
}

func TestFilterConnectionChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hits hitCounter
		o := says(verdict.Block)
		o.Hit = &hits
		r := start(t, func(c *firewall.Config) {
			c.Deciders = []firewall.Decider{decider(func(*conn.Snapshot) firewall.Outcome { return o })}
		})
		s := &conn.Snapshot{Tuple: out(packet.TCP, 1, faraway).Tuple}
		d := r.FilterConnection(t.Context(), s)
		p, ok := r.Preview(t.Context(), s)
		if d.Verdict != verdict.Block || d.Scope != verdict.ScopePermanent || !ok || p != d {
			t.Errorf("got %+v, %+v, %t; want a permanent Block twice", d, p, ok)
		}
		if r.store.Len() != 0 || hits.Load() != 0 || r.Stats().Verdicts[verdict.Block] != 0 {
			t.Errorf("got %d connections, %d hits, %d blocked; want 0", r.store.Len(), hits.Load(), r.Stats().Verdicts[verdict.Block])
		}
	})
}

type hitCounter struct{ atomic.Int64 }

func (h *hitCounter) Hit() { h.Add(1) }
