package netif

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errTest = errors.New("test")

// fakeMonitor is a kernel whose state is the number of readings that it allowed.
type fakeMonitor struct {
	events chan error // what receive returns
	closed chan struct{}

	mu    sync.Mutex // guards what follows
	reads []time.Time
	mtu   int // the state
	err   error
}

func newFakeMonitor() *fakeMonitor {
	return &fakeMonitor{events: make(chan error), closed: make(chan struct{})}
}

func (m *fakeMonitor) receive() error {
	select {
	case err := <-m.events:
		return err
	case <-m.closed:
		return net.ErrClosed
	}
}

func (m *fakeMonitor) close() error {
	close(m.closed)
	return nil
}

func (m *fakeMonitor) read(context.Context) (*Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads = append(m.reads, time.Now())
	if m.err != nil {
		return nil, m.err
	}
	return NewSnapshot([]Interface{{Index: 1, Name: "eth0", MTU: m.mtu}}, nil)
}

func (m *fakeMonitor) set(mtu int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mtu, m.err = mtu, err
}

func (m *fakeMonitor) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.reads)
}

// watching is a Watcher that runs on a fake in a synctest bubble, which fails the test if a goroutine stays.
type watching struct {
	*Watcher
	mon    *fakeMonitor
	done   chan error
	cancel context.CancelFunc
}

func watch(t *testing.T, cfg Config) *watching {
	t.Helper()
	mon := newFakeMonitor()
	w := &watching{
		Watcher: newWatcher(cfg, func() (monitor, error) { return mon, nil }),
		mon:     mon,
		done:    make(chan error, 1),
	}
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(t.Context())
	ready := make(chan struct{})
	go func() { w.done <- w.Run(ctx, func() { close(ready) }) }()
	<-ready
	return w
}

func (w *watching) stop(t *testing.T) {
	t.Helper()
	w.cancel()
	if err := <-w.done; err != nil {
		t.Errorf("Run: got %v; want nil", err)
	}
}

func (w *watching) mtu() int {
	i, _ := w.Snapshot().ByIndex(1)
	return i.MTU
}

func TestWatcherPublishesInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, Config{Debounce: maxDebounce})
		time.Sleep(time.Second)
		start := time.Now()
		w.mon.set(1400, nil)
		w.mon.events <- nil
		old := w.Snapshot()
		if _, err := w.Wait(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 100*time.Millisecond || w.mtu() != 1400 {
			t.Errorf("got MTU %d after %v; want 1400 within 100 ms", w.mtu(), took)
		}
		w.stop(t)
	})
}

// A storm of events must neither postpone the reading nor cause one for each event.
func TestWatcherStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, Config{})
		time.Sleep(time.Second)
		before, start := w.mon.count(), time.Now()
		for n := range 1000 {
			w.mon.set(n, nil)
			w.mon.events <- nil
			time.Sleep(time.Millisecond)
			if n > 100 && w.mtu() < n-100 {
				t.Fatalf("event %d: the snapshot is from event %d", n, w.mtu())
			}
		}
		reads := w.mon.count() - before
		if most := int(time.Since(start)/minGap) + 2; reads > most {
			t.Errorf("got %d readings; want at most %d", reads, most)
		}
		time.Sleep(time.Second)
		if w.mtu() != 999 {
			t.Errorf("after the storm: got state %d; want 999", w.mtu())
		}
		w.stop(t)
	})
}

func TestWatcherPollsAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, Config{Poll: 10 * time.Second})
		w.mon.set(1, nil) // no event
		time.Sleep(11 * time.Second)
		if w.mtu() != 1 {
			t.Errorf("after Poll: got %d; want 1", w.mtu())
		}
		w.mon.set(2, nil)
		w.mon.events <- errLost
		time.Sleep(100 * time.Millisecond)
		if w.mtu() != 2 {
			t.Errorf("after lost events: got %d; want 2", w.mtu())
		}
		w.mon.set(3, errTest)
		w.mon.events <- nil
		time.Sleep(500 * time.Millisecond)
		if w.mtu() != 2 {
			t.Errorf("while readings fail: got %d; want the last good state 2", w.mtu())
		}
		w.mon.set(3, nil)
		time.Sleep(time.Second)
		if w.mtu() != 3 {
			t.Errorf("after failed readings: got %d; want 3", w.mtu())
		}
		w.stop(t)
	})
}

func TestWatcherGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, Config{})
		before := w.mon.count()
		w.mon.set(0, errTest)
		w.mon.events <- nil
		if err := <-w.done; !errors.Is(err, errTest) {
			t.Errorf("Run: got %v; want %v", err, errTest)
		}
		if got := w.mon.count() - before; got != maxFailures {
			t.Errorf("readings: got %d; want %d", got, maxFailures)
		}
		w.cancel()
	})
}

func TestWatcherReceiveFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, Config{})
		w.mon.events <- errTest
		if err := <-w.done; !errors.Is(err, errTest) {
			t.Errorf("Run: got %v; want %v", err, errTest)
		}
		w.cancel()
	})
}

func TestWatcherStartFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mon := newFakeMonitor()
		mon.err = errTest
		w := newWatcher(Config{}, func() (monitor, error) { return mon, nil })
		if err := w.Run(t.Context(), func() { t.Error("ready was called") }); !errors.Is(err, errTest) {
			t.Errorf("reading fails: got %v; want %v", err, errTest)
		}
		w = newWatcher(Config{}, func() (monitor, error) { return nil, errTest })
		if err := w.Run(t.Context(), nil); !errors.Is(err, errTest) {
			t.Errorf("opening fails: got %v; want %v", err, errTest)
		}
	})
}

func TestWatcherRunTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, Config{})
		if err := w.Run(t.Context(), nil); !errors.Is(err, ErrRunning) {
			t.Errorf("while running: got %v; want %v", err, ErrRunning)
		}
		w.stop(t)
		w.mon.closed = make(chan struct{}) // the kernel opens a new one each time
		ctx, cancel := context.WithCancel(t.Context())
		if err := w.Run(ctx, cancel); err != nil {
			t.Errorf("after the first ended: got %v; want nil", err)
		}
	})
}

func TestConfig(t *testing.T) {
	for _, cfg := range []Config{
		{Debounce: -1}, {Debounce: maxDebounce + 1}, {Poll: -1}, {Poll: minPoll - 1},
	} {
		if w, err := New(cfg); err == nil || w != nil {
			t.Errorf("New(%+v): got %v, %v; want an error", cfg, w, err)
		}
	}
}
