package module

import "time"

// SetClock replaces the wall clock, which synctest cannot set apart from the monotonic one.
func (p *Pauser) SetClock(now func() time.Time) { p.now = now }

// PauseTick is how often a pauser looks at the clock.
const PauseTick = pauseTick

// Timers returns how many tasks and tickers the unit keeps an eye on.
func (u *Unit) Timers() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.tasks) + len(u.tickers)
}
