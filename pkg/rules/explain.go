package rules

import (
	"strconv"
	"strings"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
)

// Result is what became of a step of an explanation.
type Result uint8

// The results. There is no result 0.
const (
	// NoMatch is a rule with a condition that does not hold.
	NoMatch Result = 1
	// MaybeMatch is a rule that would match for the right domain, but none is
	// known.
	MaybeMatch Result = 2
	// Decided is the rule or the default that decides; it is the last step.
	Decided Result = 3

	numResults = 4
)

// String returns "no match", "maybe" or "decided".
func (r Result) String() string {
	if r == 0 || r >= numResults {
		return "Result(" + strconv.Itoa(int(r)) + ")"
	}
	return [numResults]string{NoMatch: "no match", MaybeMatch: "maybe", Decided: "decided"}[r]
}

// MarshalText returns String.
func (r Result) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Step is one rule, or the default, that Explain tried.
type Step struct {
	Layer Layer `json:"layer"`
	// Profile is the id of the app's profile in the app layer.
	Profile string `json:"profile,omitempty"`
	// Rule is the id of the rule, "" for the default.
	Rule   string `json:"rule,omitempty"`
	Action Action `json:"action"`
	Result Result `json:"result"`
	// Why is for people.
	Why string `json:"why"`
}

// String returns the step as a line of text.
func (s Step) String() string {
	who := s.Layer.String()
	if s.Profile != "" {
		who += " " + s.Profile
	}
	if s.Rule != "" {
		who += " rule " + s.Rule
	}
	return who + " (" + s.Action.String() + "): " + s.Result.String() + ": " + s.Why
}

// Explain returns every rule that is tried for a connection, in order, with the
// reason why it matches or does not. The last step is what Decide returns.
// Nothing is counted. It is made for people and takes its time.
func (t *Set) Explain(s *conn.Snapshot) []Step {
	if t == nil {
		o := noRules(s.Direction)
		return []Step{{Action: o.Action, Result: Decided, Why: o.Decision.Reason.Text}}
	}
	var q query
	t.prepare(&q, s)
	var steps []Step
	p := t.profileOf(&q)
	if p != nil {
		var done bool
		if steps, done = t.explainList(steps, &q, s, p.list.rules); done {
			return steps
		}
	}
	steps, done := t.explainList(steps, &q, s, t.global.rules)
	if done {
		return steps
	}
	o := t.outcome(&q, p, nil)
	return append(steps, Step{
		Layer: LayerDefault, Profile: o.Profile, Action: o.Action, Result: Decided, Why: o.Decision.Reason.Text,
	})
}

func (t *Set) explainList(steps []Step, q *query, s *conn.Snapshot, rules []*rule) (all []Step, done bool) {
	for _, r := range rules {
		match, cond := r.check(q)
		step := Step{Layer: r.info.Layer, Profile: r.info.Profile, Rule: r.info.ID, Action: r.info.Action}
		switch match {
		case no:
			step.Result, step.Why = NoMatch, t.whyNot(r, q, s, cond)
		case maybe:
			step.Result = MaybeMatch
			step.Why = "the domain is not known; the rule is for " + strings.Join(r.src.Remote, ", ")
		case yes:
			step.Result, step.Why = Decided, t.whyYes(r, q, s)
		}
		steps = append(steps, step)
		if match == yes {
			return steps, true
		}
	}
	return steps, false
}

// whyNot describes the condition that does not hold.
func (t *Set) whyNot(r *rule, q *query, s *conn.Snapshot, c condition) string {
	local, far := s.Tuple.Local, s.Tuple.Remote
	switch c {
	case condDirection:
		return "direction is " + s.Direction.String() + ", not " + r.direction.String()
	case condProtocol:
		return "protocol is " + s.Tuple.Protocol.String() + ", not " + r.protocolText()
	case condICMP:
		return "ICMP type is " + strconv.Itoa(int(s.ICMPType)) + ", not " + strings.Join(r.src.ICMP, ", ")
	case condRemotePort:
		return "remote port is " + strconv.Itoa(int(far.Port())) + ", not in " + r.src.RemotePorts
	case condLocalPort:
		return "local port is " + strconv.Itoa(int(local.Port())) + ", not in " + r.src.LocalPorts
	case condInterface:
		return "interface is " + t.interfaceText(s.Interface) + ", not " + strings.Join(r.src.Interfaces, ", ")
	case condApp:
		return t.whyNotApp(r, s.Process)
	case condRemote:
		return "remote is " + remoteText(s, q) + ", not in " + strings.Join(r.src.Remote, ", ")
	case condNone:
	}
	return ""
}

func (r *rule) protocolText() string {
	var names []string
	for p := range 256 {
		if r.protocols.has(uint8(p)) {
			names = append(names, packet.Protocol(p).String())
		}
	}
	return strings.Join(names, ", ")
}

func (t *Set) interfaceText(index uint32) string {
	if index == 0 {
		return "not known"
	}
	if name := t.ifaces.source.name(index); name != "" {
		return name
	}
	return "number " + strconv.FormatUint(uint64(index), 10) + ", whose name is not known"
}

func (t *Set) whyNotApp(r *rule, p *conn.Process) string {
	m := t.apps.matches[r.app]
	if !known(p) {
		return "the process is not known; the rule is for " + string(m.src.appendText(nil))
	}
	value := ""
	field := m.failing(p)
	switch field {
	case "path":
		value = p.Path
	case "script":
		value = p.Script
	case "uid":
		value = strconv.FormatUint(uint64(p.UID), 10)
	case "cgroup":
		value = p.Cgroup
	case "identity":
		value = p.App.ID
	case "unit":
		value = p.App.Unit
	case "args":
		value = strings.Join(p.Args, " ")
	}
	if field == "parent" {
		return "no ancestor of the process matches " + string(m.parent.src.appendText(nil))
	}
	return field + " is " + strconv.Quote(value) + "; the rule is for " + string(m.src.appendText(nil))
}

// remoteText describes who is on the other side.
func remoteText(s *conn.Snapshot, q *query) string {
	text := "not known"
	if a := s.Tuple.Remote.Addr(); a.IsValid() {
		text = a.String()
	}
	for scope := netscope.Scope(0); scope < maxScopes; scope++ {
		if q.scopes.has(scope) {
			text += " (" + scope.String() + ")"
		}
	}
	if s.Domain != "" {
		text += " " + s.Domain
	}
	for _, n := range s.CNAMEs {
		text += ", alias " + n
	}
	return text
}

// whyYes lists the conditions, which all hold.
func (t *Set) whyYes(r *rule, q *query, s *conn.Snapshot) string {
	var parts []string
	add := func(given bool, text string) {
		if given {
			parts = append(parts, text)
		}
	}
	add(r.app >= 0, "app is "+string(r.src.App.appendText(nil)))
	add(r.direction != Both, "direction is "+s.Direction.String())
	add(r.protocols != nil, "protocol is "+s.Tuple.Protocol.String())
	add(r.icmp != nil, "ICMP type "+strconv.Itoa(int(s.ICMPType))+" is in "+strings.Join(r.src.ICMP, ", "))
	add(r.remotePorts != nil, "remote port "+strconv.Itoa(int(s.Tuple.Remote.Port()))+" is in "+r.src.RemotePorts)
	add(r.localPorts != nil, "local port "+strconv.Itoa(int(s.Tuple.Local.Port()))+" is in "+r.src.LocalPorts)
	add(r.interfaces != nil, "interface is in "+strings.Join(r.src.Interfaces, ", "))
	add(r.remote != nil, "remote "+remoteText(s, q)+" is in "+t.remoteEntry(r, q))
	if len(parts) == 0 {
		return "the rule has no conditions"
	}
	return strings.Join(parts, "; ")
}

// remoteEntry returns the first entry of the rule's list that matches.
func (t *Set) remoteEntry(r *rule, q *query) string {
	for _, text := range r.src.Remote {
		if t.lists.bit(text)&q.inLists != 0 {
			return text
		}
		var p remoteParser
		if p.add(text) == nil && p.done().match(q) == yes {
			return text
		}
	}
	return ""
}
