package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// impl is what a Server has on this system: goroutines, two for each session.
type impl struct {
	running atomic.Bool
	active  atomic.Pointer[relay] // while Run is active
}

// session is one that can be listed and ended.
type session interface {
	about() (Request, Egress)
	list(now time.Time) Session
	// stop ends it. The first cause counts.
	stop(cause error)
}

// relay is one Run.
type relay struct {
	srv       *Server
	stats     *counters
	finder    Finder
	addrs     []netip.AddrPort
	tcp       []net.Listener
	udp       []*net.UDPConn
	accepting atomic.Bool
	work      sync.WaitGroup

	mu       sync.Mutex                // guards sessions
	sessions map[session]chan struct{} // closed when the session has ended
}

func supported() error { return nil }

func (s *Server) run(ctx context.Context, ready func()) error {
	if !s.impl.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer s.impl.running.Store(false)
	finder, _ := s.cfg.Director.(Finder) //nolint:errcheck // New has looked
	r := &relay{srv: s, stats: &s.counters[0], finder: finder, sessions: make(map[session]chan struct{})}
	if err := r.listen(ctx); err != nil {
		return errors.Join(fmt.Errorf("proxy: %w", err), r.close())
	}
	r.accepting.Store(true)
	s.impl.active.Store(r)
	defer s.impl.active.Store(nil)
	broken, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	for _, l := range r.tcp {
		r.work.Go(func() { fail(r.acceptTCP(broken, l)) })
	}
	for _, c := range r.udp {
		r.work.Go(func() { fail(r.receiveUDP(broken, c)) })
	}
	if ready != nil {
		ready()
	}
	<-broken.Done()
	var err error
	if ctx.Err() == nil {
		err = fmt.Errorf("proxy: %w", context.Cause(broken))
	}
	r.accepting.Store(false)
	r.drain(s.cfg.Drain)
	err = errors.Join(err, r.close())
	r.work.Wait()
	return err
}

// listen opens the sockets. Nobody else may listen there: Go asks Windows for addresses of our own (without SO_REUSEADDR a second
// bind fails).
func (r *relay) listen(ctx context.Context) error {
	addrs, optional := r.srv.cfg.Listen, false
	if len(addrs) == 0 {
		addrs, optional = DefaultListen(), true
	}
	for _, a := range addrs {
		version := "4"
		if a.Addr().Is6() {
			version = "6"
		}
		err := r.listenAt(ctx, a, version)
		if err != nil && optional && version == "6" {
			r.srv.cfg.Log.Warn("proxy: no IPv6 on this host: IPv6 connections are not relayed", "address", a, "error", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("listen on %v: %w", a, err)
		}
		r.addrs = append(r.addrs, a)
	}
	return nil
}

func (r *relay) listenAt(ctx context.Context, a netip.AddrPort, version string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp"+version, a.String())
	if err != nil {
		return err //nolint:wrapcheck // listen says where
	}
	r.tcp = append(r.tcp, l)
	u, err := net.ListenUDP("udp"+version, net.UDPAddrFromAddrPort(a))
	if err != nil {
		return err //nolint:wrapcheck // listen says where
	}
	r.udp = append(r.udp, u)
	return nil
}

// close closes what listens.
func (r *relay) close() error {
	var errs []error
	for _, l := range r.tcp {
		errs = append(errs, l.Close())
	}
	for _, c := range r.udp {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// drain lets sessions end, and ends the rest.
func (r *relay) drain(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), max(limit, 0))
	defer cancel()
	all := r.choose(func(session) bool { return true })
	for _, ended := range all {
		select {
		case <-ended:
		case <-ctx.Done():
		}
	}
	for s, ended := range all {
		s.stop(fmt.Errorf("%w: the proxy ends", ErrStopped))
		<-ended
	}
}

// begin enters a session. What it returns is called at its end.
func (r *relay) begin(s session) (end func()) {
	ended := make(chan struct{})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions[s] = ended
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.sessions, s)
		close(ended)
	}
}

// choose returns sessions, with what is closed when they have ended.
func (r *relay) choose(which func(session) bool) map[session]chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	chosen := make(map[session]chan struct{})
	for s, ended := range r.sessions {
		if which(s) {
			chosen[s] = ended
		}
	}
	return chosen
}

func (s *Server) addrs() []netip.AddrPort {
	r := s.impl.active.Load()
	if r == nil || !r.accepting.Load() {
		return nil
	}
	return r.addrs
}

func (s *Server) sessions() []Session {
	r := s.impl.active.Load()
	if r == nil {
		return nil
	}
	now := time.Now()
	list := []Session{}
	for one := range r.choose(func(session) bool { return true }) {
		list = append(list, one.list(now))
	}
	return list
}

func (s *Server) reset(req Request) {
	r := s.impl.active.Load()
	if r == nil {
		return
	}
	for one := range r.choose(func(one session) bool { got, _ := one.about(); return got == req }) {
		one.stop(fmt.Errorf("%w: the connection was ended", ErrStopped))
	}
}

func (s *Server) cut(ctx context.Context, which func(Request, Egress) bool) (int, error) {
	r := s.impl.active.Load()
	if r == nil {
		return 0, nil
	}
	chosen := r.choose(func(one session) bool { return which(one.about()) })
	for one := range chosen {
		one.stop(fmt.Errorf("%w: its way out is closed", ErrStopped))
	}
	for _, ended := range chosen {
		select {
		case <-ended:
		case <-ctx.Done():
			return len(chosen), ctx.Err()
		}
	}
	return len(chosen), nil
}

// request returns who a client is. The driver made its own address the destination, and nobody but who announced it knows the true one.
func (r *relay) request(req Request) (Request, Egress, error) {
	found, ok := r.finder.Find(req.Protocol, req.Client)
	if !ok {
		return req, Egress{}, ErrUnknown
	}
	e, err := r.finder.Direct(found)
	return found, e, err
}

// client returns the address of a peer in the form that requests have.
func client(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// bookkeeping is what all sessions have.
type bookkeeping struct {
	req    Request
	egress Egress
	peer   netip.AddrPort
	born   time.Time
	seen   atomic.Int64 // when something came, in nanoseconds after born

	sent, received, sentPackets, receivedPackets atomic.Uint64

	mu    sync.Mutex // guards cause
	cause error
}

func (b *bookkeeping) about() (Request, Egress) { return b.req, b.egress }

func (b *bookkeeping) saw() { b.seen.Store(int64(time.Since(b.born))) }

func (b *bookkeeping) idle() time.Duration { return time.Since(b.born) - time.Duration(b.seen.Load()) }

func (b *bookkeeping) list(now time.Time) Session {
	age := now.Sub(b.born)
	return Session{
		Request: b.req, Egress: b.egress, Peer: b.peer, Age: age, Idle: max(age-time.Duration(b.seen.Load()), 0),
		Sent: b.sent.Load(), Received: b.received.Load(),
	}
}

// end sets why the session ends, if nobody has, and reports whether it did.
func (b *bookkeeping) end(cause error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause != nil {
		return false
	}
	b.cause = cause
	return true
}

// over reports whether the session has ended, or is about to.
func (b *bookkeeping) over() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cause != nil
}

func (b *bookkeeping) usage() Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Usage{
		Started: b.born, Duration: time.Since(b.born), Err: b.cause, Sent: b.sent.Load(), Received: b.received.Load(),
		SentPackets: b.sentPackets.Load(), ReceivedPackets: b.receivedPackets.Load(),
	}
}
