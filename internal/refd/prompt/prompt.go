// Package prompt keeps the questions that rules with the action ask put to people, until somebody answers.
package prompt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

// Bounds of what programs can make people look at.
const (
	maxPrompts = 100
	maxTargets = 50
)

// attention is how long somebody who looked counts as somebody to ask.
const attention = 30 * time.Second

// Codes of decisions by people.
const (
	CodeAnswered verdict.Code = "answered"
	// CodeQuery is that of DNS queries: nobody is asked about them.
	CodeQuery verdict.Code = "ask-dns-query"
)

// Target is what a program wants to reach, or, inbound, who wants to reach it.
type Target struct {
	// Domain is empty if it is not known, or is nothing that a rule could name.
	Domain   string          `json:"domain,omitempty"`
	Remote   netip.AddrPort  `json:"remote"`
	Protocol packet.Protocol `json:"protocol"`
}

// Name is the domain, or else the address: what an Answer is limited by.
func (t Target) Name() string {
	if t.Domain != "" {
		return t.Domain
	}
	return t.Remote.Addr().WithZone("").String()
}

// Prompt is a question about all connections of one program in one direction.
type Prompt struct {
	ID uint64 `json:"id"`
	// App is the script that an interpreter runs, or else the executable; empty if it is not known.
	App string `json:"app"`
	// Process is that of the first connection, nil if it is not known. All connections of the prompt have its Path and Script.
	Process   *conn.Process    `json:"process,omitempty"`
	Direction packet.Direction `json:"direction"`
	// Targets are the latest ones last, each once, 50 at most.
	Targets []Target `json:"targets"`
	// Waiting is how many connections wait for the answer; the others were denied meanwhile.
	Waiting int `json:"waiting"`
	// Revision counts the targets: an Answer says by it which of them were seen.
	Revision uint64 `json:"revision"`
	// Rule is that which asks, empty for a default.
	Rule string `json:"rule,omitempty"`
	// Asked is when the question came up, and Until when it goes if nothing happens.
	Asked time.Time `json:"asked"`
	Until time.Time `json:"until"`
}

// Program says in words what the prompt is about: the executable, and the script that it runs. It is empty if that is not known.
func (p *Prompt) Program() string {
	switch {
	case p.Process == nil:
		return p.App
	case p.Process.Script != "" && p.Process.Path != "":
		return p.Process.Path + ", which runs " + p.Process.Script
	}
	return cmp.Or(p.Process.Path, p.Process.Script)
}

// Duration is for how long an answer holds.
type Duration string

// The durations.
const (
	// Once is for the connections that wait, as far as their targets were seen.
	Once Duration = "once"
	// Session is until refd ends or is told to forget.
	Session Duration = "session"
	// Always writes a rule.
	Always Duration = "always"
)

// Answer is what somebody says to a Prompt.
type Answer struct {
	// Action is allow, block or drop.
	Action rules.Action `json:"action"`
	For    Duration     `json:"for"`
	// Target limits the answer to the domain or address of one of the prompt's targets. Empty is everything that the program does in
	// this direction.
	Target string `json:"target,omitempty"`
	// Seen is the Revision of the prompt that is answered: Once is not for targets that came later. 0 is for all that there are.
	Seen uint64 `json:"seen,omitempty"`
}

// ErrNoPrompt is wrapped when a prompt was answered already, or has gone.
var ErrNoPrompt = errors.New("prompt: there is no such question")

// ErrAnswer is wrapped by errors about an answer that makes no sense.
var ErrAnswer = errors.New("prompt: bad answer")

// Config of a Store.
type Config struct {
	// Rules are looked at again when settings changed. Required.
	Rules *rules.Live
	// DenyAfter is how long a connection waits. Default 10 s.
	DenyAfter time.Duration
	// Timeout is how long a prompt stays after its latest connection. Default 1 minute.
	Timeout time.Duration
	// Write writes a rule for good, and has it in force when it returns. Required for answers that hold always. s is a connection that
	// the rule is about; its process is known.
	Write func(ctx context.Context, s *conn.Snapshot, a Answer) error
	// Query reports whether a connection carries DNS queries and nothing else: nobody is asked about those, but about what follows. Nil
	// is to ask about all.
	Query func(c *conn.Snapshot) bool
	// Changed is called after each change, in no goroutine of its own: it must not block or call the store. Optional.
	Changed func()
	// Logger is silent if nil.
	Logger *slog.Logger
}

// key is what connections have in common that one prompt is about. The executable is a part of it: what it says of the script that it
// runs, any program can say.
type key struct {
	path, script string
	direction    packet.Direction
}

// memory is an answer that holds for more than what waits. target is empty for everything.
type memory struct {
	key
	target string
}

type pending struct {
	Prompt

	example conn.Snapshot
	waiters map[*waiter]struct{}
	// came says at which revision the targets came.
	came map[Target]uint64
	// claimed is true while a rule is written: no other answer counts then.
	claimed bool
	expire  *time.Timer
}

// seen reports whether a target was there at a revision; 0 is now.
func (p *pending) seen(t Target, revision uint64) bool { return revision == 0 || p.came[t] <= revision }

// waiter is a connection that waits. Its channel has room for the one answer.
type waiter struct {
	target Target
	answer chan verdict.Decision // closed: look at the rules again
}

// Store keeps prompts. It is a firewall.Asker. All methods may be called from any goroutine.
type Store struct {
	cfg Config
	// looked is when somebody who may answer looked last, in nanoseconds.
	looked atomic.Int64

	mu      sync.Mutex // guards what follows
	lastID  uint64
	open    map[key]*pending
	session map[memory]verdict.Decision
}

// New returns a store without prompts.
func New(cfg Config) *Store {
	cfg.DenyAfter = cmp.Or(cfg.DenyAfter, 10*time.Second)
	cfg.Timeout = cmp.Or(cfg.Timeout, time.Minute)
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Query == nil {
		cfg.Query = func(*conn.Snapshot) bool { return false }
	}
	return &Store{cfg: cfg, open: map[key]*pending{}, session: map[memory]verdict.Decision{}}
}

func (s *Store) attended() bool { return time.Since(time.Unix(0, s.looked.Load())) < attention }

// Ask implements firewall.Asker: it waits for an answer. If there is none in time, the error is context.DeadlineExceeded, and the
// prompt stays for the next connection. Where there is nobody to ask it is firewall.ErrNobody, at once.
func (s *Store) Ask(ctx context.Context, c *conn.Snapshot) (verdict.Decision, error) {
	if s.cfg.Query(c) {
		return verdict.Decision{Verdict: verdict.Accept, Reason: verdict.Reason{
			Code: CodeQuery, Text: "nobody is asked about DNS queries; the connection that follows is asked about", By: "prompt",
		}}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DenyAfter)
	defer cancel()
	for {
		w, d, ok := s.join(c)
		if ok {
			return d, nil
		}
		if w == nil {
			return verdict.Decision{}, context.DeadlineExceeded // too many questions: as if nobody had answered
		}
		if !s.attended() {
			s.leave(c, w)
			return verdict.Decision{}, firewall.ErrNobody
		}
		select {
		case d, ok := <-w.answer:
			if ok {
				return d, nil
			}
			o := s.cfg.Rules.Load().Evaluate(c)
			if !o.Ask {
				return o.Decision, nil
			}
		case <-ctx.Done():
			s.leave(c, w)
			return verdict.Decision{}, ctx.Err() //nolint:wrapcheck // documented
		}
	}
}

func keyOf(c *conn.Snapshot) key {
	k := key{direction: c.Direction}
	if c.Process != nil {
		k.path, k.script = c.Process.Executable(), c.Process.Script
	}
	return k
}

// targetOf leaves out names that no rule can have: somebody else made them up, and they could pass for an address, or for more.
func targetOf(c *conn.Snapshot) Target {
	t := Target{Remote: c.Tuple.Remote, Protocol: c.Tuple.Protocol}
	if name, ok := rules.ExactName(c.Domain); ok {
		t.Domain = strings.TrimSuffix(name, ".")
	}
	return t
}

// join answers a connection by what is known, or has it wait. It returns nothing if there are too many prompts.
func (s *Store) join(c *conn.Snapshot) (w *waiter, d verdict.Decision, known bool) {
	k, target := keyOf(c), targetOf(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.rememberedLocked(k, target.Name()); ok {
		return nil, d, true
	}
	p := s.open[k]
	if p == nil {
		if len(s.open) >= maxPrompts {
			return nil, d, false
		}
		p = s.newLocked(k, c)
	}
	w = &waiter{target: target, answer: make(chan verdict.Decision, 1)}
	p.waiters[w] = struct{}{}
	if !slices.Contains(p.Targets, target) {
		p.Revision++
		p.came[target] = p.Revision
		p.Targets = append(slices.Clone(p.Targets), target)
		p.Targets = p.Targets[max(0, len(p.Targets)-maxTargets):]
		p.forgetOld()
	}
	p.Waiting, p.Until = len(p.waiters), time.Now().Add(s.cfg.Timeout)
	p.expire.Reset(s.cfg.Timeout)
	s.cfg.Changed()
	return w, d, false
}

// forgetOld forgets when those came that are no targets any more, and that nobody waits for.
func (p *pending) forgetOld() {
	if len(p.came) <= 2*maxTargets {
		return
	}
	wanted := map[Target]bool{}
	for w := range p.waiters {
		wanted[w.target] = true
	}
	for _, t := range p.Targets {
		wanted[t] = true
	}
	maps.DeleteFunc(p.came, func(t Target, _ uint64) bool { return !wanted[t] })
}

func (s *Store) newLocked(k key, c *conn.Snapshot) *pending {
	s.lastID++
	p := &pending{example: *c, waiters: map[*waiter]struct{}{}, came: map[Target]uint64{}}
	p.Prompt = Prompt{ID: s.lastID, App: connstore.App(k.path, k.script), Process: c.Process, Direction: k.direction, Asked: time.Now()}
	if o := s.cfg.Rules.Load().Evaluate(c); o.Rule != nil {
		p.Rule = o.Rule.ID
	}
	p.expire = time.AfterFunc(s.cfg.Timeout, func() { s.expired(k, p) })
	s.open[k] = p
	return p
}

// rememberedLocked finds an earlier answer: that about the target before that about everything.
func (s *Store) rememberedLocked(k key, target string) (verdict.Decision, bool) {
	for _, m := range []memory{{k, target}, {k, ""}} {
		if d, ok := s.session[m]; ok {
			return d, true
		}
	}
	return verdict.Decision{}, false
}

func (s *Store) leave(c *conn.Snapshot, w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.open[keyOf(c)]
	if p == nil {
		return
	}
	if _, waits := p.waiters[w]; waits {
		delete(p.waiters, w)
		p.Waiting = len(p.waiters)
		s.cfg.Changed()
	}
}

// expired ends a prompt that nobody wants any more. Those that wait see their own end.
func (s *Store) expired(k key, p *pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.open[k] != p:
	case len(p.waiters) > 0:
		p.expire.Reset(s.cfg.Timeout)
	default:
		s.goneLocked(k, p)
	}
}

func (s *Store) goneLocked(k key, p *pending) {
	delete(s.open, k)
	p.expire.Stop()
	p.Waiting = 0
	s.cfg.Changed()
}

// All returns the open prompts, the oldest first, to somebody who may answer: for half a minute there is somebody to ask.
func (s *Store) All() []Prompt {
	s.looked.Store(time.Now().UnixNano())
	return s.Peek()
}

// Peek is All for somebody who may only look.
func (s *Store) Peek() []Prompt {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []Prompt{}
	for _, p := range s.open {
		all = append(all, p.Prompt)
	}
	slices.SortFunc(all, func(a, b Prompt) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// Answer answers a prompt. Errors wrap ErrNoPrompt, ErrAnswer, or are those of Config.Write: then the prompt stays. Of two answers to the
// same question, one counts; the other finds ErrNoPrompt.
func (s *Store) Answer(ctx context.Context, id uint64, a Answer) error {
	if a.Action != rules.Allow && a.Action != rules.Block && a.Action != rules.Drop {
		return fmt.Errorf("%w: action %v: use allow, block or drop", ErrAnswer, a.Action)
	}
	if a.For != Once && a.For != Session && a.For != Always {
		return fmt.Errorf("%w: for %q: use once, session or always", ErrAnswer, a.For)
	}
	if addr, err := netip.ParseAddr(a.Target); err == nil {
		a.Target = addr.WithZone("").String() // as Target.Name has it
	}
	p, example, err := s.claim(id, a)
	if err != nil || a.For != Always {
		return err
	}
	// the rules are in force before those who wait look at them; it ends the prompt, as settings change
	err = s.cfg.Write(ctx, &example, a)
	s.mu.Lock()
	defer s.mu.Unlock()
	p.claimed = false
	if err != nil {
		return fmt.Errorf("write a rule: %w", err)
	}
	if s.open[keyOf(&example)] == p {
		s.settleLocked(p, a)
	}
	return nil
}

// claim settles an answer that is not for always, and keeps others from the prompt otherwise. It returns a connection that it is about.
func (s *Store) claim(id uint64, a Answer) (*pending, conn.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.findLocked(id)
	if p == nil {
		return nil, conn.Snapshot{}, fmt.Errorf("%w: %d", ErrNoPrompt, id)
	}
	example, err := p.exampleFor(a.Target)
	switch {
	case err != nil:
		return nil, example, err
	case a.For != Always:
		s.settleLocked(p, a)
	case example.Process == nil || p.App == "":
		return nil, example, fmt.Errorf("%w: the program is not known, so that no rule can be written: answer once, or for the session", ErrAnswer)
	default:
		p.claimed = true
	}
	return p, example, nil
}

// findLocked returns a prompt that may be answered.
func (s *Store) findLocked(id uint64) *pending {
	for _, p := range s.open {
		if p.ID == id && !p.claimed {
			return p
		}
	}
	return nil
}

// exampleFor returns a connection that the answer is about.
func (p *pending) exampleFor(target string) (conn.Snapshot, error) {
	example := p.example
	if target == "" {
		return example, nil
	}
	for _, t := range p.Targets {
		if t.Name() == target {
			example.Domain, example.Tuple.Remote, example.Tuple.Protocol = t.Domain, t.Remote, t.Protocol
			return example, nil
		}
	}
	return example, fmt.Errorf("%w: the question is not about %q", ErrAnswer, target)
}

// settleLocked gives an answer to those who wait for it, and remembers it if it is for the session.
func (s *Store) settleLocked(p *pending, a Answer) {
	d := verdict.Decision{Verdict: verdictOf(a.Action), Reason: verdict.Reason{
		Code: CodeAnswered, Text: "somebody was asked, and said " + a.Action.String() + " (" + string(a.For) + ")", By: "prompt",
	}}
	meant := func(t Target) bool {
		return (a.Target == "" || t.Name() == a.Target) && (a.For != Once || p.seen(t, a.Seen))
	}
	for w := range p.waiters {
		if meant(w.target) {
			w.answer <- d
			delete(p.waiters, w)
		}
	}
	k := keyOf(&p.example)
	if a.For == Session {
		s.session[memory{k, a.Target}] = d
	}
	p.Targets = slices.DeleteFunc(slices.Clone(p.Targets), meant)
	p.Waiting = len(p.waiters)
	if len(p.Targets) == 0 {
		s.goneLocked(k, p)
		return
	}
	s.cfg.Changed()
}

func verdictOf(a rules.Action) verdict.Verdict {
	switch a {
	case rules.Allow:
		return verdict.Accept
	case rules.Drop:
		return verdict.Drop
	case rules.Block, rules.Ask:
	}
	return verdict.Block
}

// Dismiss ends a prompt without an answer: whoever waits is denied as if nobody had answered.
func (s *Store) Dismiss(id uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.findLocked(id)
	if p == nil {
		return fmt.Errorf("%w: %d", ErrNoPrompt, id)
	}
	s.goneLocked(keyOf(&p.example), p)
	return nil
}

// Reset is called when settings changed: pending prompts go, and those who wait are decided by the new rules. These may ask again.
func (s *Store) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, p := range s.open {
		for w := range p.waiters {
			close(w.answer)
		}
		p.waiters = map[*waiter]struct{}{}
		s.goneLocked(k, p)
	}
}

// Forget takes the answers of this session back.
func (s *Store) Forget() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.session)
	clear(s.session)
	return n
}
