package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// impl is what a Server has on this system.
type impl struct {
	running atomic.Bool
	epoch   time.Time             // of the loops' clocks; set by Run before loops start
	active  atomic.Pointer[fleet] // the loops while Run is active
	openTCP atomic.Int64          // of all loops, against MaxTCP
	openUDP atomic.Int64
}

// fleet is the loops of one Run.
type fleet struct {
	loops     []*loop
	addrs     []netip.AddrPort
	accepting atomic.Bool
}

func supported() error { return nil }

func (i *impl) clock() time.Duration { return time.Since(i.epoch) }

func (s *Server) run(ctx context.Context, ready func()) error {
	if !s.impl.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer s.impl.running.Store(false)
	s.impl.epoch = time.Now()
	f, err := s.newFleet()
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	s.impl.active.Store(f)
	defer s.impl.active.Store(nil)
	// A loop that fails takes the others with it: half a proxy would let half of the connections hang.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(f.loops))
	var wg sync.WaitGroup
	for n, l := range f.loops {
		wg.Go(func() {
			defer cancel()
			errs[n] = l.run()
		})
	}
	if ready != nil {
		ready()
	}
	<-ctx.Done()
	f.accepting.Store(false)
	for _, l := range f.loops {
		l.post(func() { l.stop(s.cfg.Drain) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Server) newFleet() (_ *fleet, err error) {
	f := &fleet{}
	defer func() {
		if err != nil {
			for _, l := range f.loops {
				err = errors.Join(err, l.close())
			}
		}
	}()
	if f.addrs, err = s.usableAddrs(); err != nil {
		return f, err
	}
	for n := range s.cfg.Loops {
		l, err := newLoop(s, &s.counters[n], f.addrs)
		if err != nil {
			return f, err
		}
		f.loops = append(f.loops, l)
	}
	// Only now: the kernel spreads connections over all sockets of an address, and where it would put a UDP client must not
	// change while there are sessions.
	for _, l := range f.loops {
		if err := l.open(); err != nil {
			return f, err
		}
	}
	f.accepting.Store(true)
	return f, nil
}

// usableAddrs makes sure that nobody else listens on the addresses. The loops share each of them (SO_REUSEPORT), and without
// this look they would share it with another proxy, too, and both would get half of the connections.
func (s *Server) usableAddrs() ([]netip.AddrPort, error) {
	addrs, optional := s.cfg.Listen, false
	if len(addrs) == 0 {
		addrs, optional = DefaultListen(), true
	}
	var usable []netip.AddrPort
	for _, a := range addrs {
		err := probe(a)
		if optional && isIPv6Missing(a.Addr(), err) {
			s.cfg.Log.Warn("proxy: no IPv6 on this host: IPv6 connections are not relayed", "address", a, "error", err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listen on %v: %w", a, err)
		}
		usable = append(usable, a)
	}
	return usable, nil
}

func probe(a netip.AddrPort) error {
	t, err := bindListen(a, unix.SOCK_STREAM, option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1, "SO_REUSEADDR"})
	if err == nil {
		// With SO_REUSEADDR, bind tells nothing about somebody who listens; listen does.
		if err = unix.Listen(t, 1); err != nil {
			err = fmt.Errorf("listen: %w", err)
		}
		err = errors.Join(err, closeFD(t))
	}
	if err != nil {
		return err
	}
	u, err := bindListen(a, unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	return closeFD(u)
}

// addrs is not to be changed by the caller.
func (s *Server) addrs() []netip.AddrPort {
	f := s.impl.active.Load()
	if f == nil || !f.accepting.Load() {
		return nil
	}
	return f.addrs
}

// everywhere runs f on the threads of all loops. done, if not nil, is called when all have run it or ended.
func (s *Server) everywhere(f func(*loop), done func()) {
	fleet := s.impl.active.Load()
	var left atomic.Int64
	finish := func() {
		if left.Add(-1) == 0 && done != nil {
			done()
		}
	}
	if fleet == nil {
		left.Store(1)
		finish()
		return
	}
	left.Store(int64(len(fleet.loops)))
	for _, l := range fleet.loops {
		if !l.post(func() { f(l); finish() }) {
			finish()
		}
	}
}

func (s *Server) reset(r Request) {
	stopped := fmt.Errorf("%w: the connection was ended", ErrStopped)
	s.everywhere(func(l *loop) { l.stopOne(stopped, r) }, nil)
}

func (s *Server) cut(ctx context.Context, which func(Request, Egress) bool) (int, error) {
	var n atomic.Int64
	done := make(chan struct{})
	stopped := fmt.Errorf("%w: its way out is closed", ErrStopped)
	s.everywhere(func(l *loop) { n.Add(int64(l.stopIf(stopped, which))) }, func() { close(done) })
	select {
	case <-done:
		return int(n.Load()), nil
	case <-ctx.Done():
		return int(n.Load()), ctx.Err()
	}
}

// stopOne ends the sessions of r.
func (l *loop) stopOne(cause error, r Request) {
	if s := l.tcpOf[r]; s != nil {
		l.stopTCP(s, cause)
	}
	if s := l.udpOf[r]; s != nil {
		l.stopUDP(s, cause)
	}
}

// stopIf ends the sessions that which chooses, and returns their number.
func (l *loop) stopIf(cause error, which func(Request, Egress) bool) (n int) {
	l.tcp.each(func(s *tcpSession) {
		if which(s.req, s.egress) {
			n++
			l.stopTCP(s, cause)
		}
	})
	l.udp.each(func(s *udpSession) {
		if which(s.req, s.egress) {
			n++
			l.stopUDP(s, cause)
		}
	})
	return n
}

func (l *loop) stopTCP(s *tcpSession, cause error) {
	l.stats.tcpStopped.Add(1)
	l.endTCP(s, cause, resetBoth)
}

func (l *loop) stopUDP(s *udpSession, cause error) {
	l.stats.udpStopped.Add(1)
	l.endUDP(s, cause)
}

func (s *Server) sessions() []Session {
	var mu sync.Mutex // guards all
	var all []Session
	done := make(chan struct{})
	s.everywhere(func(l *loop) {
		mine := l.list()
		mu.Lock()
		defer mu.Unlock()
		all = append(all, mine...)
	}, func() { close(done) })
	<-done
	return all
}

func (l *loop) list() []Session {
	list := make([]Session, 0, l.tcp.len()+l.udp.len())
	now := l.srv.impl.clock()
	l.tcp.each(func(s *tcpSession) {
		list = append(list, Session{
			Request: s.req, Egress: s.egress, Peer: s.peer, Connecting: s.connecting, Age: now - s.born, Idle: now - s.seen,
			Sent: s.half[toServer].bytes, Received: s.half[toClient].bytes,
		})
	})
	l.udp.each(func(s *udpSession) {
		list = append(list, Session{
			Request: s.req, Egress: s.egress, Peer: s.peer, Age: now - s.born, Idle: now - max(s.fromClient, s.fromServer),
			Sent: s.sent, Received: s.received,
		})
	})
	return list
}

// usage is what Done is told.
func (l *loop) usage(born time.Duration, cause error) Usage {
	return Usage{Started: l.srv.impl.epoch.Add(born), Duration: l.srv.impl.clock() - born, Err: cause}
}
