package netif_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/netif/netiftest"
)

func one(t *testing.T, name string) *netif.Snapshot {
	t.Helper()
	return netiftest.Snapshot(t, []netif.Interface{netiftest.Ether(2, name)})
}

// seen collects the first interface's name of each snapshot that a subscriber saw.
type seen struct {
	mu    sync.Mutex // guards names
	names []string
}

func (s *seen) add(snap *netif.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := "-"
	for i := range snap.All() {
		name = i.Name
	}
	s.names = append(s.names, name)
}

func (s *seen) check(t *testing.T, want ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.names) != len(want) {
		t.Fatalf("calls: got %v; want %v", s.names, want)
	}
	for n := range want {
		if s.names[n] != want[n] {
			t.Fatalf("calls: got %v; want %v", s.names, want)
		}
	}
}

// running runs f until stop is called; synctest fails the test if a goroutine stays.
func running(t *testing.T, f *netif.Feed) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- f.Run(ctx, func() { close(ready) }) }()
	<-ready
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v; want nil", err)
		}
	}
}

func TestFeedSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f netif.Feed
		var early, late, gone seen
		f.Subscribe(early.add)
		undo := f.Subscribe(gone.add)
		undo()
		undo()

		f.Publish(one(t, "a"))
		synctest.Wait()
		early.check(t) // not before Run

		stop := running(t, &f)
		synctest.Wait()
		early.check(t, "a")
		f.Publish(one(t, "a")) // says the same
		f.Publish(one(t, "b"))
		synctest.Wait()
		early.check(t, "a", "b")

		undoLate := f.Subscribe(late.add)
		synctest.Wait()
		undoLate()
		f.Publish(nil)
		synctest.Wait()
		late.check(t, "b")
		early.check(t, "a", "b", "-")
		stop()

		f.Publish(one(t, "c"))
		stop = running(t, &f)
		synctest.Wait()
		early.check(t, "a", "b", "-", "c")
		stop()
		stop = running(t, &f)
		synctest.Wait()
		early.check(t, "a", "b", "-", "c") // nothing new, so no call
		stop()
		gone.check(t)
	})
}

func TestFeedSlowSubscriber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f netif.Feed
		var slow, quick seen
		release := make(chan struct{})
		f.Subscribe(func(s *netif.Snapshot) {
			slow.add(s)
			<-release
		})
		f.Subscribe(quick.add)
		f.Publish(one(t, "a"))
		stop := running(t, &f)
		for _, name := range []string{"b", "c", "d"} {
			synctest.Wait()
			f.Publish(one(t, name)) // must not block
		}
		synctest.Wait()
		quick.check(t, "a", "b", "c", "d")
		slow.check(t, "a")
		close(release)
		synctest.Wait()
		slow.check(t, "a", "d") // the newest, not the next
		stop()
	})
}

func TestFeedUnsubscribeInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f netif.Feed
		var got seen
		var undo func()
		undo = f.Subscribe(func(s *netif.Snapshot) {
			got.add(s)
			undo()
		})
		f.Publish(one(t, "a"))
		stop := running(t, &f)
		synctest.Wait()
		f.Publish(one(t, "b"))
		synctest.Wait()
		got.check(t, "a")
		stop()
	})
}

func TestFeedRunTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f netif.Feed
		stop := running(t, &f)
		if err := f.Run(t.Context(), nil); !errors.Is(err, netif.ErrRunning) {
			t.Errorf("second Run: got %v; want %v", err, netif.ErrRunning)
		}
		stop()
	})
}

func TestFeedWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f netif.Feed
		got := make(chan *netif.Snapshot, 1)
		go func() {
			s, err := f.Wait(t.Context(), nil)
			if err != nil {
				t.Errorf("Wait: %v", err)
			}
			got <- s
		}()
		synctest.Wait()
		a := one(t, "a")
		f.Publish(a)
		if s := <-got; s != a || f.Snapshot() != a {
			t.Errorf("got %v and %v; want the one published", s, f.Snapshot())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if s, err := f.Wait(ctx, a); !errors.Is(err, context.Canceled) || s != nil {
			t.Errorf("Wait with ctx done: got %v, %v; want nil, %v", s, err, context.Canceled)
		}
	})
}

func BenchmarkSnapshot(b *testing.B) {
	var f netif.Feed
	f.Publish(new(netif.Snapshot))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			f.Snapshot()
		}
	})
}
