package nameserver

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// maxShards is a power of two; shardBytes is the least that is worth a shard of its own.
const (
	maxShards  = 64
	shardBytes = 1 << 20
)

// cache keeps answers, the least recently used of which go first. It is bounded by what its entries weigh.
type cache struct {
	seed   maphash.Seed
	shards []shard
	gen    atomic.Uint64
}

type shard struct {
	mu    sync.Mutex // guards all below
	gen   uint64
	m     map[string]*entry
	first *entry // used last
	last  *entry
	bytes int64
	most  int64
}

// newCache returns a cache for so many bytes; nothing is kept if that is negative.
func newCache(bytes int64) *cache {
	n := 1
	for n < maxShards && int64(2*n)*shardBytes <= bytes {
		n *= 2
	}
	c := &cache{seed: maphash.MakeSeed(), shards: make([]shard, n)}
	for i := range c.shards {
		c.shards[i].m = map[string]*entry{}
		c.shards[i].most = bytes / int64(n)
	}
	return c
}

func (c *cache) shard(key []byte) *shard {
	return &c.shards[maphash.Bytes(c.seed, key)&uint64(len(c.shards)-1)]
}

// get returns the entry of a key, nil if there is none.
func (c *cache) get(key []byte) *entry {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.m[string(key)]
	if e != nil && e != s.first {
		s.unlink(e)
		s.push(e)
	}
	return e
}

// put keeps an entry, unless the cache was flushed since generation gen.
func (c *cache) put(e *entry, gen uint64) {
	e.cost = e.weigh()
	s := c.shard([]byte(e.key))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen != gen || e.cost > s.most {
		return
	}
	if old := s.m[e.key]; old != nil {
		s.drop(old)
	}
	s.m[e.key] = e
	s.push(e)
	s.bytes += e.cost
	for s.bytes > s.most {
		s.drop(s.last)
	}
}

// flush forgets the entries that which tells; nil is all of them, and whatever is being asked for now.
func (c *cache) flush(which func(*entry) bool) (n int) {
	if which == nil {
		c.gen.Add(1)
	}
	for i := range c.shards {
		n += c.shards[i].flush(which)
	}
	return n
}

func (s *shard) flush(which func(*entry) bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if which == nil {
		s.gen++
	}
	for e := s.first; e != nil; {
		next := e.next
		if which == nil || which(e) {
			s.drop(e)
			n++
		}
		e = next
	}
	return n
}

// entries returns what is kept, in no order.
func (c *cache) entries() []*entry {
	var all []*entry
	for i := range c.shards {
		all = c.shards[i].appendTo(all)
	}
	return all
}

func (s *shard) appendTo(all []*entry) []*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.first; e != nil; e = e.next {
		all = append(all, e)
	}
	return all
}

// size returns the number of entries and what they weigh.
func (c *cache) size() (n int, bytes int64) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += len(s.m)
		bytes += s.bytes
		s.mu.Unlock()
	}
	return n, bytes
}

// The methods below are called with mu held.

func (s *shard) push(e *entry) {
	e.prev, e.next = nil, s.first
	if s.first != nil {
		s.first.prev = e
	} else {
		s.last = e
	}
	s.first = e
}

func (s *shard) unlink(e *entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		s.first = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		s.last = e.prev
	}
	e.prev, e.next = nil, nil
}

func (s *shard) drop(e *entry) {
	s.unlink(e)
	delete(s.m, e.key)
	s.bytes -= e.cost
}
