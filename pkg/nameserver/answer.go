package nameserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/verdict"
)

// accepted is the decision where nobody is asked.
func accepted(code verdict.Code, text string) verdict.Decision {
	return verdict.Decision{Verdict: verdict.Accept, Reason: verdict.Reason{Code: code, Text: text}}
}

// fast answers from the cache without waiting for anybody; ok is false where that is not possible. Such queries are most of all, and each
// costs no goroutine and no allocation.
func (s *Server) fast(a *ask, dst []byte) (out []byte, ok bool) {
	e := s.cache.get(a.key())
	if e == nil || !e.fresh(a.now) || e.err != nil {
		return dst, false
	}
	a.query.Name = e.name
	if s.cfg.Own != nil {
		if _, own := s.cfg.Own(a.query); own {
			return dst, false
		}
	}
	d, ok := s.fastDecision(a.query, &e.answer)
	if !ok {
		return dst, false
	}
	s.stats.hits.Add(1)
	s.given(a, e, FromCache, d)
	return e.appendReply(dst, &a.req, a.now, FromCache, a.limit), true
}

// fastDecision accepts what can be accepted at once. All else is asked again by those who can wait.
func (s *Server) fastDecision(q Query, a *Answer) (d verdict.Decision, ok bool) {
	if s.cfg.Decider == nil {
		return accepted(CodeNoDecider, ""), true
	}
	if s.quick == nil {
		return d, false
	}
	defer func() {
		if v := recover(); v != nil {
			s.cfg.Log.Error("decider panicked", "query", q.Name, "value", fmt.Sprint(v))
			ok = false
		}
	}()
	d, ok = s.quick.DecideQuick(q, nil)
	if !ok || d.Verdict != verdict.Accept {
		return d, false
	}
	if !a.hasContent() {
		return d, true
	}
	second, ok := s.quick.DecideQuick(q, a)
	switch {
	case !ok:
		return d, false
	case second.Verdict == verdict.Undecided:
		return d, true
	}
	return second, second.Verdict == verdict.Accept
}

// hasContent reports whether there is something to judge, or to learn, in an answer.
func (a *Answer) hasContent() bool { return len(a.Addrs)+len(a.CNAMEs)+len(a.Targets) > 0 }

// given tells of an answer that the client is about to get.
func (s *Server) given(a *ask, e *entry, src Source, d verdict.Decision) {
	reply := e.reply(a.now, src)
	if s.cfg.OnAnswer != nil && e.answer.hasContent() {
		s.cfg.OnAnswer(a.query, reply)
	}
	if s.cfg.Recorder != nil {
		s.cfg.Recorder.Record(Record{Query: a.query, Decision: d, Reply: reply, Answered: time.Now(), Err: e.err})
	}
}

// slow answers with all that takes; nil is no answer.
func (s *Server) slow(ctx context.Context, a *ask) []byte {
	name, err := nameText(a.req.name)
	if err != nil {
		return bareReply(nil, &a.req, dns.RcodeFormatError)
	}
	a.query.Name = name
	if s.own.has(a.query.Protocol, a.query.Client.Port(), &a.req) {
		s.loop(fmt.Sprintf("The nameserver's own query for %s came back to it at %v: something redirects it. "+
			"Exempt this program from rules that redirect DNS, or use servers with DNS over TLS or HTTPS.", name, a.query.Server))
		return bareReply(nil, &a.req, dns.RcodeRefused)
	}
	st := s.setup.Load()
	if e := s.self(st, a.query); e != nil {
		s.given(a, e, FromSelf, accepted(CodeSelf, "answered by this host itself"))
		return e.appendReply(nil, &a.req, a.now, FromSelf, a.limit)
	}
	d := s.decide(ctx, a.query, nil)
	if refuses(d.Verdict) {
		return s.refuse(st, a, d)
	}
	if atOnce(d.Verdict) && s.cfg.Recorder != nil {
		s.cfg.Recorder.Record(Record{Query: a.query, Decision: d})
	}
	e, src, err := s.resolve(ctx, name, a)
	a.now = time.Now().UnixNano()
	if round := (*roundError)(nil); errors.As(err, &round) {
		s.loop(round.remedy(name))
		return bareReply(nil, &a.req, dns.RcodeRefused)
	}
	if err != nil {
		return s.failed(a, d, err)
	}
	if e.answer.hasContent() && s.cfg.Decider != nil {
		if second := s.decide(ctx, a.query, &e.answer); second.Verdict != verdict.Undecided {
			d = second
		}
		if refuses(d.Verdict) {
			return s.refuse(st, a, d)
		}
	}
	s.given(a, e, src, d)
	return e.appendReply(nil, &a.req, a.now, src, a.limit)
}

// decide asks the Decider. Nothing passes because of its mistakes.
func (s *Server) decide(ctx context.Context, q Query, a *Answer) (d verdict.Decision) {
	if s.cfg.Decider == nil {
		return accepted(CodeNoDecider, "")
	}
	fail := func(text string) {
		d = verdict.Decision{Verdict: verdict.Failed, Reason: verdict.Reason{Code: CodeDeciderFailed, Text: text}}
	}
	defer func() {
		if v := recover(); v != nil {
			s.cfg.Log.Error("decider panicked", "query", q.Name, "value", fmt.Sprint(v))
			fail("deciding failed")
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, s.setup.Load().Timeout)
	defer cancel()
	d = s.cfg.Decider.Decide(ctx, q, a)
	if ctx.Err() != nil {
		fail("deciding took too long")
	}
	return d
}

// refuse answers a query that may not be answered, and records it.
func (s *Server) refuse(st *setup, a *ask, d verdict.Decision) []byte {
	s.stats.blocked.Add(1)
	r := Record{Query: a.query, Decision: d}
	var out []byte
	switch {
	case d.Verdict == verdict.Block:
		e, err := blockedEntry(st, a.query, d)
		if err != nil {
			out = bareReply(nil, &a.req, dns.RcodeNameError)
			break
		}
		r.Reply, r.Answered = e.reply(a.now, FromSelf), time.Now()
		out = e.appendReply(nil, &a.req, a.now, FromSelf, a.limit)
	case d.Verdict != verdict.Drop:
		r.Answered = time.Now()
		r.Reply = Reply{Answer: &Answer{RCode: dns.RcodeServerFailure}, Source: FromSelf}
		out = bareReply(nil, &a.req, dns.RcodeServerFailure)
	}
	if s.cfg.Recorder != nil {
		s.cfg.Recorder.Record(r)
	}
	return out
}

// failed answers a query that no server had an answer for, and records it.
func (s *Server) failed(a *ask, d verdict.Decision, err error) []byte {
	s.stats.failed.Add(1)
	if s.cfg.Recorder != nil {
		s.cfg.Recorder.Record(Record{
			Query: a.query, Decision: d, Answered: time.Now(), Err: err,
			Reply: Reply{Answer: &Answer{RCode: dns.RcodeServerFailure}, Source: FromSelf},
		})
	}
	o := &outgoing{name: dns.Fqdn(a.query.Name), qtype: a.req.qtype}
	e, perr := failureEntry(a.query.Name, o, err)
	if perr != nil {
		return bareReply(nil, &a.req, dns.RcodeServerFailure)
	}
	return e.appendReply(nil, &a.req, a.now, FromSelf, a.limit)
}

// loop notes that a query of our own came back to us, with a remedy.
func (s *Server) loop(message string) {
	s.stats.loops.Add(1)
	if s.looped.Swap(true) || s.cfg.States == nil {
		return
	}
	s.cfg.States.Add(module.State{
		ID: stateLoop, Name: "Nameserver asks itself", Severity: module.Error, Message: message,
	})
}
