package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/packet"
)

// copyBuffer is how much of a stream is relayed at a time.
const copyBuffer = 32 << 10

// tcpSession is a TCP connection that is relayed.
type tcpSession struct {
	bookkeeping
	client     *net.TCPConn
	server     *net.TCPConn // set before connecting is false
	connecting atomic.Bool
	cancel     context.CancelFunc // ends the connecting
}

func (s *tcpSession) list(now time.Time) Session {
	l := s.bookkeeping.list(now)
	l.Connecting = s.connecting.Load()
	return l
}

// stop implements session: both sides are reset.
func (s *tcpSession) stop(cause error) {
	if !s.end(cause) {
		return
	}
	s.cancel()
	reset(s.client)
	if !s.connecting.Load() {
		reset(s.server)
	}
}

// reset ends a connection so that the other side knows that it is no orderly end.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // an error is of a connection that has ended
	_ = c.Close()      //nolint:errcheck // see above
}

// errorPause keeps an error that comes again and again from taking a whole processor.
const errorPause = 10 * time.Millisecond

// acceptTCP serves a listener until that is closed.
func (r *relay) acceptTCP(ctx context.Context, l net.Listener) error {
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil && err != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		case err != nil:
			time.Sleep(errorPause) // that client is gone again, or there is no room for another
			continue
		}
		tc, ok := c.(*net.TCPConn)
		if !ok {
			return fmt.Errorf("accept: got a %T", c)
		}
		r.stats.tcpAccepted.Add(1)
		if r.stats.tcpOpen.Add(1) > int64(r.srv.cfg.MaxTCP) || ctx.Err() != nil {
			r.stats.tcpOpen.Add(-1)
			r.stats.tcpLimited.Add(1)
			reset(tc)
			continue
		}
		r.work.Go(func() {
			defer r.stats.tcpOpen.Add(-1)
			r.serveTCP(tc)
		})
	}
}

func (r *relay) serveTCP(c *net.TCPConn) {
	peer := netip.AddrPort{}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		peer = client(a.AddrPort())
	}
	req, e, err := r.request(Request{Protocol: packet.TCP, Client: peer})
	if err != nil {
		r.stats.tcpRefused.Add(1)
		reset(c)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.srv.cfg.ConnectTimeout)
	defer cancel()
	s := &tcpSession{bookkeeping: bookkeeping{req: req, egress: e, peer: peer, born: time.Now()}, client: c, cancel: cancel}
	s.connecting.Store(true)
	over := r.begin(s)
	if err := s.connect(ctx, r); err != nil {
		s.end(err)
		reset(c)
	} else {
		s.relay(r)
	}
	u := s.usage()
	r.countTCP(u)
	over()
	r.finder.Done(req, u)
}

func (s *tcpSession) connect(ctx context.Context, r *relay) error {
	c, err := s.egress.Dial(ctx, "tcp", s.req.Destination)
	switch {
	case err != nil && s.over():
		return err // stop says why
	case errors.Is(err, ErrEgress):
		r.stats.tcpNoEgress.Add(1)
		return err
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		r.stats.tcpTimedOut.Add(1)
		return err
	case err != nil:
		r.stats.tcpNoConnect.Add(1)
		return err
	}
	tc, ok := c.(*net.TCPConn)
	if !ok {
		return errors.Join(fmt.Errorf("proxy: dialed a %T", c), c.Close())
	}
	s.server = tc
	s.connecting.Store(false)
	r.stats.tcpConnected.Add(1)
	if s.over() { // stopped before the server's side was there to be reset
		reset(tc)
		return ErrStopped
	}
	return nil
}

// relay passes on data until both sides have ended, or one of them broke.
func (s *tcpSession) relay(r *relay) {
	var both sync.WaitGroup
	half := func(to, from *net.TCPConn, n, total *atomic.Uint64) {
		if err := s.pump(to, from, r.srv.cfg.TCPIdle, n, total); err != nil {
			s.stop(err)
		}
	}
	both.Go(func() { half(s.server, s.client, &s.sent, &r.stats.tcpSent) })
	both.Go(func() { half(s.client, s.server, &s.received, &r.stats.tcpReceived) })
	both.Wait()
	_ = s.client.Close() // both directions have ended already
	_ = s.server.Close() //nolint:errcheck // see above
}

// pump passes on one direction, and its end.
func (s *tcpSession) pump(to, from *net.TCPConn, idle time.Duration, n, total *atomic.Uint64) error {
	buf := make([]byte, copyBuffer)
	for {
		if err := from.SetReadDeadline(time.Now().Add(idle)); err != nil {
			return err //nolint:wrapcheck // Usage.Err is the system's
		}
		got, err := from.Read(buf)
		if got > 0 {
			s.saw()
			if _, werr := to.Write(buf[:got]); werr != nil {
				return werr //nolint:wrapcheck // Usage.Err is the system's
			}
			n.Add(uint64(got))
			total.Add(uint64(got))
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if s.idle() >= idle { // in the other direction, too
				return fmt.Errorf("%w: %v", ErrIdle, idle)
			}
		case errors.Is(err, io.EOF):
			return to.CloseWrite() //nolint:wrapcheck // Usage.Err is the system's
		case err != nil:
			return err //nolint:wrapcheck // Usage.Err is the system's
		}
	}
}

// countTCP counts why a session ended, besides what connect counted.
func (r *relay) countTCP(u Usage) {
	switch {
	case errors.Is(u.Err, ErrStopped):
		r.stats.tcpStopped.Add(1)
	case errors.Is(u.Err, ErrIdle):
		r.stats.tcpIdle.Add(1)
	case u.Err != nil && (u.Sent > 0 || u.Received > 0):
		r.stats.tcpReset.Add(1)
	}
}
