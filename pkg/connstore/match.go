package connstore

import (
	"slices"
	"strconv"
	"strings"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
)

// Matches reports whether q selects s.
func (q *Query) Matches(s *conn.Snapshot) bool {
	return q.matchesKind(s) && q.matchesWho(s) && q.matchesRemote(s) &&
		(q.Since.IsZero() || !s.Started.Before(q.Since)) &&
		(q.Until.IsZero() || s.Started.Before(q.Until)) &&
		(q.Text == "" || matchesText(s, q.Text)) &&
		q.matchesExactly(s)
}

// matcher is a Query for many connections: its numbers are a set.
type matcher struct {
	Query

	ids map[conn.ID]struct{}
}

func newMatcher(q *Query) *matcher {
	m := &matcher{Query: *q}
	if len(q.IDs) > 0 {
		m.IDs, m.ids = nil, make(map[conn.ID]struct{}, len(q.IDs))
		for _, id := range q.IDs {
			m.ids[id] = struct{}{}
		}
	}
	return m
}

// matches is Query.Matches.
func (m *matcher) matches(s *conn.Snapshot) bool {
	if m.ids != nil {
		if _, ok := m.ids[s.ID]; !ok {
			return false
		}
	}
	return m.Matches(s)
}

func (q *Query) matchesKind(s *conn.Snapshot) bool {
	return (len(q.IDs) == 0 || slices.Contains(q.IDs, s.ID)) &&
		(len(q.Verdicts) == 0 || slices.Contains(q.Verdicts, s.Decision.Verdict)) &&
		(len(q.Protocols) == 0 || slices.Contains(q.Protocols, s.Tuple.Protocol)) &&
		(q.Rule == "" || q.Rule == s.Decision.Reason.Rule) &&
		!slices.Contains(q.Without, s.Decision.Reason.Code) &&
		(q.Kind == ConnectionsAndQueries || (q.Kind == OnlyQueries) == (s.Query != nil)) &&
		(q.Direction == AnyDirection || (q.Direction == OnlyInbound) == (s.Direction == packet.Inbound)) &&
		(q.Life == LiveAndEnded || (q.Life == OnlyLive) == s.Live())
}

func (q *Query) matchesWho(s *conn.Snapshot) bool {
	if q.PID != 0 && (s.Process == nil || s.Process.PID != q.PID) {
		return false
	}
	return q.App == "" || matchesApp(s.Process, q.App)
}

func matchesApp(p *conn.Process, part string) bool {
	return p != nil && (containsFold(p.Executable(), part) || containsFold(p.Script, part))
}

func (q *Query) matchesRemote(s *conn.Snapshot) bool {
	return (q.Domain == "" || containsFold(s.Domain, q.Domain)) &&
		(!q.Remote.IsValid() || q.Remote.Contains(s.Tuple.Remote.Addr())) &&
		(q.Port == 0 || s.Tuple.Local.Port() == q.Port || s.Tuple.Remote.Port() == q.Port)
}

func matchesText(s *conn.Snapshot, part string) bool {
	return matchesApp(s.Process, part) || containsFold(s.Domain, part) || containsFold(s.Decision.Reason.Rule, part) ||
		slices.ContainsFunc(s.CNAMEs, func(name string) bool { return containsFold(name, part) }) ||
		containsFold(s.Tuple.Remote.Addr().String(), part)
}

func (q *Query) matchesExactly(s *conn.Snapshot) bool {
	for f, value := range q.Exactly {
		if f.Of(s) != value {
			return false
		}
	}
	return true
}

func containsFold(s, part string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(part))
}

// Of returns the value of s in field f, and "" if it is not known.
func (f Field) Of(s *conn.Snapshot) string {
	switch f {
	case ByApp:
		if p := s.Process; p != nil {
			return App(p.Executable(), p.Script)
		}
	case ByDomain:
		return s.Domain
	case ByAddress:
		if a := s.Tuple.Remote.Addr(); a.IsValid() {
			return a.String()
		}
	case ByPort:
		return PortText(s.Tuple.Remote.Port())
	case ByVerdict:
		return s.Decision.Verdict.String()
	case ByProtocol:
		return s.Tuple.Protocol.String()
	case ByDirection:
		return s.Direction.String()
	case ByRule:
		return s.Decision.Reason.Rule
	case ByInterface:
		if s.SplitTun != nil {
			return s.SplitTun.Interface
		}
	case NoField:
	}
	return ""
}

// App returns what ByApp takes for the app of a process with these files.
func App(path, script string) string {
	if script != "" {
		return script
	}
	return path
}

// PortText returns what ByPort makes of a port.
func PortText(port uint16) string {
	if port == 0 {
		return ""
	}
	return strconv.Itoa(int(port))
}
