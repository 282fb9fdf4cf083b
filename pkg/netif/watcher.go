package netif

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Config configures a [Watcher]. The zero value is good.
type Config struct {
	// Log gets warnings about lost events and failed readings that were repaired. Optional; nil is silence.
	Log *slog.Logger
	// Debounce is the time between the first sign of a change and the reading of the new state. Changes come in bunches
	// (link up, address, route), and one reading serves all. Optional; 0 is 5 ms, and more than 50 ms is refused, because
	// changes are to be published within 100 ms.
	Debounce time.Duration
	// Poll is the time after which the state is read without any sign of a change: the fallback for signs that were lost
	// without a trace. Optional; 0 is 30 s, and less than 1 s is refused.
	Poll time.Duration
}

const (
	defaultDebounce = 5 * time.Millisecond
	maxDebounce     = 50 * time.Millisecond
	defaultPoll     = 30 * time.Second
	minPoll         = time.Second

	// minGap is the time from one reading to the next while changes do not stop. It bounds the cost: a reading takes about
	// a millisecond on a usual machine. Together with maxDebounce it keeps well below the 100 ms.
	minGap = 25 * time.Millisecond

	// After maxFailures failed readings in a row, each waiting twice as long as the one before, Run gives up: 6 s in all.
	firstRetry  = 50 * time.Millisecond
	maxFailures = 8
)

// errLost is returned by monitor.receive when signs were lost.
var errLost = errors.New("netif: change events were lost")

// monitor is what a system has to offer.
type monitor interface {
	// read returns the present state.
	read(ctx context.Context) (*Snapshot, error)
	// receive blocks until something may have changed since the last call, or close is called. Only one goroutine calls it.
	receive() error
	// close makes receive return, and releases everything.
	close() error
}

// Watcher keeps a [Snapshot] of this machine's interfaces up to date. Make one with [New].
type Watcher struct {
	cfg     Config
	open    func() (monitor, error)
	feed    Feed
	running atomic.Bool
}

// New reads the first snapshot and returns a Watcher that will follow the changes when its Run is called. It works in the
// network namespace of the calling thread, and Run in that of its own: call both from the same, and lock the
// goroutine to its thread if that is not the process's. New starts no goroutine and holds no resources.
//
// On systems other than Linux and Windows the error wraps errors.ErrUnsupported.
func New(cfg Config) (*Watcher, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s, err := Read(context.Background())
	if err != nil {
		return nil, err
	}
	w := newWatcher(cfg, openMonitor)
	w.feed.Publish(s)
	return w, nil
}

// newWatcher is the seam for tests of the loop.
func newWatcher(cfg Config, open func() (monitor, error)) *Watcher {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Debounce == 0 {
		cfg.Debounce = defaultDebounce
	}
	if cfg.Poll == 0 {
		cfg.Poll = defaultPoll
	}
	return &Watcher{cfg: cfg, open: open}
}

func (c Config) check() error {
	if c.Debounce < 0 || c.Debounce > maxDebounce {
		return fmt.Errorf("netif: Config.Debounce is %v; use 0 to %v", c.Debounce, maxDebounce)
	}
	if c.Poll < 0 || (c.Poll > 0 && c.Poll < minPoll) {
		return fmt.Errorf("netif: Config.Poll is %v; use 0 or at least %v", c.Poll, minPoll)
	}
	return nil
}

// Snapshot returns the newest snapshot; never nil. It is one atomic load. Before Run it is the one that New read, and
// after Run it is the last.
func (w *Watcher) Snapshot() *Snapshot { return w.feed.Snapshot() }

// Wait is [Feed.Wait]. Without Run there are no changes to wait for.
func (w *Watcher) Wait(ctx context.Context, old *Snapshot) (*Snapshot, error) {
	return w.feed.Wait(ctx, old)
}

// Subscribe is [Feed.Subscribe].
func (w *Watcher) Subscribe(fn func(*Snapshot)) (unsubscribe func()) { return w.feed.Subscribe(fn) }

// Run follows the changes until ctx is done; then it returns nil. It calls ready, if that is not nil, once changes are
// being followed and the snapshot is fresh. A change is published after Config.Debounce and a reading, far below 100 ms;
// while changes keep coming, a reading is made every 25 ms. When the kernel drops events, and every Config.Poll, the
// whole state is read anew.
//
// An error means that the state can no longer be followed; the last snapshot stays. Run may then be called again.
// While it is active, another call returns [ErrRunning].
func (w *Watcher) Run(ctx context.Context, ready func()) error {
	if !w.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer w.running.Store(false)
	mon, err := w.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	feedDone := make(chan error, 1)
	go func() { feedDone <- w.feed.Run(ctx, nil) }()

	l := &loop{cfg: w.cfg, feed: &w.feed, mon: mon, dirty: make(chan struct{}, 1), failed: make(chan error, 1)}
	received := make(chan struct{})
	go func() {
		defer close(received)
		l.receive(ctx)
	}()
	err = l.run(ctx, ready)

	// In this order: cancel tells the receiver that the error it is about to get is no failure.
	cancel()
	err = errors.Join(err, mon.close())
	<-received
	return errors.Join(err, <-feedDone)
}

// loop is one Run.
type loop struct {
	cfg    Config
	feed   *Feed
	mon    monitor
	dirty  chan struct{} // the receiver saw a sign of change; one place is enough
	failed chan error    // the receiver ended

	lastRead time.Time
	failures int
}

// receive turns events into marks on dirty until the monitor is closed or fails. It never reads the state itself, so
// that the socket is always being emptied.
func (l *loop) receive(ctx context.Context) {
	for {
		err := l.mon.receive()
		switch {
		case err == nil:
		case errors.Is(err, errLost):
			l.cfg.Log.WarnContext(ctx, "interface events were lost; reading everything", "err", err)
		default:
			if ctx.Err() == nil {
				l.failed <- fmt.Errorf("netif: receive events: %w", err)
			}
			return
		}
		select {
		case l.dirty <- struct{}{}:
		default:
		}
	}
}

func (l *loop) run(ctx context.Context, ready func()) error {
	// The monitor listens already: what changes during this first reading leaves a mark.
	if err := l.read(ctx); err != nil {
		return ignoreDone(ctx, err)
	}
	if ready != nil {
		ready()
	}
	poll := time.NewTicker(l.cfg.Poll)
	defer poll.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	due.Stop() // nothing is due; since Go 1.23 no old tick can remain
	armed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-l.failed:
			return err
		case <-l.dirty:
			// The first mark sets the time; later ones must not postpone it.
			if !armed {
				armed = true
				due.Reset(max(l.cfg.Debounce, minGap-time.Since(l.lastRead)))
			}
			continue
		case <-poll.C:
		case <-due.C:
			armed = false
		}
		retry, err := l.reread(ctx)
		if err != nil {
			return ignoreDone(ctx, err)
		}
		if retry > 0 {
			armed = true
			due.Reset(retry)
		}
	}
}

// reread reads the state. After a failure it returns the time to wait before the next try, or the error if there were
// too many.
func (l *loop) reread(ctx context.Context) (retry time.Duration, err error) {
	if err = l.read(ctx); err == nil {
		l.failures = 0
		return 0, nil
	}
	l.failures++
	if ctx.Err() != nil || l.failures >= maxFailures {
		return 0, err
	}
	retry = firstRetry << (l.failures - 1)
	l.cfg.Log.WarnContext(ctx, "read interfaces; trying again", "err", err, "after", retry)
	return retry, nil
}

func (l *loop) read(ctx context.Context) error {
	l.lastRead = time.Now()
	s, err := l.mon.read(ctx)
	if err != nil {
		return err
	}
	l.feed.Publish(s)
	return nil
}

// ignoreDone drops errors that come from being told to stop.
func ignoreDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
