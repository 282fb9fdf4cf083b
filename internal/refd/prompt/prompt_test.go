package prompt_test

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/internal/refd/prompt"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

// asking are rules that ask about everything that goes out.
func asking(t *testing.T, more ...rules.Rule) *rules.Set {
	t.Helper()
	set, err := rules.Compile(rules.Config{Global: append(more, rules.Rule{ID: "ask", Direction: rules.Out, Action: rules.Ask})})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

type rig struct {
	*prompt.Store

	t       *testing.T
	rules   rules.Live
	written []prompt.Answer
	fails   error
	// writing is called while a rule is written; nil is nothing.
	writing func()
	changes atomic.Int64
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t}
	r.rules.Swap(asking(t))
	query := func(c *conn.Snapshot) bool { return c.Direction == packet.Outbound && c.Tuple.Remote.Port() == 53 }
	r.Store = prompt.New(prompt.Config{Rules: &r.rules, Query: query, Changed: func() { r.changes.Add(1) }, Write: func(_ context.Context, _ *conn.Snapshot, a prompt.Answer) error {
		r.written = append(r.written, a)
		if r.writing != nil {
			r.writing()
		}
		if r.fails != nil {
			return r.fails
		}
		// as the daemon does: first the rules, then those who wait
		r.rules.Swap(asking(t, rules.Rule{ID: "written", App: rules.AppMatch{Path: "/bin/app"}, Action: a.Action}))
		r.Reset()
		return nil
	}})
	return r
}

func to(app, domain string, port uint16) *conn.Snapshot {
	s := &conn.Snapshot{Domain: domain, Tuple: packet.Tuple{Protocol: packet.TCP, Remote: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)}}
	if app != "" {
		s.Process = &conn.Process{PID: 7, Path: app}
	}
	return s
}

type result struct {
	decision verdict.Decision
	err      error
	after    time.Duration
}

// ask asks about a connection, and waits until the store waits.
func (r *rig) ask(s *conn.Snapshot) <-chan result {
	c := make(chan result, 1)
	began := time.Now()
	go func() {
		d, err := r.Ask(r.t.Context(), s)
		c <- result{d, err, time.Since(began)}
	}()
	synctest.Wait()
	return c
}

func (r *rig) want(c <-chan result, v verdict.Verdict) {
	r.t.Helper()
	synctest.Wait()
	select {
	case got := <-c:
		if got.err != nil || got.decision.Verdict != v {
			r.t.Errorf("got %+v, %v; want %v", got.decision, got.err, v)
		}
	default:
		r.t.Errorf("still waits; want %v", v)
	}
}

func (r *rig) one() prompt.Prompt {
	r.t.Helper()
	all := r.All()
	if len(all) != 1 {
		r.t.Fatalf("got %+v; want one prompt", all)
	}
	return all[0]
}

func (r *rig) answer(a prompt.Answer) {
	r.t.Helper()
	if err := r.Answer(r.t.Context(), r.one().ID, a); err != nil {
		r.t.Error(err)
	}
}

func bubble(t *testing.T, name string, f func(r *rig)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			defer r.Reset()
			r.All() // somebody is there
			f(r)
		})
	})
}

func TestAnswers(t *testing.T) {
	allow, block := prompt.Answer{Action: rules.Allow, For: prompt.Once}, prompt.Answer{Action: rules.Block, For: prompt.Session}
	bubble(t, "merged per app, domain shown", func(r *rig) {
		a, b := r.ask(to("/bin/app", "one.example", 443)), r.ask(to("/bin/app", "two.example", 80))
		other := r.ask(to("/bin/other", "", 443))
		all := r.All()
		if len(all) != 2 || all[0].Waiting != 2 || len(all[0].Targets) != 2 || all[0].Targets[0].Domain != "one.example" || all[0].Rule != "ask" {
			r.t.Fatalf("got %+v; want one for each app", all)
		}
		if err := r.Answer(r.t.Context(), all[0].ID, allow); err != nil {
			r.t.Error(err)
		}
		r.want(a, verdict.Accept)
		r.want(b, verdict.Accept)
		if r.one().App != "/bin/other" {
			r.t.Errorf("got %+v", r.one())
		}
		r.answer(block)
		r.want(other, verdict.Block)
	})
	bubble(t, "once is once", func(r *rig) {
		a := r.ask(to("/bin/app", "", 443))
		r.answer(allow)
		r.want(a, verdict.Accept)
		r.ask(to("/bin/app", "", 443))
		r.one()
	})
	bubble(t, "session", func(r *rig) {
		a := r.ask(to("/bin/app", "", 443))
		r.answer(block)
		r.want(a, verdict.Block)
		r.want(r.ask(to("/bin/app", "x.example", 80)), verdict.Block)
		if n := r.Forget(); n != 1 {
			r.t.Errorf("forgot %d; want 1", n)
		}
		r.ask(to("/bin/app", "", 443))
		r.one()
	})
	bubble(t, "one target", func(r *rig) {
		a, b := r.ask(to("/bin/app", "one.example", 443)), r.ask(to("/bin/app", "two.example", 443))
		r.answer(prompt.Answer{Action: rules.Allow, For: prompt.Session, Target: "one.example"})
		r.want(a, verdict.Accept)
		if p := r.one(); p.Waiting != 1 || len(p.Targets) != 1 || p.Targets[0].Domain != "two.example" {
			r.t.Errorf("got %+v; want the other target", p)
		}
		r.answer(prompt.Answer{Action: rules.Drop, For: prompt.Once})
		r.want(b, verdict.Drop)
		r.want(r.ask(to("/bin/app", "one.example", 443)), verdict.Accept)
	})
	bubble(t, "always", func(r *rig) {
		a := r.ask(to("/bin/app", "", 443))
		r.answer(prompt.Answer{Action: rules.Block, For: prompt.Always})
		r.want(a, verdict.Block)
		if len(r.written) != 1 || len(r.All()) != 0 {
			r.t.Errorf("got %v written, %v open", r.written, r.All())
		}
	})
	bubble(t, "always, and it cannot be written", func(r *rig) {
		r.fails = errors.New("read-only")
		a := r.ask(to("/bin/app", "", 443))
		if err := r.Answer(r.t.Context(), r.one().ID, prompt.Answer{Action: rules.Allow, For: prompt.Always}); !errors.Is(err, r.fails) {
			r.t.Errorf("got %v", err)
		}
		r.answer(allow)
		r.want(a, verdict.Accept)
	})
}

func TestWaiting(t *testing.T) {
	bubble(t, "denied early, and the prompt stays for next time", func(r *rig) {
		c := r.ask(to("/bin/app", "", 443))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := <-c; !errors.Is(got.err, context.DeadlineExceeded) || got.after != 10*time.Second {
			r.t.Errorf("got %v after %v; want it denied after 10 s", got.err, got.after)
		}
		if p := r.one(); p.Waiting != 0 {
			r.t.Errorf("got %+v; want nobody to wait", p)
		}
		if got := <-r.ask(to("/bin/app", "", 443)); !errors.Is(got.err, context.DeadlineExceeded) {
			r.t.Errorf("got %v; want the same question again", got.err)
		}
		r.answer(prompt.Answer{Action: rules.Allow, For: prompt.Session})
		r.want(r.ask(to("/bin/app", "", 443)), verdict.Accept)
	})
	bubble(t, "once, said too late, is not for another connection", func(r *rig) {
		<-r.ask(to("/bin/app", "", 443))
		r.answer(prompt.Answer{Action: rules.Allow, For: prompt.Once})
		if len(r.All()) != 0 {
			r.t.Errorf("got %+v; want none", r.All())
		}
		r.ask(to("/bin/app", "", 443))
		if p := r.one(); p.Waiting != 1 {
			r.t.Errorf("got %+v; want it to be asked about", p)
		}
	})
	bubble(t, "goes at last", func(r *rig) {
		r.ask(to("/bin/app", "", 443))
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if all := r.All(); len(all) != 0 {
			r.t.Errorf("got %+v; want none", all)
		}
	})
	bubble(t, "goes when settings change", func(r *rig) {
		a, b := r.ask(to("/bin/app", "", 443)), r.ask(to("/bin/other", "", 443))
		r.rules.Swap(asking(r.t, rules.Rule{ID: "new", App: rules.AppMatch{Path: "/bin/app"}, Action: rules.Allow}))
		r.Reset()
		r.want(a, verdict.Accept)
		if p := r.one(); p.App != "/bin/other" || p.Waiting != 1 || len(b) != 0 {
			r.t.Errorf("got %+v; want the other asked again", p)
		}
	})
	bubble(t, "dismissed", func(r *rig) {
		c := r.ask(to("/bin/app", "", 443))
		if err := r.Dismiss(r.one().ID); err != nil || len(r.All()) != 0 {
			r.t.Errorf("got %v, %v", err, r.All())
		}
		time.Sleep(10 * time.Second)
		if got := <-c; !errors.Is(got.err, context.DeadlineExceeded) {
			r.t.Errorf("got %v; want it denied", got.err)
		}
	})
	bubble(t, "nobody is asked about DNS queries", func(r *rig) {
		s := to("/bin/app", "", 53)
		r.want(r.ask(s), verdict.Accept)
		s.Direction = packet.Inbound
		r.ask(s)
		r.one()
	})
	bubble(t, "bounded", func(r *rig) {
		for n := range 110 {
			r.ask(to("/bin/app"+string(rune('a'+n)), "", 443))
		}
		if n := len(r.All()); n != 100 {
			r.t.Errorf("got %d prompts; want 100", n)
		}
		for port := range uint16(70) {
			r.ask(to("/bin/appa", "", 1000+port))
		}
		if n := len(r.All()[0].Targets); n != 50 {
			r.t.Errorf("got %d targets; want 50", n)
		}
	})
}

// Where nobody looks, there is nobody to ask.
func TestNobodyThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.Reset()
		c := r.ask(to("/bin/app", "", 443))
		if got := <-c; !errors.Is(got.err, firewall.ErrNobody) || got.after != 0 {
			t.Errorf("got %v after %v; want it denied at once", got.err, got.after)
		}
		if p := r.one(); p.Waiting != 0 || p.App != "/bin/app" { // somebody looks
			t.Errorf("got %+v; want the question to stay", p)
		}
		c = r.ask(to("/bin/app", "", 443))
		r.answer(prompt.Answer{Action: rules.Allow, For: prompt.Once})
		r.want(c, verdict.Accept)
		time.Sleep(31 * time.Second)
		if got := <-r.ask(to("/bin/app", "", 443)); got.after != 0 {
			t.Errorf("got %v after %v; want it denied at once: nobody looks any more", got.err, got.after)
		}
	})
}

func TestBadAnswers(t *testing.T) {
	bubble(t, "", func(r *rig) {
		r.ask(to("", "", 443))
		id := r.one().ID
		for _, a := range []prompt.Answer{
			{Action: rules.Ask, For: prompt.Once}, {For: prompt.Once}, {Action: rules.Allow}, {Action: rules.Allow, For: "ever"},
			{Action: rules.Allow, For: prompt.Once, Target: "other.example"}, {Action: rules.Allow, For: prompt.Always},
		} {
			if err := r.Answer(r.t.Context(), id, a); !errors.Is(err, prompt.ErrAnswer) {
				r.t.Errorf("%+v: got %v; want ErrAnswer", a, err)
			}
		}
		if err := r.Answer(r.t.Context(), 99, prompt.Answer{Action: rules.Allow, For: prompt.Once}); !errors.Is(err, prompt.ErrNoPrompt) {
			r.t.Errorf("got %v; want ErrNoPrompt", err)
		}
		if err := r.Dismiss(99); !errors.Is(err, prompt.ErrNoPrompt) {
			r.t.Errorf("got %v; want ErrNoPrompt", err)
		}
		r.one()
	})
}

func TestChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.Reset()
		r.All()
		before := r.changes.Load()
		for _, step := range []func(){
			func() { r.ask(to("/bin/app", "", 443)) },
			func() { r.ask(to("/bin/app", "", 444)) },
			func() { r.answer(prompt.Answer{Action: rules.Allow, For: prompt.Once}) },
		} {
			step()
			now := r.changes.Load()
			if now <= before {
				t.Error("a change was not told")
			}
			before = now
		}
	})
}

// A script is known by what runs it, too: any program can be called with the name of a script.
func TestAScriptIsNotItsName(t *testing.T) {
	bubble(t, "", func(r *rig) {
		good, bad := to("/usr/bin/python3", "", 443), to("/tmp/python3", "", 443)
		good.Process.Script, bad.Process.Script = "/srv/fetch.py", "/srv/fetch.py"
		c := r.ask(good)
		if p := r.one(); p.Program() != "/usr/bin/python3, which runs /srv/fetch.py" {
			r.t.Errorf("got %q", p.Program())
		}
		r.answer(prompt.Answer{Action: rules.Allow, For: prompt.Session})
		r.want(c, verdict.Accept)
		r.want(r.ask(good), verdict.Accept)
		r.ask(bad)
		if p := r.one(); p.Process.Path != "/tmp/python3" || p.Waiting != 1 {
			r.t.Errorf("got %+v; want a question about the other program", p)
		}
	})
}

// Names that no rule can have are not shown, and not what an answer is limited by: they could pass for an address, or for more.
func TestNamesThatSomebodyMadeUp(t *testing.T) {
	bubble(t, "", func(r *rig) {
		for i, name := range []string{"*.com", ".com", "198.51.100.7", "a\nb.example", "-", "list:mine"} {
			r.ask(to("/bin/app", name, uint16(1000+i)))
		}
		r.ask(to("/bin/app", "global", 2000))
		for _, target := range r.one().Targets[:6] {
			if target.Domain != "" || target.Name() != "192.0.2.1" {
				r.t.Errorf("got %+v; want its address only", target)
			}
		}
	})
}

// Once is for what was seen: what came meanwhile is asked about.
func TestOnceIsForWhatWasSeen(t *testing.T) {
	bubble(t, "", func(r *rig) {
		seen := r.ask(to("/bin/app", "one.example", 443))
		revision := r.one().Revision
		late := r.ask(to("/bin/app", "two.example", 443))
		r.answer(prompt.Answer{Action: rules.Allow, For: prompt.Once, Seen: revision})
		r.want(seen, verdict.Accept)
		if p := r.one(); p.Waiting != 1 || len(p.Targets) != 1 || p.Targets[0].Domain != "two.example" || len(late) != 0 {
			r.t.Errorf("got %+v; want a question about what came later", p)
		}
		r.answer(prompt.Answer{Action: rules.Block, For: prompt.Once, Seen: r.one().Revision})
		r.want(late, verdict.Block)
	})
}

// Of two answers one counts, also while its rule is being written.
func TestTwoAnswers(t *testing.T) {
	bubble(t, "", func(r *rig) {
		c := r.ask(to("/bin/app", "", 443))
		id := r.one().ID
		r.writing = func() {
			for _, a := range []prompt.Answer{
				{Action: rules.Allow, For: prompt.Always}, {Action: rules.Allow, For: prompt.Session}, {Action: rules.Allow, For: prompt.Once},
			} {
				if err := r.Answer(r.t.Context(), id, a); !errors.Is(err, prompt.ErrNoPrompt) {
					r.t.Errorf("%+v: got %v; want ErrNoPrompt", a, err)
				}
			}
			if err := r.Dismiss(id); !errors.Is(err, prompt.ErrNoPrompt) {
				r.t.Errorf("got %v; want ErrNoPrompt", err)
			}
		}
		r.answer(prompt.Answer{Action: rules.Block, For: prompt.Always})
		r.want(c, verdict.Block)
		if n := r.Forget(); n != 0 || len(r.written) != 1 {
			r.t.Errorf("%d answers and %d rules were kept; want one rule", n, len(r.written))
		}
	})
}

// Who may only look is not somebody to ask.
func TestPeeking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.Reset()
		<-r.ask(to("/bin/app", "", 443))
		if n := len(r.Peek()); n != 1 {
			t.Errorf("got %d prompts; want 1", n)
		}
		if got := <-r.ask(to("/bin/app", "", 443)); !errors.Is(got.err, firewall.ErrNobody) {
			t.Errorf("got %v; want nobody to be there", got.err)
		}
	})
}

// A rule has no zones: with one or without, the address is the same target.
func TestTargetWithAZone(t *testing.T) {
	bubble(t, "", func(r *rig) {
		s := to("/bin/app", "", 443)
		s.Tuple.Remote = netip.MustParseAddrPort("[fe80::1%7]:443")
		c := r.ask(s)
		r.answer(prompt.Answer{Action: rules.Allow, For: prompt.Session, Target: "fe80::1%7"})
		r.want(c, verdict.Accept)
		r.want(r.ask(s), verdict.Accept)
	})
}
