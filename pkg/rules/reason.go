package rules

import (
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// By is the Reason.By of every decision of this package.
const By = "rules"

// The codes of reasons. They are stable.
const (
	// CodeRuleAllow and the next three are a rule's action.
	CodeRuleAllow verdict.Code = "rule-allow"
	CodeRuleBlock verdict.Code = "rule-block"
	CodeRuleDrop  verdict.Code = "rule-drop"
	CodeRuleAsk   verdict.Code = "rule-ask"
	// CodeAppDefault is the default of the app's profile, whatever it is.
	CodeAppDefault verdict.Code = "app-default"
	// CodeDefaultAllow is an allowing default of the configuration.
	CodeDefaultAllow verdict.Code = "default-allow"
	// CodeDefaultAsk is a default that asks.
	CodeDefaultAsk verdict.Code = "default-ask"
	// CodeDefaultDenyIn is a denying default (block or drop), inbound.
	CodeDefaultDenyIn verdict.Code = "default-deny-in"
	// CodeDefaultDenyOut is a denying default (block or drop), outbound.
	CodeDefaultDenyOut verdict.Code = "default-deny-out"
	// CodeAskTimeout is a question that nobody answered in time.
	CodeAskTimeout verdict.Code = "ask-timeout"
	// CodeNoRules is a decision without a Set.
	CodeNoRules verdict.Code = "no-rules"
)

// DenyFor returns the verdict of a denial that no rule spelled out: Drop for
// inbound, so that port scans get no answer, Block for outbound, so that the
// program need not wait.
func DenyFor(d packet.Direction) verdict.Verdict {
	if d == packet.Inbound {
		return verdict.Drop
	}
	return verdict.Block
}

// AskTimeout returns the decision about a connection whose question, asked by
// the given outcome, was not answered in time.
func AskTimeout(d packet.Direction, asked Outcome) verdict.Decision {
	return verdict.Decision{Verdict: DenyFor(d), Reason: verdict.Reason{
		Code: CodeAskTimeout, Text: "nobody answered in time", Rule: asked.Decision.Reason.Rule, By: By,
	}}
}

// ruleDecision returns the decision of a rule. Ask has the verdict Undecided,
// which lets nothing through.
func ruleDecision(r *Rule) verdict.Decision {
	d := verdict.Decision{Reason: verdict.Reason{Text: r.Comment, Rule: r.ID, By: By}}
	switch r.Action {
	case Allow:
		d.Verdict, d.Reason.Code = verdict.Accept, CodeRuleAllow
	case Block:
		d.Verdict, d.Reason.Code = verdict.Block, CodeRuleBlock
	case Drop:
		d.Verdict, d.Reason.Code = verdict.Drop, CodeRuleDrop
	case Ask:
		d.Verdict, d.Reason.Code = verdict.Undecided, CodeRuleAsk
	}
	if d.Reason.Text == "" {
		d.Reason.Text = "rule " + r.ID + " says " + r.Action.String()
	}
	return d
}

// fallback is the outcomes of a default, worked out once.
type fallback struct{ out, in, local Outcome }

func newFallback(d Defaults, profile string) *fallback {
	return &fallback{
		out:   newDefault(d.Out, packet.Outbound, "out", profile),
		in:    newDefault(d.In, packet.Inbound, "in", profile),
		local: newDefault(d.Local, packet.Inbound, "local", profile),
	}
}

func (f *fallback) of(q *query) *Outcome {
	switch {
	case q.direction == packet.Outbound:
		return &f.out
	case q.scopes&(1<<netscope.Host) != 0:
		return &f.local
	}
	return &f.in
}

// newDefault returns the outcome of the default with that name; it has no layer
// if a is not set. profile is "" for the configuration's default.
func newDefault(a Action, dir packet.Direction, name, profile string) Outcome {
	if a == 0 {
		return Outcome{}
	}
	d := verdict.Decision{Reason: verdict.Reason{By: By}}
	switch a {
	case Allow:
		d.Verdict, d.Reason.Code = verdict.Accept, CodeDefaultAllow
	case Ask:
		d.Verdict, d.Reason.Code = verdict.Undecided, CodeDefaultAsk
	case Drop:
		d.Verdict, d.Reason.Code = verdict.Drop, denyCode(dir)
	case Block:
		d.Verdict, d.Reason.Code = DenyFor(dir), denyCode(dir)
		if d.Verdict == verdict.Drop {
			a = Drop
		}
	}
	d.Reason.Text = "no rule matches; the default for " + name + " is " + a.String()
	if profile != "" {
		d.Reason.Code = CodeAppDefault
		d.Reason.Text = "no rule matches; profile " + profile + " has the default " + a.String() + " for " + name
	}
	return Outcome{Action: a, Decision: d, Ask: a == Ask, Layer: LayerDefault, Profile: profile}
}

func denyCode(dir packet.Direction) verdict.Code {
	if dir == packet.Inbound {
		return CodeDefaultDenyIn
	}
	return CodeDefaultDenyOut
}

// noRules is the outcome of a nil Set.
func noRules(dir packet.Direction) Outcome {
	o := newDefault(Block, dir, dir.String(), "")
	o.Layer = 0
	o.Decision.Reason.Code, o.Decision.Reason.Text = CodeNoRules, "there are no rules"
	return o
}
