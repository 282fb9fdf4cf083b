package nfq

import (
	"sync"
	"time"
)

// pending holds the packets that wait for a handler's verdict. Whoever takes a
// packet out of it, by claim, expired or close, is the one who decides: that is
// the promise of exactly one verdict.
//
// All packets wait equally long, so a list in order of arrival is a timer wheel
// of one slot: the oldest is always in front, and adding and removing cost a few
// pointers.
type pending struct {
	maxCount, maxBytes int

	mu         sync.Mutex // guards what follows and the links of the packets
	head, tail *held
	count      int
	bytes      int
	closed     bool
}

// add makes p wait. It reports false, and p does not wait, if there is no room
// or close was called.
func (w *pending) add(p *held) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	size := p.size()
	if w.closed || w.count >= w.maxCount || w.bytes+size > w.maxBytes {
		return false
	}
	w.count++
	w.bytes += size
	p.waits, p.prev = true, w.tail
	if w.tail == nil {
		w.head = p
	} else {
		w.tail.next = p
	}
	w.tail = p
	return true
}

// claim takes p out. It reports true to one caller only.
func (w *pending) claim(p *held) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !p.waits {
		return false
	}
	w.removeLocked(p)
	return true
}

// has reports whether p still waits.
func (w *pending) has(p *held) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return p.waits
}

// expired takes out the oldest packet if it came before t, else returns nil.
func (w *pending) expired(t time.Time) *held {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.head
	if p == nil || !p.info.Seen.Before(t) {
		return nil
	}
	w.removeLocked(p)
	return p
}

// close lets nobody wait any more and returns those who did, linked by next, the
// oldest first.
func (w *pending) close() *held {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := w.head
	for p := first; p != nil; p = p.next {
		p.waits, p.prev = false, nil
	}
	w.head, w.tail, w.count, w.bytes, w.closed = nil, nil, 0, 0, true
	return first
}

// waiting returns how many packets wait.
func (w *pending) waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

func (w *pending) removeLocked(p *held) {
	if p.prev == nil {
		w.head = p.next
	} else {
		p.prev.next = p.next
	}
	if p.next == nil {
		w.tail = p.prev
	} else {
		p.next.prev = p.prev
	}
	p.waits, p.prev, p.next = false, nil, nil
	w.count--
	w.bytes -= p.size()
}
