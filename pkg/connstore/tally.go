package connstore

import (
	"cmp"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/verdict"
)

// Row is what of a connection matters to order, sums and series.
type Row struct {
	ID conn.ID
	// Ref is for the store: where it finds the rest of the connection.
	Ref     int
	Verdict verdict.Verdict
	// Started and LastSeen are in nanoseconds since 1970, 0 if unknown.
	Started, LastSeen        int64
	ReceivedBytes, SentBytes uint64
	// ReceivedRate and SentRate are in bytes a second, 0 of what has ended.
	ReceivedRate, SentRate uint64
}

// Tally makes the answer to a query out of the rows that it selects. It is what stores have in common, and only matters to somebody
// who writes another one. It is for one goroutine.
type Tally struct {
	query Query
	sums  sums
	rows  top[Row]
	room  int
	// groups are in parts, so that they stay where they are when there are more
	groups  []*[groupsPerPart]group
	nGroups int
	byKey   map[string]int
	keyOf   func(conn.ID) string
	series  map[int64]*sums
}

const groupsPerPart = 1024

// sums take little room: there can be as many as there are groups.
type sums struct {
	n              [verdict.NumVerdicts]uint32
	total          uint32
	received, sent uint64
	// receivedRate and sentRate are in bytes a second
	receivedRate, sentRate uint64
}

type group struct {
	key string
	// of is a connection that tells the key, while that is not known; 0 if it is.
	of conn.ID
	sums
	first, last, seen int64
}

// NewTally returns a tally for q, without a row.
func NewTally(q *Query) *Tally {
	t := &Tally{query: *q, byKey: map[string]int{}}
	if t.query.Offset < 0 {
		t.query.Offset = 0
	}
	if q.Limit > 0 && t.query.Offset+q.Limit > 0 { // or there are too many to count
		t.room = t.query.Offset + q.Limit
	}
	t.rows = top[Row]{room: t.room, compare: q.Order.compare}
	if q.Every > 0 {
		t.series = map[int64]*sums{}
	}
	return t
}

// Group returns the number of the group with that key.
func (t *Tally) Group(key string) int {
	n, ok := t.byKey[key]
	if !ok {
		n = t.newGroup(group{key: key})
		t.byKey[key] = n
	}
	return n
}

// NewGroup is Group for a key that has no group yet, of a connection that has it: it saves looking for the group, and for most groups
// making a key of text, which only those on the page need. GroupKeys comes first.
func (t *Tally) NewGroup(of conn.ID) int { return t.newGroup(group{of: of}) }

// GroupKeys says how the keys of NewGroup's groups are made. Page calls it.
func (t *Tally) GroupKeys(of func(conn.ID) string) { t.keyOf = of }

func (t *Tally) newGroup(g group) int {
	n := t.nGroups
	if n%groupsPerPart == 0 {
		t.groups = append(t.groups, new([groupsPerPart]group))
	}
	*t.group(n) = g
	t.nGroups++
	return n
}

func (t *Tally) group(n int) *group { return &t.groups[n/groupsPerPart][n%groupsPerPart] }

// key returns g's key.
func (t *Tally) key(g *group) string {
	if g.of != 0 {
		g.key, g.of = t.keyOf(g.of), 0
	}
	return g.key
}

// Add adds a row that the query selects. group is its number by Group, and does not matter if the query does not ask for groups.
func (t *Tally) Add(r *Row, group int) {
	t.sums.add(r)
	if t.series != nil {
		step := floorDiv(r.Started, int64(t.query.Every))
		s := t.series[step]
		if s == nil {
			s = &sums{}
			t.series[step] = s
		}
		s.add(r)
	}
	if t.query.GroupBy == NoField {
		t.rows.add(r)
		return
	}
	g := t.group(group)
	if g.total == 0 || r.Started < g.first {
		g.first = r.Started
	}
	if g.total == 0 || r.Started > g.last {
		g.last = r.Started
	}
	g.seen = max(g.seen, r.LastSeen)
	g.add(r)
}

func (s *sums) add(r *Row) {
	if r.Verdict.Valid() {
		s.n[r.Verdict]++
	}
	s.total++
	s.received += r.ReceivedBytes
	s.sent += r.SentBytes
	s.receivedRate += r.ReceivedRate
	s.sentRate += r.SentRate
}

// Page returns the rows of the page, in order, and the rest of the answer, whose Connections are for the store to append. It ends the
// tally.
func (t *Tally) Page() (rows []Row, p Page) {
	p = Page{Sums: t.sums.public(), Connections: []conn.Snapshot{}, Series: t.points()}
	if t.query.GroupBy != NoField {
		p.TotalGroups = t.nGroups
		p.Groups = t.pageOfGroups()
		return nil, p
	}
	return cut(t.rows.sorted(), &t.query), p
}

// cut takes the page out of what is in order.
func cut[T any](all []T, q *Query) []T {
	all = all[min(q.Offset, len(all)):]
	if q.Limit > 0 {
		all = all[:min(q.Limit, len(all))]
	}
	return all
}

func (t *Tally) pageOfGroups() []Group {
	first := top[group]{room: t.room, compare: t.compareGroups}
	for i := range t.nGroups {
		first.add(t.group(i))
	}
	page := []Group{}
	for _, g := range cut(first.sorted(), &t.query) {
		page = append(page, Group{Key: t.key(&g), Sums: g.public(), First: moment(g.first), Last: moment(g.last), LastSeen: moment(g.seen)})
	}
	return page
}

func (t *Tally) points() []Point {
	if len(t.series) == 0 {
		return nil
	}
	var first, last int64
	begun := false
	for step := range t.series {
		if !begun || step < first {
			first = step
		}
		if !begun || step > last {
			last = step
		}
		begun = true
	}
	first = max(first, last-MaxPoints+1)
	all := make([]Point, 0, last-first+1)
	for step := first; step <= last; step++ {
		s := t.series[step]
		if s == nil {
			s = &sums{}
		}
		all = append(all, Point{Start: time.Unix(0, step*int64(t.query.Every)).UTC(), Sums: s.public()})
	}
	return all
}

func (s *sums) public() Sums {
	out := Sums{
		Total: int(s.total), ByVerdict: map[verdict.Verdict]int{}, ReceivedBytes: s.received, SentBytes: s.sent,
		ReceivedRate: s.receivedRate, SentRate: s.sentRate,
	}
	for v, n := range s.n {
		if n > 0 {
			out.ByVerdict[verdict.Verdict(v)] = int(n)
		}
	}
	return out
}

func (o Order) compare(a, b *Row) int {
	switch o {
	case OldestFirst:
		return cmp.Compare(a.ID, b.ID)
	case MostBytesFirst:
		return cmp.Or(cmp.Compare(b.ReceivedBytes+b.SentBytes, a.ReceivedBytes+a.SentBytes), cmp.Compare(b.ID, a.ID))
	case LastSeenFirst:
		return cmp.Or(cmp.Compare(b.LastSeen, a.LastSeen), cmp.Compare(b.ID, a.ID))
	case NewestFirst, MostConnectionsFirst:
	}
	return cmp.Compare(b.ID, a.ID)
}

func (t *Tally) compareGroups(a, b *group) int {
	first := 0
	switch t.query.Order {
	case NewestFirst:
		first = cmp.Compare(b.last, a.last)
	case OldestFirst:
		first = cmp.Compare(a.first, b.first)
	case MostBytesFirst:
		first = cmp.Compare(b.received+b.sent, a.received+a.sent)
	case LastSeenFirst:
		first = cmp.Compare(b.seen, a.seen)
	case MostConnectionsFirst:
		first = cmp.Compare(b.total, a.total)
	}
	if first != 0 {
		return first
	}
	return cmp.Compare(t.key(a), t.key(b))
}

// Stamp returns t as a Row has it.
func Stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// moment is the other way round.
func moment(stamp int64) time.Time {
	if stamp == 0 {
		return time.Time{}
	}
	return time.Unix(0, stamp).UTC()
}

func floorDiv(n, by int64) int64 {
	q := n / by
	if n%by < 0 {
		q--
	}
	return q
}
