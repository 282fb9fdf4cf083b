package names

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// numShards is a power of two.
const numShards = 64

// shard is a part of a Table.
type shard struct {
	mu    sync.RWMutex // guards what follows
	limit int
	addrs map[netip.Addr]*record
	// ring has the records of addrs; hand is where the search for the next one to go begins.
	ring []*record
	hand int
	// waiting has a channel for each who waits for a name of an address, closed when one comes.
	waiting map[netip.Addr][]chan struct{}
}

// record is an address with its names.
type record struct {
	addr netip.Addr
	// used is set since somebody asked.
	used atomic.Bool
	// names are the latest first. Nobody writes to the slice.
	names atomic.Pointer[[]Entry]
}

func (s *shard) init(limit int) {
	s.limit = limit
	s.addrs = make(map[netip.Addr]*record)
	s.waiting = make(map[netip.Addr][]chan struct{})
}

// shardOf spreads addresses by their last bytes, in which neighbours differ.
func (t *Table) shardOf(a netip.Addr) *shard {
	b := a.As16()
	const prime = 0x9e3779b1
	h := (uint32(b[15]) | uint32(b[14])<<8 | uint32(b[13])<<16 | uint32(b[7])<<24) * prime
	return &t.shards[h>>26]
}

func (s *shard) get(a netip.Addr) *record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.addrs[a]
}

func (s *shard) records() []*record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.ring)
}

func (s *shard) all(a netip.Addr) []Entry {
	r := s.get(a)
	if r == nil {
		return nil
	}
	return *r.names.Load()
}

// find prefers what who asked to what nobody in particular did.
func (s *shard) find(a netip.Addr, who Asker, now time.Time) (found Entry, ok bool) {
	r := s.get(a)
	if r == nil {
		return Entry{}, false
	}
	if !r.used.Load() { // a store costs more than a load on a shared cache line
		r.used.Store(true)
	}
	names := *r.names.Load()
	for i := range names {
		switch e := &names[i]; {
		case !e.holds(now):
		case e.Asker == who:
			return *e, true
		case e.Asker == Asker{} && !ok:
			found, ok = *e, true
		}
	}
	return found, ok
}

// add puts e in front of the names of an address.
func (s *shard) add(a netip.Addr, e Entry, maxNames int) {
	s.mu.Lock()
	r := s.addrs[a]
	if r == nil {
		r = s.place(a)
	} else {
		r.used.Store(true)
	}
	old := r.names.Load()
	names := make([]Entry, 1, min(len(*old)+1, maxNames))
	names[0] = e
	for _, o := range *old {
		if len(names) == maxNames {
			break
		}
		if o.holds(e.Seen) && (o.Domain != e.Domain || o.Asker != e.Asker) {
			names = append(names, o)
		}
	}
	r.names.Store(&names)
	waiting := s.waiting[a]
	delete(s.waiting, a)
	s.mu.Unlock()
	for _, c := range waiting {
		close(c)
	}
}

// place makes a record for an address, in the place of another one if there is no room. The caller holds mu.
func (s *shard) place(a netip.Addr) *record {
	r := &record{addr: a}
	r.names.Store(&[]Entry{})
	s.addrs[a] = r
	if len(s.ring) < s.limit {
		s.ring = append(s.ring, r)
		return r
	}
	for s.ring[s.hand].used.Swap(false) {
		s.hand = (s.hand + 1) % len(s.ring)
	}
	delete(s.addrs, s.ring[s.hand].addr)
	s.ring[s.hand] = r
	s.hand = (s.hand + 1) % len(s.ring)
	return r
}
