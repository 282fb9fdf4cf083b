package intercepttest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// ErrNotRunning is wrapped when something is asked of a Source whose Run does
// not run.
var ErrNotRunning = errors.New("intercepttest: source does not run")

// ErrNotWaiting is wrapped when a verdict comes for a packet that does not wait
// for one, as a kernel answers ENOENT. The error wraps packet.ErrAlreadyDecided
// too.
var ErrNotWaiting = errors.New("intercepttest: no such packet waits")

var (
	_ intercept.Source  = (*Source)(nil)
	_ intercept.Updater = (*Source)(nil)
	_ intercept.Cutter  = (*Source)(nil)
)

// Config of a Source. The zero value is useful.
type Config struct {
	// Timeout is how long a packet waits for its verdict before it gets
	// Default; 0 is for ever. It works in a synctest bubble.
	Timeout time.Duration
	// Default is what packets get when the handler is too slow or Run ends.
	// The zero value drops.
	Default verdict.Action
	// QueueLen is how many packets wait for a reader before more are dropped;
	// 0 is 1024.
	QueueLen int
	// Memory says whether permanent verdicts decide later packets. The zero
	// value remembers them.
	Memory Memory
}

// Memory says whether a Source remembers permanent verdicts.
type Memory uint8

// The two kinds of Memory.
const (
	// Remembers decides later packets by an earlier permanent verdict.
	Remembers Memory = iota
	// Forgets makes permanent verdicts hold for the packet only, as a kernel
	// whose rules save no marks: every packet reaches the handler.
	Forgets
)

// Source is a packet backend in memory. Tests feed it with Send and read what
// became of the packet from the Result. Methods may be called from any
// goroutine.
type Source struct {
	cfg Config

	mu     sync.Mutex // guards what follows
	active *session   // nil unless Run runs
	memory map[packet.Tuple]memo
	calls  []Call
	lastID uint64
}

// memo is what the fake kernel remembers about a connection.
type memo struct {
	action verdict.Action
	route  uint8
}

// session is one call of Run.
type session struct {
	handler intercept.Handler
	// queues has one queue a direction, like the kernel's.
	queues  [2]chan *heldPacket
	broken  chan error
	waiting map[uint64]*heldPacket // guarded by Source.mu
}

// New returns a Source that does not run yet.
func New(cfg Config) *Source {
	if cfg.QueueLen <= 0 {
		cfg.QueueLen = 1024
	}
	return &Source{cfg: cfg, memory: make(map[packet.Tuple]memo)}
}

// Run implements intercept.Source. One Run at a time: a second one is an error.
// A Source can run again; what it remembers of connections is gone then.
func (s *Source) Run(ctx context.Context, h intercept.Handler, ready func()) error {
	ses := &session{handler: h, broken: make(chan error, 1), waiting: make(map[uint64]*heldPacket)}
	for i := range ses.queues {
		ses.queues[i] = make(chan *heldPacket, s.cfg.QueueLen)
	}
	if err := s.begin(ses); err != nil {
		return err
	}
	readCtx, stop := context.WithCancel(ctx)
	defer stop()
	var readers sync.WaitGroup
	for _, q := range ses.queues {
		readers.Go(func() { s.read(readCtx, ses, q) })
	}
	if ready != nil {
		ready()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-ses.broken:
	}
	stop()
	readers.Wait()
	s.end(ses)
	return err
}

func (s *Source) begin(ses *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active != nil {
		return errors.New("intercepttest: source runs already")
	}
	s.active = ses
	clear(s.memory)
	return nil
}

// end gives the default verdict to all that still waits, in a queue or for the
// handler.
func (s *Source) end(ses *session) {
	s.mu.Lock()
	s.active = nil
	clear(s.memory)
	waiting := make([]*heldPacket, 0, len(ses.waiting))
	for _, p := range ses.waiting {
		waiting = append(waiting, p)
	}
	s.mu.Unlock()
	for _, p := range waiting {
		p.decideByDefault(ByShutdown)
	}
	for _, q := range ses.queues {
		for len(q) > 0 {
			if p := <-q; p.InfoOnly() {
				p.result.resolve(Outcome{By: ByNobody})
			}
		}
	}
}

// read is the loop of one reader.
func (s *Source) read(ctx context.Context, ses *session, q chan *heldPacket) {
	// Reused and spoilt after each packet, as a real backend's buffer is.
	var info packet.Info
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-q:
			s.deliver(ses, p, &info)
		}
	}
}

func (s *Source) deliver(ses *session, p *heldPacket, info *packet.Info) {
	if p.InfoOnly() {
		ses.handler.Handle(p)
		p.result.resolve(Outcome{By: ByNobody})
		return
	}
	*info = p.info
	action, route, ok := ses.handler.Lookup(info)
	*info = packet.Info{Tuple: packet.Tuple{Local: spoilt(), Remote: spoilt(), Protocol: 255}}
	if ok {
		_ = s.settle(p, Outcome{Action: action, Route: route, By: ByLookup}) // only the end of Run can be quicker: the handler never saw p
		return
	}
	if s.cfg.Timeout > 0 {
		p.armTimeout(s.cfg.Timeout)
	}
	ses.handler.Handle(p)
}

// spoilt is an address that no test uses.
func spoilt() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 255}), 0xdead)
}

// settle gives p its one verdict: taking it out of the waiting packets is what
// decides who came first.
func (s *Source) settle(p *heldPacket, o Outcome) error {
	if o.Action >= verdict.NumActions {
		o.Action = verdict.ActionDrop
	}
	s.mu.Lock()
	_, waits := p.session.waiting[p.id]
	if waits {
		delete(p.session.waiting, p.id)
		if s.cfg.Memory == Remembers && remembered(&p.info, o.Action) {
			s.memory[p.info.Tuple] = memo{action: o.Action, route: o.Route}
		}
	}
	s.mu.Unlock()
	if !waits {
		return fmt.Errorf("%w: packet %d: %w", packet.ErrAlreadyDecided, p.id, ErrNotWaiting)
	}
	p.stopTimeout()
	p.result.resolve(o)
	return nil
}

// remembered reports whether a kernel would take action for the rest of the
// connection: never for an accepted outbound loopback packet, whose inbound
// side would not be asked any more, and never for ICMP that belongs to another
// connection.
func remembered(i *packet.Info, action verdict.Action) bool {
	if !action.Permanent() || i.Protocol.IsICMP() && !i.IsEcho() {
		return false
	}
	loopback := i.Remote.Addr().IsLoopback() || i.Local.Addr() == i.Remote.Addr()
	return !(loopback && i.Direction == packet.Outbound && action.Verdict() == verdict.Accept)
}

// Break makes Run return err, as if interception had broken. It does nothing
// unless Run runs.
func (s *Source) Break(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil {
		return
	}
	select {
	case s.active.broken <- err:
	default: // the first reason wins
	}
}
