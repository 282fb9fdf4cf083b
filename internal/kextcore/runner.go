package kextcore

import (
	"context"
	"fmt"
	"sync"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Scratch has room for any message to a driver.
type Scratch [64]byte

// Protocol is a conversation with an opened driver. Receive and Housekeep are called by one goroutine each, the others by
// any.
type Protocol interface {
	// Receive reads once, waiting for something to come, and calls Session.Deliver and the Session's reports for what came.
	// An error ends the session.
	Receive(s *Session) error
	// Verdict tells the driver about a packet. It builds its message in scratch.
	Verdict(id uint64, action verdict.Action, scratch *Scratch) error
	// Update replaces a stored verdict; action is permanent.
	Update(t *packet.Tuple, action verdict.Action) error
	// ClearCache makes the driver forget all stored verdicts.
	ClearCache() error
	// Housekeep is called once a second; n counts from 1. An error ends the session.
	Housekeep(n int, s *Session) error
	// Shutdown asks the driver to end its work.
	Shutdown() error
	// Close closes the device: calls that wait for the driver return with an error. It may be called more than once.
	Close() error
}

// Overlapper is a Protocol that can have several verdicts on their way to the driver.
type Overlapper interface {
	Protocol
	// BeginVerdict is Verdict, but does not wait for what the driver says to it: Session.Told is called with that before Receive
	// returns. It is called by Session.Deliver only, in Receive. ok is false if it cannot be done; then Verdict is called.
	BeginVerdict(s *Session, id uint64, action verdict.Action) (ok bool)
}

// Runner runs sessions, one at a time.
type Runner struct {
	cfg   Config
	stats counters

	mu      sync.Mutex // guards what follows
	running bool
	active  *Session // nil before the device was opened
}

// NewRunner returns a Runner that does nothing yet. The error wraps ErrBadConfig.
func NewRunner(cfg Config) (*Runner, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Runner{cfg: cfg}, nil
}

// Run is intercept.Source's, over the driver that open opens.
func (r *Runner) Run(ctx context.Context, open func() (Protocol, error), h intercept.Handler, ready func()) error {
	if ctx.Err() != nil {
		return nil
	}
	if !r.enter() {
		return ErrRunning
	}
	defer r.leave()
	p, err := open()
	if err != nil {
		return fmt.Errorf("open the driver: %w", err)
	}
	s := newSession(r, p, h)
	r.mu.Lock()
	r.active = s
	r.mu.Unlock()
	return s.run(ctx, ready)
}

func (r *Runner) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running {
		return false
	}
	r.running = true
	return true
}

func (r *Runner) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running, r.active = false, nil
}

// session returns the session that runs. The error wraps ErrClosed.
func (r *Runner) session(op string) (*Session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active == nil {
		return nil, fmt.Errorf("%s: %w", op, ErrClosed)
	}
	return r.active, nil
}

// Protocol returns the conversation of the session that runs. The error wraps ErrClosed.
func (r *Runner) Protocol(op string) (Protocol, error) {
	s, err := r.session(op)
	if err != nil {
		return nil, err
	}
	return s.proto, nil
}

// Update is intercept.Updater's. Neither protocol can make the driver ask again about one connection: for an action that is
// not permanent, and for ICMP, of whose keys in the driver nothing is known, all stored verdicts are cleared.
func (r *Runner) Update(t packet.Tuple, action verdict.Action) error {
	s, err := r.session("update a verdict")
	if err != nil {
		return err
	}
	if action >= verdict.NumActions {
		action = verdict.ActionPermanentDrop
	}
	if !action.Permanent() || t.Protocol.IsICMP() {
		err = s.proto.ClearCache()
	} else {
		err = s.proto.Update(&t, action)
	}
	if err != nil {
		return fmt.Errorf("update %v to %v: %w", t, action, err)
	}
	return nil
}

// Forget is intercept.Updater's: see Session.forget.
func (r *Runner) Forget(t packet.Tuple) error {
	s, err := r.session("forget a connection")
	if err != nil {
		return err
	}
	if err := s.forget(); err != nil {
		return fmt.Errorf("forget %v: %w", t, err)
	}
	return nil
}

// ForgetAll is intercept.Updater's.
func (r *Runner) ForgetAll() error {
	s, err := r.session("forget all connections")
	if err != nil {
		return err
	}
	if err := s.proto.ClearCache(); err != nil {
		return fmt.Errorf("forget all connections: %w", err)
	}
	return nil
}

// Stats returns sums since NewRunner.
func (r *Runner) Stats() Stats {
	st := r.stats.snapshot()
	if s, err := r.session("count"); err == nil {
		st.Waiting = s.waitingNow()
	}
	return st
}
