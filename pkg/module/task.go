package module

import (
	"context"
	"sync"
	"time"
)

// Task is a named worker that runs when it is asked to: by a trigger, after a delay, periodically. It never runs twice at
// the same time, and needs no goroutine while it waits. Tasks of one unit have different names. If a run fails, that is logged, becomes a state until the
// next good run, and is told to the error callbacks; it is not repeated before its time.
//
// A task that was made before the unit was started belongs to it for good: triggers and delays from before Start
// count from Start on, and Repeat goes on at each start. The schedule of one that was made while the unit ran ends
// with that run of the unit.
type Task struct {
	unit *Unit
	name string
	fn   Func
	kept bool // made before Start

	mu      sync.Mutex // guards the fields below; taken before Unit.mu, never after
	onError func(error)
	every   time.Duration
	delay   time.Duration // a delay that counts from Start on
	due     time.Time     // zero: no timer is armed
	timer   *time.Timer
	again   bool // one more run when this one has ended, or at Start
	stopped bool
	cancel  context.CancelFunc // ends the run; nil if none
	status  TaskStatus
}

// TaskStatus says what a [Task] does.
type TaskStatus struct {
	// Running says that it runs just now.
	Running bool
	// Queued says that it will run once more right after this run, or at Start.
	Queued bool
	// Stopped says that it will not run any more.
	Stopped bool
	// Every is the interval of Repeat; 0 if it is off.
	Every time.Duration
	// Next is when it is due; zero if it is not.
	Next time.Time
	// LastStart and LastEnd are the times of the last run.
	LastStart, LastEnd time.Time
	// LastError is what the last run returned.
	LastError error
	// Runs and Failures count.
	Runs, Failures uint64
}

// Task returns a task that is not scheduled yet. Its context is the unit's; [Task.Stop] ends it too.
func (u *Unit) Task(name string, fn Func) *Task {
	t := &Task{unit: u, name: name, fn: fn}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.phase == Stopped {
		t.kept = true
		u.tasks[t] = struct{}{}
	}
	return t
}

// Delay runs fn once, after d.
func (u *Unit) Delay(name string, d time.Duration, fn Func) *Task { return u.Task(name, fn).Delay(d) }

// Repeat runs fn periodically, for the first time after d.
func (u *Unit) Repeat(name string, d time.Duration, fn Func) *Task { return u.Task(name, fn).Repeat(d) }

// OnError sets a callback for failures. It is called after each run that failed or panicked.
func (t *Task) OnError(fn func(error)) *Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.onError = fn
	return t
}

// Trigger runs the task now. While it runs, any number of triggers make for exactly one more run.
func (t *Task) Trigger() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.askLocked()
}

// Delay runs the task once after d, and holds back Repeat until then; after that Repeat goes on, counting from there.
// A new delay replaces the old one; 0 takes it back.
func (t *Task) Delay(d time.Duration) *Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.delay = max(d, 0)
	t.scheduleLocked()
	return t
}

// Repeat runs the task each d from now on; a run that would begin while another one lasts is left out. A new interval
// replaces the old one; 0 switches it off. A delay that is pending stays.
func (t *Task) Repeat(d time.Duration) *Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.every = max(d, 0)
	if t.delay == 0 {
		t.scheduleLocked()
	}
	return t
}

// Stop ends the task for good: its schedule, and the context of a run that is under way. It does not wait for that
// run, since that may be the caller; the unit's Stop does.
func (t *Task) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped, t.again, t.every, t.delay = true, false, 0, 0
	t.disarmLocked()
	if t.cancel != nil {
		t.cancel()
	}
	t.unit.forget(t)
}

// Status returns what the task does.
func (t *Task) Status() TaskStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.status
	s.Running, s.Queued, s.Stopped, s.Every, s.Next = t.cancel != nil, t.again, t.stopped, t.every, t.due
	return s
}

// scheduleLocked arms the timer for what is next, if anything is.
func (t *Task) scheduleLocked() {
	t.disarmLocked()
	next := t.delay
	if next == 0 {
		next = t.every
	}
	if next > 0 && !t.stopped {
		t.armLocked(time.Now().Add(next))
	}
}

// armLocked does nothing if the unit does not run; wake comes back to it.
func (t *Task) armLocked(due time.Time) {
	if !t.unit.track(t) {
		return
	}
	t.due = due
	t.timer = time.AfterFunc(time.Until(due), t.fire)
}

func (t *Task) disarmLocked() {
	if t.timer != nil {
		t.timer.Stop()
	}
	t.timer, t.due = nil, time.Time{}
	if !t.kept {
		t.unit.forget(t)
	}
}

// fire is called by the timer.
func (t *Task) fire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.due.IsZero() || now.Before(t.due) {
		return // The schedule was changed when the timer was going off already.
	}
	last, delayed := t.due, t.delay > 0
	t.delay = 0
	t.disarmLocked()
	if t.every > 0 {
		next := last.Add(t.every)
		if delayed || !next.After(now) {
			next = now.Add(t.every)
		}
		t.armLocked(next)
	}
	if delayed || t.cancel == nil {
		t.askLocked()
	}
}

// askLocked begins a run, or makes sure of one after the present one.
func (t *Task) askLocked() {
	switch {
	case t.stopped:
	case t.cancel != nil:
		t.again = true
	default:
		t.launchLocked()
	}
}

func (t *Task) launchLocked() {
	// Until the worker has its own context, Stop has nothing to cancel; run looks at stopped.
	t.cancel = func() {}
	if err := t.unit.spawn(t.name, t.run); err != nil {
		// The unit does not run. That is no error: a task of the unit itself runs at Start.
		t.cancel = nil
		t.again = t.kept
	}
}

// run is the worker: it goes on as long as it was asked to meanwhile.
func (t *Task) run(ctx context.Context, _ string) {
	idle := false
	defer func() {
		if !idle {
			t.end() // fn left by runtime.Goexit.
		}
	}()
	for !idle {
		once, cancel := context.WithCancel(ctx)
		if !t.begin(once, cancel) {
			cancel()
			return
		}
		err := guard(func() error { return t.fn(once) })
		ending := once.Err() != nil
		cancel()
		if ending {
			t.unit.parting(ctx, err)
			err = nil
		}
		t.note(err)
		idle = t.idle()
	}
}

func (t *Task) begin(ctx context.Context, cancel context.CancelFunc) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped || ctx.Err() != nil {
		return false
	}
	t.again, t.cancel = false, cancel
	t.status.LastStart = time.Now()
	t.status.Runs++
	return true
}

// idle reports whether nobody wants another run. From then on a trigger begins a new worker, so none gets lost.
func (t *Task) idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.again {
		t.cancel = nil
	}
	return !t.again
}

func (t *Task) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cancel = nil
}

// note records how a run ended.
func (t *Task) note(err error) {
	t.mu.Lock()
	t.status.LastEnd, t.status.LastError = time.Now(), err
	if err != nil {
		t.status.Failures++
	}
	onError := t.onError
	t.mu.Unlock()
	if err == nil {
		t.unit.states.Remove(workerState(t.name))
		return
	}
	t.unit.report(t.name, err, 0)
	if onError != nil {
		t.unit.callback("error callback of "+t.name, func() { onError(err) })
	}
}

// wake is called when the unit has started.
func (t *Task) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.due.IsZero() {
		t.scheduleLocked()
	}
	if t.again {
		t.askLocked()
	}
}

// halt is called when the unit stops.
func (t *Task) halt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.disarmLocked()
	t.again, t.delay = false, 0
	if !t.kept {
		t.every = 0
	}
}

// track makes the unit halt the task. It reports whether the unit runs.
func (u *Unit) track(t *Task) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.phase != Starting && u.phase != Running {
		return false
	}
	u.tasks[t] = struct{}{}
	return true
}

func (u *Unit) forget(t *Task) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.tasks, t)
}
