package nfq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
)

// downTimeout bounds the removal of the rules, which the end of ctx must not
// stop.
const downTimeout = 30 * time.Second

// port is the kernel's side of a queue: a bound netlink socket.
type port interface {
	sender
	// read feeds q until stop is called or the queue breaks. It is called once.
	read(q *queue) error
	// stop makes read return soon.
	stop() error
	// drops returns what the kernel dropped.
	drops() kernelDrops
	close() error
}

// kernelDrops are packets, and reports about ended connections, that never
// reached us.
type kernelDrops struct{ kernel, user, ends uint64 }

// cutter ends the sockets of connections in one network namespace. Its methods
// may be called from any goroutine.
type cutter interface {
	// cut returns nil if there is no socket, and ErrClosed after close.
	cut(t packet.Tuple) error
	close() error
}

// session is one call of Run.
type session struct {
	cfg    *Config
	host   hostControl // nil without our ruleset
	cutter cutter      // nil if it cannot be had
	queues []*queue
	ports  []port

	dropsMu sync.Mutex // guards what follows, and the ports' counters against close
	closed  bool
	drops   kernelDrops // once closed
}

// open binds all queues, before any rule feeds them.
func (s *Source) open(h intercept.Handler) (*session, error) {
	ses := &session{cfg: &s.cfg}
	if !s.cfg.SkipRuleset {
		traffic, _ := h.(intercept.Traffic)
		control, err := openHost(s.cfg.Host, traffic)
		if err != nil {
			return nil, fmt.Errorf("prepare rules: %w", err)
		}
		ses.host = control
	}
	var err error
	if ses.cutter, err = openCutter(); err != nil {
		s.cfg.Logger.Warn("connections of local programs cannot be cut", "error", err)
	}
	for _, number := range s.cfg.ReadQueues {
		p, err := openPort(number, &s.cfg)
		if err != nil {
			return nil, errors.Join(err, ses.close())
		}
		ses.add(s.newQueue(number, h, ses.host, p), p)
	}
	return ses, nil
}

func (s *session) add(q *queue, p port) {
	s.queues, s.ports = append(s.queues, q), append(s.ports, p)
}

func (s *Source) newQueue(number uint16, h intercept.Handler, host hostControl, out sender) *queue {
	q := &queue{
		number:   number,
		planner:  s.planner,
		fallback: s.cfg.fallback(),
		handler:  h,
		pending:  &pending{maxCount: s.cfg.MaxPending, maxBytes: max(maxPendingBytes, s.cfg.MaxPending*minHeld)},
		stats:    &s.stats,
		out:      out,
		burst:    make([]byte, 0, 2*burstSlots*verdictSize),
	}
	if host != nil {
		q.conns = host
	}
	return q
}

// run reads until ctx is done or something breaks, and then undoes everything in
// reverse: no reader, no waiting packet, no socket, no rules.
func (s *session) run(ctx context.Context, ready func()) error {
	if err := s.prepare(); err != nil {
		return errors.Join(err, s.close())
	}
	broken, fail := context.WithCancelCause(ctx)
	var readers, helpers sync.WaitGroup
	for i, q := range s.queues {
		q.fail = fail
		readers.Go(func() {
			if err := s.ports[i].read(q); err != nil {
				fail(err)
			}
		})
	}
	rules, err := s.up(broken)
	if err == nil {
		helpers.Go(func() { s.sweep(broken, fail) })
		if rules {
			helpers.Go(func() { s.watch(broken, fail) })
		}
		if ready != nil {
			ready()
		}
		<-broken.Done()
		if ctx.Err() == nil {
			err = context.Cause(broken)
		}
	}
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = nil // stopped while the rules were loaded
	}
	fail(nil) // the helpers end
	helpers.Wait()
	errs := []error{err, s.stop()}
	readers.Wait()
	errs = append(errs, s.close())
	if rules {
		errs = append(errs, s.down(ctx))
	}
	return errors.Join(errs...)
}

// prepare makes connections known before packets are read: after a crash they
// come at once.
func (s *session) prepare() error {
	if s.host == nil {
		return nil
	}
	if err := s.host.prepare(); err != nil {
		return fmt.Errorf("prepare rules: %w", err)
	}
	return nil
}

// up loads the rules and reports whether they have to come down again.
func (s *session) up(ctx context.Context) (rules bool, err error) {
	if s.host == nil {
		return false, nil
	}
	if err := s.host.up(ctx); err != nil {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			s.cfg.Logger.Info("stopped while the rules were loaded", "error", err)
			return false, context.Cause(ctx)
		}
		return false, fmt.Errorf("load rules: %w", err)
	}
	return true, nil
}

func (s *session) watch(ctx context.Context, fail context.CancelCauseFunc) {
	if err := s.host.watch(ctx, s.cfg.OnRepair); err != nil && ctx.Err() == nil {
		fail(fmt.Errorf("watch rules: %w", err))
	}
}

func (s *session) down(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
	defer cancel()
	if err := s.host.down(ctx); err != nil {
		return fmt.Errorf("remove rules: %w", err)
	}
	return nil
}

// sweep gives the default verdict to what waited too long. One coarse ticker
// serves all packets.
func (s *session) sweep(ctx context.Context, fail context.CancelCauseFunc) {
	tick := time.NewTicker(min(max(s.cfg.Timeout/8, time.Millisecond), time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, q := range s.queues {
				if err := q.expire(now.Add(-s.cfg.Timeout)); err != nil {
					fail(err)
				}
			}
		}
	}
}

// stop makes the readers end.
func (s *session) stop() error {
	var errs []error
	for _, p := range s.ports {
		errs = append(errs, p.stop())
	}
	return errors.Join(errs...)
}

// close gives every packet that is left its verdict and closes the sockets. The
// readers must have ended.
func (s *session) close() error {
	s.dropsMu.Lock()
	if !s.closed {
		s.closed, s.drops = true, s.readDropsLocked()
	}
	s.dropsMu.Unlock()
	var errs []error
	for i, q := range s.queues {
		errs = append(errs, q.finish(), s.ports[i].close())
	}
	if s.cutter != nil {
		errs = append(errs, s.cutter.close())
	}
	return errors.Join(errs...)
}

// readDrops returns what was lost until now, or until close.
func (s *session) readDrops() kernelDrops {
	s.dropsMu.Lock()
	defer s.dropsMu.Unlock()
	if s.closed {
		return s.drops
	}
	return s.readDropsLocked()
}

func (s *session) readDropsLocked() kernelDrops {
	var sum kernelDrops
	if s.host != nil {
		sum.ends = s.host.lostEnds()
	}
	for _, p := range s.ports {
		d := p.drops()
		sum.kernel += d.kernel
		sum.user += d.user
	}
	return sum
}

func (s *session) waiting() int {
	n := 0
	for _, q := range s.queues {
		n += q.pending.waiting()
	}
	return n
}
