package rules

import (
	"strconv"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
)

// SplitStep is one split entry, or what remains, that ExplainSplit tried.
type SplitStep struct {
	// Layer that the step belongs to; LayerDefault is what nobody configured.
	Layer Layer `json:"layer"`
	// Profile is the id of the app's profile in the app layer.
	Profile string `json:"profile,omitempty"`
	// Entry is the place in the Split, such as "exclude[1]", "" for a step that
	// is not about an entry.
	Entry string `json:"entry,omitempty"`
	// ID is the entry's id, if it has one.
	ID string `json:"id,omitempty"`
	// Use says which way the step leads if it decides.
	Use bool `json:"use"`
	// Result is Decided for the last step only.
	Result Result `json:"result"`
	// Why is for people.
	Why string `json:"why"`
}

// String returns the step as a line of text.
func (s SplitStep) String() string {
	who := s.Layer.String()
	if s.Profile != "" {
		who += " " + s.Profile
	}
	if s.Entry != "" {
		who += " " + s.Entry
	}
	if s.ID != "" {
		who += " " + s.ID
	}
	way := " (no split): "
	if s.Use {
		way = " (split): "
	}
	return who + way + s.Result.String() + ": " + s.Why
}

// ExplainSplit returns every split entry that is tried for a connection, in
// order, with the reason why it matches or does not. The last step is what
// Split returns. It is made for people and takes its time.
func (t *Set) ExplainSplit(s *conn.Snapshot) []SplitStep {
	if t == nil {
		return []SplitStep{{Layer: LayerDefault, Result: Decided, Why: whyNoRules}}
	}
	p, profile := t.splitPolicyOf(s.Process)
	switch {
	case s.Direction != packet.Outbound:
		return []SplitStep{{Layer: LayerDefault, Result: Decided, Why: whyInbound}}
	case !p.use:
		return []SplitStep{p.useStep(profile)}
	}
	var q query
	t.prepareSplit(&q, s)
	var steps []SplitStep
	for _, l := range p.exclude {
		var done bool
		if steps, done = t.explainSplitList(steps, &q, s, l, SplitStep{}); done {
			return steps
		}
	}
	last := p.useStep(profile)
	if p.include != nil {
		var done bool
		steps, done = t.explainSplitList(steps, &q, s, p.include, SplitStep{Use: true})
		if !done {
			// no entry of the list matches: whose it is, is told by any of them
			info := &p.include.rules[0].info
			return append(steps, SplitStep{Layer: info.Layer, Profile: info.Profile, Result: Decided, Why: p.decide(&q).Why})
		}
		last, steps = steps[len(steps)-1], steps[:len(steps)-1]
	}
	last.Why += "; " + p.leaves()
	return append(steps, last)
}

// useStep is for a connection that no entry decides about.
func (p *splitPolicy) useStep(profile string) SplitStep {
	step := SplitStep{Layer: p.useBy, Use: p.use, Result: Decided, Why: p.whyUse}
	if p.useBy == LayerApp {
		step.Profile = profile
	}
	return step
}

// leaves says which interface a connection leaves by and whose word that is.
func (p *splitPolicy) leaves() string {
	text := "it leaves by the best physical default"
	if p.iface != "" {
		text = "it leaves by " + strconv.Quote(p.iface)
	}
	switch p.ifaceBy {
	case LayerApp:
		return text + ", as the profile says"
	case LayerGlobal:
		return text + ", as the global part says"
	case LayerDefault:
	}
	return text + ", as no interface is named"
}

// explainSplitList adds the entries that are tried; like has what their steps
// have in common.
func (t *Set) explainSplitList(steps []SplitStep, q *query, s *conn.Snapshot, l *list, like SplitStep) (all []SplitStep, done bool) {
	if l == nil {
		return steps, false
	}
	tried, done := t.explainList(nil, q, s, l.rules)
	for i, x := range tried {
		step := like
		step.Layer, step.Profile, step.Result, step.Why = x.Layer, x.Profile, x.Result, x.Why
		step.Entry, step.ID = x.Rule, l.rules[i].src.ID
		steps = append(steps, step)
	}
	return steps, done
}
