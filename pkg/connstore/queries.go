package connstore

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/conn"
)

// queryRing keeps the records of the newest DNS queries.
type queryRing struct {
	mu sync.Mutex // guards what follows
	// ring has them by ID; once it is full, next is the oldest.
	ring []*conn.Snapshot
	next int
}

// PutQuery stores the record of a DNS query, whose Query is not nil. With ID 0 it is a new one and gets an ID, which is returned, also where none are kept; else
// it takes the place of the record that has its ID, or of none if that one is no longer kept. The query is over when Ended is set. The
// caller must not change s, or what it points to, afterwards.
func (l *Live) PutQuery(s conn.Snapshot) conn.ID {
	l.queries.put(&s, l)
	if all := l.onQuery.Load(); all != nil {
		for _, f := range *all {
			f(&s)
		}
	}
	if l.cfg.QueryOver != nil && !s.Live() {
		l.cfg.QueryOver(s)
	}
	return s.ID
}

func (r *queryRing) put(s *conn.Snapshot, l *Live) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.ID != 0 {
		r.replaceLocked(s)
		return
	}
	s.ID = conn.ID(l.lastID.Add(1)) // under the lock, so that the ring is in the order of the IDs
	if l.cfg.MaxQueries < 0 {
		return
	}
	if len(r.ring) < l.cfg.MaxQueries {
		r.ring = append(r.ring, s)
		return
	}
	r.ring[r.next] = s
	r.next = (r.next + 1) % len(r.ring)
}

func (r *queryRing) replaceLocked(s *conn.Snapshot) {
	for _, part := range [][]*conn.Snapshot{r.ring[r.next:], r.ring[:r.next]} {
		i, found := slices.BinarySearchFunc(part, s.ID, func(o *conn.Snapshot, id conn.ID) int { return cmp.Compare(o.ID, id) })
		if found {
			part[i] = s
			return
		}
	}
}

// collect appends what q selects.
func (r *queryRing) collect(q *matcher, all []found) []found {
	r.mu.Lock()
	list := slices.Clone(r.ring)
	r.mu.Unlock()
	for _, s := range list {
		if q.matches(s) {
			all = append(all, found{s: s})
		}
	}
	return all
}

// prune forgets queries that began before that time.
func (r *queryRing) prune(before time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ring) == 0 || !r.ring[r.next%len(r.ring)].Started.Before(before) {
		return
	}
	r.ring = slices.DeleteFunc(slices.Concat(r.ring[r.next:], r.ring[:r.next]), func(s *conn.Snapshot) bool {
		return s.Started.Before(before)
	})
	r.next = 0
}
