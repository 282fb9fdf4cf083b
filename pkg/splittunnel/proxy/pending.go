package proxy

import "time"

// pendingTable holds requests that were announced and have not arrived. All have the same time to do so, therefore they expire in
// the order in which they were put in, and nothing has to be searched. It is not safe for use by several goroutines.
type pendingTable struct {
	ttl     time.Duration
	limit   int
	expired uint64
	entries map[Request]pendingEntry
	queue   []queued // in order of expiry; those that entries no longer has, or has newer, are skipped
	head    int
	serial  uint64
}

type pendingEntry struct {
	key    pathKey
	until  time.Time
	serial uint64
	// back: it has arrived before, and may again.
	back bool
}

type queued struct {
	request Request
	until   time.Time
	serial  uint64
}

func (t *pendingTable) init(ttl time.Duration, limit int) {
	t.ttl, t.limit, t.entries = ttl, limit, map[Request]pendingEntry{}
}

func (t *pendingTable) len() int { return len(t.entries) }

// put announces r. It returns false if the table is full.
func (t *pendingTable) put(r Request, key pathKey, now time.Time) bool {
	t.expire(now)
	if _, ok := t.entries[r]; !ok && len(t.entries) >= t.limit {
		return false
	}
	t.serial++
	until := now.Add(t.ttl)
	t.entries[r] = pendingEntry{key: key, until: until, serial: t.serial}
	t.queue = append(t.queue, queued{r, until, t.serial})
	return true
}

// putBack is put, unless r was announced again in the meantime: the newer announcement counts.
func (t *pendingTable) putBack(r Request, key pathKey, now time.Time) {
	if _, ok := t.entries[r]; !ok && t.put(r, key, now) {
		e := t.entries[r]
		e.back = true
		t.entries[r] = e
	}
}

// find returns what r was announced with.
func (t *pendingTable) find(r Request, now time.Time) (pathKey, bool) {
	e, ok := t.entries[r]
	if !ok || now.After(e.until) {
		return pathKey{}, false
	}
	return e.key, true
}

func (t *pendingTable) remove(r Request) { delete(t.entries, r) }

// expire removes what is too old, and what is no longer needed of the queue.
func (t *pendingTable) expire(now time.Time) {
	for ; t.head < len(t.queue); t.head++ {
		q := &t.queue[t.head]
		e, ok := t.entries[q.request]
		switch current := ok && e.serial == q.serial; {
		case current && !now.After(q.until):
			t.compact()
			return
		case current:
			delete(t.entries, q.request)
			t.expired++
		}
	}
	t.compact()
}

// compact drops the part of the queue that was read, when it is the larger one. A queue full of claimed announcements behind one
// that waits is rebuilt: it must not grow with the number of connections.
func (t *pendingTable) compact() {
	if t.head*2 >= len(t.queue) {
		t.queue = append(t.queue[:0], t.queue[t.head:]...)
		t.head = 0
	}
	if len(t.queue)-t.head <= 2*t.limit {
		return
	}
	kept := t.queue[:0]
	for _, q := range t.queue[t.head:] {
		if e, ok := t.entries[q.request]; ok && e.serial == q.serial {
			kept = append(kept, q)
		}
	}
	t.queue, t.head = kept, 0
}
