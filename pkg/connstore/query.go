package connstore

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Query selects connections. A zero field does not restrict; the zero Query
// selects all, newest first.
type Query struct {
	// Verdicts selects connections with one of them.
	Verdicts []verdict.Verdict
	// App is a part of the process's path or script, in any case.
	App string
	// PID selects one process.
	PID int
	// Domain is a part of the domain, in any case.
	Domain string
	// Remote selects remote addresses.
	Remote netip.Prefix
	// Port selects connections with this local or remote port.
	Port uint16
	// Protocols selects connections with one of them.
	Protocols []packet.Protocol
	// Direction selects one direction.
	Direction Direction
	// Life selects live or ended connections.
	Life Life
	// Rule selects connections that this rule decided.
	Rule string
	// Since and Until restrict the start.
	Since, Until time.Time
	// Order of the result; newest first by default.
	Order Order
	// Offset and Limit take a page; Limit 0 is no limit.
	Offset, Limit int
}

// Direction selects connections by direction.
type Direction uint8

// The choices of Query.Direction.
const (
	AnyDirection Direction = iota
	OnlyOutbound
	OnlyInbound
)

// Life selects connections by whether they ended.
type Life uint8

// The choices of Query.Life.
const (
	LiveAndEnded Life = iota
	OnlyLive
	OnlyEnded
)

// Order sorts a result.
type Order uint8

// The choices of Query.Order. Equal ones are in the order of their ids.
const (
	NewestFirst Order = iota
	OldestFirst
	MostBytesFirst
	LastSeenFirst
)

// matches reports whether s is selected.
func (q *Query) matches(s *conn.Snapshot) bool {
	return q.matchesKind(s) && q.matchesWho(s) && q.matchesRemote(s) &&
		(q.Since.IsZero() || !s.Started.Before(q.Since)) &&
		(q.Until.IsZero() || s.Started.Before(q.Until))
}

func (q *Query) matchesKind(s *conn.Snapshot) bool {
	return (len(q.Verdicts) == 0 || slices.Contains(q.Verdicts, s.Decision.Verdict)) &&
		(len(q.Protocols) == 0 || slices.Contains(q.Protocols, s.Tuple.Protocol)) &&
		(q.Rule == "" || q.Rule == s.Decision.Reason.Rule) &&
		(q.Direction == AnyDirection || (q.Direction == OnlyInbound) == (s.Direction == packet.Inbound)) &&
		(q.Life == LiveAndEnded || (q.Life == OnlyLive) == s.Live())
}

func (q *Query) matchesWho(s *conn.Snapshot) bool {
	if q.PID != 0 && (s.Process == nil || s.Process.PID != q.PID) {
		return false
	}
	if q.App == "" {
		return true
	}
	return s.Process != nil && (containsFold(s.Process.Path, q.App) || containsFold(s.Process.Script, q.App))
}

func (q *Query) matchesRemote(s *conn.Snapshot) bool {
	return (q.Domain == "" || containsFold(s.Domain, q.Domain)) &&
		(!q.Remote.IsValid() || q.Remote.Contains(s.Tuple.Remote.Addr())) &&
		(q.Port == 0 || s.Tuple.Local.Port() == q.Port || s.Tuple.Remote.Port() == q.Port)
}

func containsFold(s, part string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(part))
}

// Page is the answer to a Query.
type Page struct {
	// Total is how many connections the query selects, on all pages.
	Total int `json:"total"`
	// ByVerdict counts them.
	ByVerdict map[verdict.Verdict]int `json:"byVerdict"`
	// Connections are those of the page.
	Connections []conn.Snapshot `json:"connections"`
}

// Query answers q. A connection that ends meanwhile is in the answer once.
func (l *Live) Query(q Query) Page {
	all := l.collect(&q)
	p := Page{Total: len(all), ByVerdict: map[verdict.Verdict]int{}, Connections: []conn.Snapshot{}}
	order := make([]*conn.Snapshot, len(all))
	for i := range all {
		p.ByVerdict[all[i].Decision.Verdict]++
		order[i] = &all[i]
	}
	slices.SortFunc(order, q.Order.compare)
	order = order[min(max(q.Offset, 0), len(order)):]
	if q.Limit > 0 {
		order = order[:min(q.Limit, len(order))]
	}
	for _, s := range order {
		p.Connections = append(p.Connections, *s)
	}
	return p
}

// collect returns what q selects, in no order.
func (l *Live) collect(q *Query) []conn.Snapshot {
	var all []conn.Snapshot
	l.endedMu.Lock()
	before := l.total
	l.endedMu.Unlock()
	if q.Life != OnlyEnded {
		l.Range(func(c *conn.Conn) bool {
			if s := c.Snapshot(); q.matches(&s) {
				all = append(all, s)
			}
			return true
		})
	}
	if q.Life == OnlyLive {
		return all
	}
	l.endedMu.Lock()
	defer l.endedMu.Unlock()
	if l.total != before {
		// some may have ended since they were taken for live ones
		ended := make(map[conn.ID]bool, len(l.ended))
		for i := range l.ended {
			ended[l.ended[i].ID] = true
		}
		all = slices.DeleteFunc(all, func(s conn.Snapshot) bool { return ended[s.ID] })
	}
	for i := range l.ended {
		if q.matches(&l.ended[i]) {
			all = append(all, l.ended[i])
		}
	}
	return all
}

func (o Order) compare(a, b *conn.Snapshot) int {
	switch o {
	case OldestFirst:
		return cmp.Compare(a.ID, b.ID)
	case MostBytesFirst:
		return cmp.Or(cmp.Compare(b.ReceivedBytes+b.SentBytes, a.ReceivedBytes+a.SentBytes), cmp.Compare(b.ID, a.ID))
	case LastSeenFirst:
		return cmp.Or(b.LastSeen.Compare(a.LastSeen), cmp.Compare(b.ID, a.ID))
	case NewestFirst:
	}
	return cmp.Compare(b.ID, a.ID)
}
