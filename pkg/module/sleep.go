package module

import (
	"fmt"
	"sync"
	"time"
)

// Mode is the sleep mode: whether work that can wait should wait, to save power. What protects people does not sleep.
type Mode uint8

// The sleep modes.
const (
	Awake  Mode = 0
	Asleep Mode = 1
)

// String returns the name of the mode.
func (m Mode) String() string {
	switch m {
	case Awake:
		return "awake"
	case Asleep:
		return "asleep"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// Sleeper is a [Module] that slows down or stops periodic work while it is asleep. A [Group] passes the mode on.
type Sleeper interface {
	SetSleep(mode Mode)
}

// SetSleep sets the mode for all tickers of the unit, and tells Config.Sleep if it is another one.
func (u *Unit) SetSleep(mode Mode) {
	u.mu.Lock()
	changed := u.mode != mode
	u.mode = mode
	for t := range u.tickers {
		t.SetSleep(mode)
	}
	u.mu.Unlock()
	if changed && u.cfg.Sleep != nil {
		u.callback("sleep callback", func() { u.cfg.Sleep(mode) })
	}
}

// Ticker returns a [Ticker] that follows the sleep mode of the unit and is stopped with it at the latest. It is made to
// be used by a worker: one that is made while the unit does not run never ticks.
func (u *Unit) Ticker(awake, asleep time.Duration) *Ticker {
	t := NewTicker(awake, asleep)
	t.release = func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.tickers, t)
	}
	u.mu.Lock()
	running := u.phase == Starting || u.phase == Running
	if running {
		u.tickers[t] = struct{}{}
		t.SetSleep(u.mode)
	}
	u.mu.Unlock()
	if !running {
		t.Stop()
	}
	return t
}

// Ticker is a [time.Ticker] that knows sleep: it has one period for each mode.
type Ticker struct {
	awake, asleep time.Duration
	release       func() // removes it from its unit; nil if there is none
	c             chan time.Time

	mu      sync.Mutex // guards the fields below; taken after Unit.mu, never before
	mode    Mode
	last    time.Time // of the last tick, or the start
	due     time.Time // zero: there is no next tick
	timer   *time.Timer
	stopped bool
}

// NewTicker returns a ticker that is awake. A period of 0, or less, means no ticks in that mode. Like that of
// [time.Ticker], its channel holds one tick; those that nobody takes in time are dropped. Stop it after use.
func NewTicker(awake, asleep time.Duration) *Ticker {
	t := &Ticker{awake: awake, asleep: asleep, c: make(chan time.Time, 1), last: time.Now()}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.armLocked()
	return t
}

// C returns the channel of the ticks. It is never closed. (It is a channel for the same reason as [Subscription.C].)
func (t *Ticker) C() <-chan time.Time { return t.c }

// SetSleep changes the period. The next tick comes one new period after the last one: a ticker that wakes up and is
// late ticks at once.
func (t *Ticker) SetSleep(mode Mode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mode != mode {
		t.mode = mode
		t.armLocked()
	}
}

// Stop ends the ticks. Stopping twice is fine.
func (t *Ticker) Stop() {
	t.mu.Lock()
	t.stopped = true
	t.armLocked()
	t.mu.Unlock()
	if t.release != nil {
		t.release()
	}
}

func (t *Ticker) armLocked() {
	if t.timer != nil {
		t.timer.Stop()
	}
	t.timer, t.due = nil, time.Time{}
	period := t.awake
	if t.mode == Asleep {
		period = t.asleep
	}
	if period <= 0 || t.stopped {
		return
	}
	t.due = t.last.Add(period)
	t.timer = time.AfterFunc(time.Until(t.due), t.fire)
}

func (t *Ticker) fire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.due.IsZero() || now.Before(t.due) {
		return // The mode was changed when the timer was going off already.
	}
	t.last = now
	t.armLocked()
	select {
	case t.c <- now:
	default:
	}
}
