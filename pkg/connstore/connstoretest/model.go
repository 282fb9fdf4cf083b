package connstoretest

import (
	"cmp"
	"slices"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/verdict"
)

// model answers q slowly and obviously. Which connections q selects is up to Matches, which has a table of its own.
func model(all []conn.Snapshot, q connstore.Query) connstore.Page {
	var chosen []conn.Snapshot
	for _, s := range all {
		if q.Matches(&s) {
			chosen = append(chosen, s)
		}
	}
	p := connstore.Page{Sums: sum(chosen), Connections: []conn.Snapshot{}, Series: series(chosen, q.Every)}
	if q.GroupBy != connstore.NoField {
		groups := group(chosen, q.GroupBy)
		slices.SortFunc(groups, func(a, b connstore.Group) int { return compareGroups(q.Order, a, b) })
		p.TotalGroups = len(groups)
		p.Groups = page(groups, q)
		return p
	}
	slices.SortFunc(chosen, func(a, b conn.Snapshot) int { return compare(q.Order, a, b) })
	p.Connections = append(p.Connections, page(chosen, q)...)
	return p
}

func page[T any](all []T, q connstore.Query) []T {
	var out []T
	for i, v := range all {
		if i >= q.Offset && (q.Limit == 0 || len(out) < q.Limit) {
			out = append(out, v)
		}
	}
	return out
}

func sum(all []conn.Snapshot) connstore.Sums {
	s := connstore.Sums{Total: len(all), ByVerdict: map[verdict.Verdict]int{}}
	for _, c := range all {
		s.ByVerdict[c.Decision.Verdict]++
		s.ReceivedBytes += c.ReceivedBytes
		s.SentBytes += c.SentBytes
	}
	return s
}

func compare(o connstore.Order, a, b conn.Snapshot) int {
	newest := cmp.Compare(b.ID, a.ID)
	switch o {
	case connstore.OldestFirst:
		return -newest
	case connstore.MostBytesFirst:
		return cmp.Or(cmp.Compare(b.ReceivedBytes+b.SentBytes, a.ReceivedBytes+a.SentBytes), newest)
	case connstore.LastSeenFirst:
		return cmp.Or(b.LastSeen.Compare(a.LastSeen), newest)
	case connstore.NewestFirst, connstore.MostConnectionsFirst:
	}
	return newest
}

func group(all []conn.Snapshot, by connstore.Field) (groups []connstore.Group) {
	members := map[string][]conn.Snapshot{}
	for _, s := range all {
		members[by.Of(&s)] = append(members[by.Of(&s)], s)
	}
	for key, of := range members {
		g := connstore.Group{Key: key, Sums: sum(of), First: of[0].Started, Last: of[0].Started}
		for _, s := range of {
			if s.Started.Before(g.First) {
				g.First = s.Started
			}
			if s.Started.After(g.Last) {
				g.Last = s.Started
			}
			if s.LastSeen.After(g.LastSeen) {
				g.LastSeen = s.LastSeen
			}
		}
		groups = append(groups, g)
	}
	return groups
}

func compareGroups(o connstore.Order, a, b connstore.Group) int {
	key := cmp.Compare(a.Key, b.Key)
	switch o {
	case connstore.NewestFirst:
		return cmp.Or(b.Last.Compare(a.Last), key)
	case connstore.OldestFirst:
		return cmp.Or(a.First.Compare(b.First), key)
	case connstore.MostBytesFirst:
		return cmp.Or(cmp.Compare(b.ReceivedBytes+b.SentBytes, a.ReceivedBytes+a.SentBytes), key)
	case connstore.LastSeenFirst:
		return cmp.Or(b.LastSeen.Compare(a.LastSeen), key)
	case connstore.MostConnectionsFirst:
		return cmp.Or(cmp.Compare(b.Total, a.Total), key)
	}
	return key
}

func series(all []conn.Snapshot, every time.Duration) (points []connstore.Point) {
	if every == 0 || len(all) == 0 {
		return nil
	}
	step := func(s conn.Snapshot) time.Time {
		n := s.Started.UnixNano()
		return time.Unix(0, n-n%int64(every)).UTC()
	}
	in := map[time.Time][]conn.Snapshot{}
	first, last := step(all[0]), step(all[0])
	for _, s := range all {
		in[step(s)] = append(in[step(s)], s)
		if step(s).Before(first) {
			first = step(s)
		}
		if step(s).After(last) {
			last = step(s)
		}
	}
	for at := first; !at.After(last); at = at.Add(every) {
		points = append(points, connstore.Point{Start: at, Sums: sum(in[at])})
	}
	if len(points) > connstore.MaxPoints {
		points = points[len(points)-connstore.MaxPoints:]
	}
	return points
}
