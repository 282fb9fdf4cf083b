package netif

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// ErrRunning is returned by Run while another Run of the same value is active.
var ErrRunning = errors.New("netif: already running")

// Feed holds the newest snapshot and tells who wants to know. [Watcher] is a Feed with the kernel behind it; use Feed
// itself to supply interfaces from elsewhere. The zero value is ready, and holds an empty snapshot. All methods may be
// called from any goroutine.
type Feed struct {
	current atomic.Pointer[Snapshot]

	mu      sync.Mutex                 // guards what follows; readers of current do not need it
	changed chan struct{}              // closed by the next Publish; nil while nobody waits
	subs    map[*subscription]struct{} // all subscriptions, running or not
	start   func(*subscription)        // starts one; nil unless Run is active
}

type subscription struct {
	fn     func(*Snapshot)
	last   *Snapshot          // what fn saw; only the subscription's goroutine uses it
	cancel context.CancelFunc // guarded by Feed.mu; nil unless Run is active
}

// Snapshot returns the newest snapshot; never nil. It takes no lock.
func (f *Feed) Snapshot() *Snapshot {
	if s := f.current.Load(); s != nil {
		return s
	}
	return new(Snapshot)
}

// Publish makes s the newest snapshot, unless it says the same as the present one; nil means no interfaces. It does not
// wait for subscribers.
func (f *Feed) Publish(s *Snapshot) {
	if s == nil {
		s = new(Snapshot)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.current.Load(); old != nil && old.Equal(s) {
		return
	}
	f.current.Store(s)
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// Wait returns the newest snapshot as soon as it is another one than old; with nil, as soon as there is one. Snapshots
// that were replaced in the meantime are skipped. The only error is ctx's, wrapped.
func (f *Feed) Wait(ctx context.Context, old *Snapshot) (*Snapshot, error) {
	for {
		s, changed := f.peek()
		if s != nil && s != old {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("netif: wait for a change: %w", ctx.Err())
		}
	}
}

// peek returns the newest snapshot and what will be closed when it is no longer the newest. Both are read under the
// lock, so no change falls between them.
func (f *Feed) peek() (*Snapshot, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.current.Load(), f.changed
}

// Subscribe arranges that, while Run is active, fn is called with the present snapshot and then after each change with
// the newest. Calls of one subscription do not overlap and run on a goroutine of their own: a slow fn delays nobody, it
// only misses intermediate snapshots. Run returns after the last call did, so fn must come to an end.
//
// The function returned ends the subscription. It may be called more than once and from fn; it does not wait for a call
// of fn that has begun.
func (f *Feed) Subscribe(fn func(*Snapshot)) (unsubscribe func()) {
	sub := &subscription{fn: fn}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.subs == nil {
		f.subs = make(map[*subscription]struct{})
	}
	f.subs[sub] = struct{}{}
	if f.start != nil {
		f.start(sub)
	}
	return func() { f.unsubscribe(sub) }
}

func (f *Feed) unsubscribe(sub *subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.subs, sub)
	if sub.cancel != nil {
		sub.cancel()
	}
}

// Run calls the subscribers until ctx is done, then waits for their last calls and returns nil. It calls ready, if that
// is not nil, once it is active. It may run again after it returned; while it is active, another call returns
// [ErrRunning].
func (f *Feed) Run(ctx context.Context, ready func()) error {
	var calls sync.WaitGroup
	start := func(sub *subscription) { // f.mu is held
		var subCtx context.Context
		subCtx, sub.cancel = context.WithCancel(ctx)
		calls.Go(func() { f.serve(subCtx, sub) })
	}
	if err := f.begin(start); err != nil {
		return err
	}
	if ready != nil {
		ready()
	}
	<-ctx.Done()
	// Only after this can no new goroutine start, and Wait begin.
	f.end()
	calls.Wait()
	return nil
}

func (f *Feed) begin(start func(*subscription)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.start != nil {
		return ErrRunning
	}
	f.start = start
	for sub := range f.subs {
		start(sub)
	}
	return nil
}

func (f *Feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.start = nil
	for sub := range f.subs {
		sub.cancel() // ctx is done already; this releases what it holds
		sub.cancel = nil
	}
}

func (f *Feed) serve(ctx context.Context, sub *subscription) {
	for {
		s, err := f.Wait(ctx, sub.last)
		if err != nil || ctx.Err() != nil {
			return
		}
		sub.last = s
		sub.fn(s)
	}
}
