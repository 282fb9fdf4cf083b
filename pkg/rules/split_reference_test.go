package rules_test

import (
	"slices"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

// split is the slow twin of Set.Split, without Why.
func (f *reference) split(s *conn.Snapshot) rules.SplitOutcome {
	var out rules.SplitOutcome
	var app rules.Split
	if p := f.profile(s.Process); p != nil {
		app, out.Profile = p.Split, p.ID
	}
	use := app.Use
	if use == nil {
		use = f.cfg.Split.Use
	}
	if s.Direction != packet.Outbound || use == nil || !*use {
		return out
	}
	excluded, perhapsExcluded := f.splitMatch(slices.Concat(app.Exclude, f.cfg.Split.Exclude), s)
	include := app.Include
	if len(include) == 0 {
		include = f.cfg.Split.Include
	}
	included, perhapsIncluded := true, true
	if len(include) != 0 {
		included, perhapsIncluded = f.splitMatch(include, s)
	}
	out.Use = included && !excluded
	switch {
	case excluded || !perhapsIncluded:
	case !included:
		out.NeedsDomain = true
	default:
		out.NeedsDomain = perhapsExcluded
	}
	if out.Use {
		switch {
		case app.Interface != nil:
			out.Interface = *app.Interface
		case f.cfg.Split.Interface != nil:
			out.Interface = *f.cfg.Split.Interface
		}
	}
	return out
}

func (f *reference) splitMatch(list []rules.SplitRule, s *conn.Snapshot) (sure, possible bool) {
	for _, e := range list {
		a, b := f.matches(&rules.Rule{Protocols: e.Protocols, Remote: e.Remote, RemotePorts: e.RemotePorts}, s)
		sure, possible = sure || a, possible || b
	}
	return sure, possible
}

// splitPart makes lists of up to n entries.
func (w *world) splitPart(n int) rules.Split {
	var s rules.Split
	if w.IntN(3) != 0 {
		s.Use = new(w.IntN(4) != 0)
	}
	if w.IntN(2) == 0 {
		s.Interface = new(pick(w, "", "eth0", "wg1", "192.0.2.1"))
	}
	if w.IntN(2) == 0 {
		s.Include = w.splitRules(w.IntN(n + 1))
	}
	if w.IntN(2) == 0 {
		s.Exclude = w.splitRules(w.IntN(n + 1))
	}
	return s
}

func (w *world) splitRules(n int) []rules.SplitRule {
	out := make([]rules.SplitRule, 0, n)
	for range n {
		out = append(out, w.splitRule())
	}
	return out
}

func (w *world) splitRule() rules.SplitRule {
	var r rules.SplitRule
	switch w.IntN(3) {
	case 0:
		r.Protocols = some(w, func() packet.Protocol { return pick(w, packet.TCP, packet.UDP, packet.ICMP, packet.ICMPv6) })
	case 1:
		r.RemotePorts = w.ports()
		if w.IntN(2) == 0 {
			r.Protocols = []packet.Protocol{pick(w, packet.TCP, packet.UDP)}
		}
	}
	if w.chance() || r.RemotePorts == "" && len(r.Protocols) == 0 {
		r.Remote = some(w, w.remote)
	}
	return r
}
