package kextcore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/internal/kextwire"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

const (
	// stopTimeout is how long a driver that does not answer can keep Run from returning.
	stopTimeout = 5 * time.Second
	// maxVerdictErrors is how many verdicts in a row the driver may refuse. One may come too late for a packet that the
	// driver gave up; many mean that packets wait for ever.
	maxVerdictErrors = 8

	// An empty read that did not wait for anything is followed by a pause, so that no driver makes us spin.
	quick     = time.Millisecond
	idlePause = 10 * time.Millisecond

	// forgetBurst is how many calls of Forget clear the driver's cache at once; after that, one a second does.
	forgetBurst = 16
)

// Session is one call of Run.
//
// Every packet of the driver gets exactly one verdict: Deliver is the place where it is given, or the packet becomes Held and
// waiting, and from then on whoever claims it there gives it.
type Session struct {
	cfg     *Config
	stats   *counters
	proto   Protocol
	overlap Overlapper // nil if proto is none
	handler intercept.Handler
	traffic intercept.Traffic // nil if the handler wants no reports
	fail    func(error)       // ends the session
	closing atomic.Bool
	refused atomic.Int32 // verdicts in a row that the driver did not take

	// out is held for reading from before a packet is claimed until its verdict was told, so that finish finds every packet
	// either waiting or decided.
	out sync.RWMutex

	mu      sync.Mutex // guards what follows
	waiting map[*Held]struct{}
	bytes   int
	closed  bool
	tokens  int  // calls of Forget that may clear the cache at once
	forgets bool // a clear was put off

	scratch Scratch     // the reader's
	decoded packet.Info // the reader's
}

func newSession(r *Runner, p Protocol, h intercept.Handler) *Session {
	s := &Session{
		cfg: &r.cfg, stats: &r.stats, proto: p, handler: h,
		waiting: make(map[*Held]struct{}), tokens: forgetBurst,
	}
	s.traffic, _ = h.(intercept.Traffic)
	s.overlap, _ = p.(Overlapper)
	return s
}

func (s *Session) run(ctx context.Context, ready func()) error {
	if err := s.begin(ctx); err != nil || ctx.Err() != nil {
		return errors.Join(err, s.proto.Close())
	}
	broken, fail := context.WithCancelCause(ctx)
	s.fail = fail
	var reader, helpers sync.WaitGroup
	reader.Go(func() { fail(s.read(broken)) })
	helpers.Go(func() { s.sweep(broken) })
	helpers.Go(func() { s.housekeep(broken) })
	if ready != nil {
		ready()
	}
	<-broken.Done()
	var err error
	if ctx.Err() == nil {
		err = context.Cause(broken)
	}
	// A driver that does not answer must not keep us: closing the device ends every call.
	guard := time.AfterFunc(stopTimeout, func() {
		_ = s.proto.Close() // closed once more below, which tells the error
	})
	defer guard.Stop()
	s.closing.Store(true)
	errs := []error{err, s.finish(), s.shutdown(), s.proto.Close()}
	helpers.Wait()
	reader.Wait()
	if err != nil {
		return err // the rest are errors of the same device
	}
	return errors.Join(errs...)
}

// begin makes the driver forget what an earlier client told it, which is not what this handler would. It returns nil when ctx
// is done, also if the driver does not answer.
func (s *Session) begin(ctx context.Context) error {
	unguard := context.AfterFunc(ctx, func() {
		_ = s.proto.Close() // closed once more by run, which tells the error
	})
	err := s.proto.ClearCache()
	if unguard() && err != nil {
		return fmt.Errorf("clear the driver's cache: %w", err)
	}
	return nil
}

// read is the loop of the reader. It ends when the device is closed or broken.
func (s *Session) read(ctx context.Context) error {
	for {
		if err := s.proto.Receive(s); err != nil {
			return fmt.Errorf("read from the driver: %w", err)
		}
		if ctx.Err() != nil && s.isClosed() {
			return nil
		}
	}
}

// Idle is called by a Protocol for a read, begun at the given time, that brought nothing.
func (s *Session) Idle(began time.Time) {
	s.stats.emptyReads.Add(1)
	if time.Since(began) < quick {
		time.Sleep(idlePause)
	}
}

// Bad is called by a Protocol for a message of the driver that makes no sense and was skipped. The logger hears of it ever
// more rarely.
func (s *Session) Bad(err error) {
	if n := s.stats.badMessages.Add(1); n&(n-1) == 0 {
		s.cfg.Logger.Warn("skipped a message of the driver", "err", err, "count", n)
	}
}

// Log passes on what the driver logs.
func (s *Session) Log(level slog.Level, text string) {
	s.cfg.Logger.Log(context.Background(), level, "driver", "text", text)
}

// Warn tells the logger of an error that the session survives.
func (s *Session) Warn(msg string, err error) { s.cfg.Logger.Warn(msg, "err", err) }

// WantsReports reports whether the handler wants usage and ends.
func (s *Session) WantsReports() bool { return s.traffic != nil }

// ReportUsage passes on what connections transferred.
func (s *Session) ReportUsage(u []intercept.Usage) {
	if s.traffic != nil && len(u) > 0 {
		s.traffic.ReportUsage(u)
	}
}

// ReportEnd passes on that a connection ended.
func (s *Session) ReportEnd(t packet.Tuple) {
	if s.traffic != nil {
		s.traffic.ReportEnd(intercept.End{Tuple: t, At: time.Now()})
	}
}

// Deliver takes what the driver asks about. d and its payload are the reader's: they are copied if they have to last.
func (s *Session) Deliver(d *Delivery) {
	d.Info.Seen = time.Now()
	if d.InfoOnly {
		s.stats.infos.Add(1)
		h := hold(s, d)
		h.InitInfoOnly()
		s.handler.Handle(h)
		return
	}
	s.stats.packets.Add(1)
	if s.cfg.AcceptProxied && kextwire.ForProxy(&d.Info.Tuple) {
		s.stats.proxied.Add(1)
		s.decide(d, verdict.ActionPermanentAccept)
		return
	}
	s.describe(d)
	if action, _, ok := s.handler.Lookup(&d.Info); ok {
		s.stats.lookups.Add(1)
		s.decide(d, action)
		return
	}
	h := hold(s, d)
	if !s.add(h) {
		if !s.closing.Load() {
			s.stats.overflows.Add(1)
		}
		h.markDefaulted(s.cfg.Default)
		s.decide(d, s.cfg.Default)
		return
	}
	s.stats.handed.Add(1)
	s.handler.Handle(h)
}

// decide gives a verdict in the reader.
func (s *Session) decide(d *Delivery, action verdict.Action) {
	if s.overlap != nil && d.Answer == AnswerVerdict && s.overlap.BeginVerdict(s, d.ID, allowed(&d.Info, action)) {
		return
	}
	_ = s.tell(d.ID, d.Answer, &d.Info, action, &s.scratch) // counted, and ends the session if it goes on
}

// tell tells the driver a verdict.
func (s *Session) tell(id uint64, answer Answer, i *packet.Info, action verdict.Action, scratch *Scratch) error {
	switch answer {
	case AnswerNone:
		return nil
	case AnswerImpossible:
		s.stats.verdictErrors.Add(1)
		return ErrNoPacketID
	case AnswerVerdict:
	}
	return s.Told(s.proto.Verdict(id, allowed(i, action), scratch))
}

// Told takes what the driver said to a verdict, and returns it.
func (s *Session) Told(err error) error {
	switch {
	case err == nil || errors.Is(err, ErrNoSplitTunnel):
		s.stats.verdicts.Add(1)
		s.refused.Store(0)
	default:
		s.stats.verdictErrors.Add(1)
		err = fmt.Errorf("tell the driver a verdict: %w", err)
		if s.refused.Add(1) >= maxVerdictErrors {
			s.fail(err)
		}
	}
	return err
}

// allowed is the safety net under the firewall. The driver's key of ICMP connections is not ours, so that a verdict on one of
// them must not decide about others.
func allowed(i *packet.Info, action verdict.Action) verdict.Action {
	switch {
	case action >= verdict.NumActions:
		return verdict.ActionDrop
	case i.Protocol.IsICMP():
		return action.Once()
	}
	return action
}

// issue tells the handler's verdict for a packet that it was given. It may be called from any goroutine.
func (s *Session) issue(h *Held, action verdict.Action) error {
	s.out.RLock()
	defer s.out.RUnlock()
	if !s.claim(h) {
		return packet.ErrAlreadyDecided // the timeout or the end of Run was quicker
	}
	return s.tell(h.id, h.answer, &h.info, action, &h.scratch)
}

// sweep gives the default verdict to what waited too long. One coarse ticker serves all packets.
func (s *Session) sweep(ctx context.Context) {
	tick := time.NewTicker(min(max(s.cfg.Timeout/8, time.Millisecond), time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.expire(now.Add(-s.cfg.Timeout))
		}
	}
}

// expire gives the default to packets that came before t.
func (s *Session) expire(t time.Time) {
	s.mu.Lock()
	var late []*Held
	for h := range s.waiting {
		if h.info.Seen.Before(t) {
			late = append(late, h)
		}
	}
	s.mu.Unlock()
	for _, h := range late {
		if s.issue(h, s.cfg.Default) == nil {
			s.stats.timeouts.Add(1)
		}
		h.markDefaulted(s.cfg.Default)
	}
}

// finish gives every packet that waits the default and lets none wait any more. Only the first error is told: one broken
// device refuses them all alike.
func (s *Session) finish() error {
	s.mu.Lock()
	s.closed = true
	rest := s.waiting
	s.waiting = make(map[*Held]struct{})
	s.mu.Unlock()
	s.out.Lock() // those who decide now have told it
	defer s.out.Unlock()
	var first error
	for h := range rest {
		s.stats.shutdown.Add(1)
		err := s.tell(h.id, h.answer, &h.info, s.cfg.Default, &h.scratch)
		h.markDefaulted(s.cfg.Default)
		if first == nil && !errors.Is(err, ErrNoPacketID) {
			first = err
		}
	}
	return first
}

func (s *Session) shutdown() error {
	if err := s.proto.Shutdown(); err != nil {
		return fmt.Errorf("shut the driver down: %w", err)
	}
	return nil
}

// housekeep serves what is done periodically.
func (s *Session) housekeep(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := s.proto.Housekeep(n, s)
		if err == nil && s.refill() {
			err = s.proto.ClearCache()
		}
		if err != nil {
			s.fail(fmt.Errorf("keep the driver going: %w", err))
			return
		}
	}
}

// forget makes the driver ask again about a connection. It can only forget all of them, and each of those costs a question. A
// flood of calls therefore clears the cache once a second.
func (s *Session) forget() error {
	s.mu.Lock()
	now := s.tokens > 0
	if now {
		s.tokens--
	} else {
		s.forgets = true
	}
	s.mu.Unlock()
	if !now {
		s.stats.delayed.Add(1)
		return nil
	}
	return s.proto.ClearCache()
}

// refill is called once a second. It reports whether the cache has to be cleared.
func (s *Session) refill() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := s.forgets
	s.forgets = false
	if !wanted {
		s.tokens = min(s.tokens+1, forgetBurst)
	}
	return wanted
}

// add makes h wait. It reports false if there is no room or the session ends.
func (s *Session) add(h *Held) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.waiting) >= s.cfg.MaxPending || s.bytes+h.size() > maxPendingBytes {
		return false
	}
	s.waiting[h] = struct{}{}
	s.bytes += h.size()
	return true
}

// claim takes h out of those that wait. It reports true to one caller only.
func (s *Session) claim(h *Held) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, waits := s.waiting[h]; !waits {
		return false
	}
	delete(s.waiting, h)
	s.bytes -= h.size()
	return true
}

func (s *Session) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *Session) waitingNow() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting)
}
