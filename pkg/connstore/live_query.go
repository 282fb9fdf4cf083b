package connstore

import (
	"slices"

	"github.com/weirfw/weir/pkg/conn"
)

// found is a connection that a query selects.
type found struct {
	// c is nil for one that has ended.
	c *conn.Conn
	s *conn.Snapshot
}

func (f *found) row(ref int) Row {
	s := f.s
	r := Row{ID: s.ID, Ref: ref, Verdict: s.Decision.Verdict, Started: Stamp(s.Started)}
	if f.c == nil {
		r.LastSeen, r.ReceivedBytes, r.SentBytes = Stamp(s.LastSeen), s.ReceivedBytes, s.SentBytes
		return r
	}
	r.LastSeen = Stamp(f.c.LastSeen())
	r.ReceivedBytes, r.SentBytes = f.c.Usage()
	if s.Live() {
		r.ReceivedRate, r.SentRate = f.c.Rates()
	}
	return r
}

func (f *found) snapshot() conn.Snapshot {
	if f.c == nil {
		return *f.s
	}
	return f.c.WithFigures(f.s)
}

// Query answers q. A connection that ends meanwhile is in the answer once. What Validate would refuse counts as its zero value.
func (l *Live) Query(q Query) Page {
	t := NewTally(&q)
	all := l.collect(newMatcher(&q))
	for i := range all {
		r, group := all[i].row(i), 0
		if q.GroupBy != NoField {
			group = t.Group(q.GroupBy.Of(all[i].s))
		}
		t.Add(&r, group)
	}
	rows, p := t.Page()
	for _, r := range rows {
		p.Connections = append(p.Connections, all[r.Ref].snapshot())
	}
	return p
}

// collect returns what q selects, in no order.
func (l *Live) collect(q *matcher) (all []found) {
	if q.Kind != OnlyQueries {
		all = l.collectConns(q)
	}
	if q.Kind != OnlyConnections {
		all = l.queries.collect(q, all)
	}
	return all
}

func (l *Live) collectConns(q *matcher) []found {
	var all []found
	l.endedMu.Lock()
	before := l.total
	l.endedMu.Unlock()
	if q.Life != OnlyEnded {
		l.Range(func(c *conn.Conn) bool {
			if s := c.State(); q.matches(s) {
				all = append(all, found{c, s})
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
		for _, s := range l.ended {
			ended[s.ID] = true
		}
		all = slices.DeleteFunc(all, func(f found) bool { return ended[f.s.ID] })
	}
	for _, s := range l.ended {
		if q.matches(s) {
			all = append(all, found{s: s})
		}
	}
	return all
}
