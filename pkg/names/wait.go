package names

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// Wait is Find that waits for a name that is about to come, until ctx is done or for limit at most.
func (t *Table) Wait(ctx context.Context, a netip.Addr, who Asker, limit time.Duration) (Entry, bool) {
	a = plain(a)
	s := t.shardOf(a)
	e, ok := s.find(a, who, time.Now())
	if ok || limit <= 0 || !nameable(a) {
		return e, ok
	}
	over := time.NewTimer(limit)
	defer over.Stop()
	for {
		// first who waits, then the look: what comes in between wakes
		came := s.await(a)
		if e, ok := s.find(a, who, time.Now()); ok {
			s.cancel(a, came)
			return e, true
		}
		select {
		case <-came:
		case <-over.C:
			s.cancel(a, came)
			return Entry{}, false
		case <-ctx.Done():
			s.cancel(a, came)
			return Entry{}, false
		}
	}
}

// await returns a channel that is closed when the address gets a name.
func (s *shard) await(a netip.Addr) chan struct{} {
	c := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting[a] = append(s.waiting[a], c)
	return c
}

func (s *shard) cancel(a netip.Addr, c chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := slices.DeleteFunc(s.waiting[a], func(o chan struct{}) bool { return o == c })
	if len(left) == 0 {
		delete(s.waiting, a)
		return
	}
	s.waiting[a] = left
}
