package nameserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weirfw/weir/pkg/packet"
)

const (
	// maxQuery is the longest packet that is read as a query. Those of stub resolvers have less than 512 bytes.
	maxQuery = 4096
	// udpBuffer is what the kernel is asked to keep for a socket: bursts come while nobody reads.
	udpBuffer = 1 << 20
	// readErrors is how many errors in a row make a socket one that does not work.
	readErrors = 100
	// perConn bounds the queries of one connection that are answered at a time (RFC 7766 section 6.2.1.1).
	perConn = 64
)

// listeners are the sockets of one time of listening.
type listeners struct {
	udp []*net.UDPConn
	tcp []*net.TCPListener

	mu     sync.Mutex // guards conns and closed
	conns  map[net.Conn]struct{}
	closed bool
}

// serve listens and answers until ctx is done or the Server is disabled. It returns when its sockets are closed and nobody uses them.
func (s *Server) serve(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l, err := s.listen()
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	for _, c := range l.udp {
		for range readers() {
			group.Go(func() { cancel(s.readUDP(ctx, c, &group)) })
		}
	}
	for _, t := range l.tcp {
		group.Go(func() { cancel(s.accept(ctx, l, t, &group)) })
	}
	ready()
	s.untilDisabled(ctx)
	cause := context.Cause(ctx)
	s.setAddrs(nil) // first, so that nothing is sent to closed sockets
	cancel(nil)
	err = l.close()
	group.Wait()
	if cause != nil && !errors.Is(cause, context.Canceled) {
		return errors.Join(cause, err)
	}
	return err
}

// untilDisabled waits for the end of ctx, or for settings without upstreams.
func (s *Server) untilDisabled(ctx context.Context) {
	for {
		changed := s.change()
		if !s.Enabled() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) setAddrs(addrs []netip.AddrPort) {
	s.mu.Lock()
	s.addrs = addrs
	s.mu.Unlock()
	if s.cfg.OnListen != nil {
		s.cfg.OnListen(slices.Clone(addrs))
	}
}

// listen opens all sockets. An address that this host cannot have, because it is without IPv6, is left out if there are others.
func (s *Server) listen() (*listeners, error) {
	l := &listeners{conns: map[net.Conn]struct{}{}}
	var addrs []netip.AddrPort
	var missing error
	for _, a := range s.cfg.Listen {
		got, err := l.open(a)
		if a.Addr().Is6() && (errors.Is(err, errNoAddress) || errors.Is(err, errNoFamily)) {
			missing = err
			continue
		}
		if err != nil {
			s.listenState(a, err)
			return nil, errors.Join(err, l.close())
		}
		addrs = append(addrs, got)
	}
	if len(addrs) == 0 {
		s.listenState(s.cfg.Listen[0], missing)
		return nil, missing
	}
	if s.cfg.States != nil {
		s.cfg.States.Remove(stateListen)
	}
	s.setAddrs(addrs)
	return l, nil
}

// anyPortTries bounds how often another port is tried where port 0 asks for any: the one that UDP gets may be taken by TCP.
const anyPortTries = 20

// open listens on one address by UDP and TCP, on the same port.
func (l *listeners) open(a netip.AddrPort) (got netip.AddrPort, err error) {
	for range anyPortTries {
		if got, err = l.openOnce(a); a.Port() != 0 || !errors.Is(err, errInUse) {
			break
		}
	}
	return got, err
}

func (l *listeners) openOnce(a netip.AddrPort) (got netip.AddrPort, err error) {
	family := "4"
	if a.Addr().Is6() {
		family = "6"
	}
	u, err := net.ListenUDP("udp"+family, net.UDPAddrFromAddrPort(a))
	if err != nil {
		return a, fmt.Errorf("nameserver: %w", err)
	}
	// The kernel may give less, which is enough for all but bursts.
	_ = u.SetReadBuffer(udpBuffer) // as said
	if got, err = netip.ParseAddrPort(u.LocalAddr().String()); err != nil {
		return a, errors.Join(fmt.Errorf("nameserver: %w", err), u.Close())
	}
	t, err := net.ListenTCP("tcp"+family, net.TCPAddrFromAddrPort(got))
	if err != nil {
		return a, errors.Join(fmt.Errorf("nameserver: %w", err), u.Close())
	}
	l.udp, l.tcp = append(l.udp, u), append(l.tcp, t)
	return got, nil
}

// close closes sockets and connections.
func (l *listeners) close() error {
	var errs []error
	for _, u := range l.udp {
		errs = append(errs, u.Close())
	}
	for _, t := range l.tcp {
		errs = append(errs, t.Close())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for c := range l.conns {
		_ = c.Close() // a client that is still there sees the end
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("nameserver: %w", err)
	}
	return nil
}

// readUDP answers the packets of one socket, those that have to wait in goroutines of group.
func (s *Server) readUDP(ctx context.Context, c *net.UDPConn, group *sync.WaitGroup) error {
	at, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return fmt.Errorf("nameserver: %w", err)
	}
	in, out, a := make([]byte, maxQuery), make([]byte, 0, maxQuery), new(ask)
	for errs := 0; ; {
		n, from, err := c.ReadFromUDPAddrPort(in)
		if err != nil {
			if errs++; ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			} else if errs >= readErrors {
				return fmt.Errorf("nameserver: %w", err)
			}
			continue // what went wrong with a packet that was sent, as Windows tells it
		}
		errs = 0
		reply, done := s.begin(a, in[:n], from, at, packet.UDP, out[:0])
		if !done {
			reply, done = s.fast(a, out[:0])
		}
		if done {
			s.send(c, reply, from)
			out = grown(out, reply)
			continue
		}
		if !s.takeSlot() {
			s.send(c, bareReply(out[:0], &a.req, serverFailure), from)
			continue
		}
		waiting := a.detach()
		group.Go(func() {
			defer s.freeSlot()
			s.send(c, s.slow(ctx, waiting), from)
		})
	}
}

// grown keeps the larger buffer.
func grown(buf, reply []byte) []byte {
	if cap(reply) > cap(buf) {
		return reply
	}
	return buf
}

// serverFailure is the rcode SERVFAIL.
const serverFailure = 2

// send answers a client. UDP promises nothing: one that got no answer asks again.
func (s *Server) send(c *net.UDPConn, b []byte, to netip.AddrPort) {
	if len(b) == 0 {
		return
	}
	if _, err := c.WriteToUDPAddrPort(b, to); err != nil {
		s.stats.unsent.Add(1)
	}
}

func (s *Server) takeSlot() bool {
	select {
	case s.slots <- struct{}{}:
		return true
	default:
		s.stats.overload.Add(1)
		return false
	}
}

func (s *Server) freeSlot() { <-s.slots }

// accept takes connections of clients.
func (s *Server) accept(ctx context.Context, l *listeners, t *net.TCPListener, group *sync.WaitGroup) error {
	at, err := netip.ParseAddrPort(t.Addr().String())
	if err != nil {
		return fmt.Errorf("nameserver: %w", err)
	}
	for errs := 0; ; {
		c, err := t.AcceptTCP()
		if err != nil {
			if errs++; ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			} else if errs >= readErrors {
				return fmt.Errorf("nameserver: %w", err)
			}
			// No descriptors, most likely: they come back when connections end.
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		errs = 0
		if !l.keep(c, s.cfg.MaxTCP) {
			s.stats.tcpRefused.Add(1)
			_ = c.Close() // nothing was read or written
			continue
		}
		s.stats.tcpConns.Add(1)
		group.Go(func() {
			defer l.forget(c)
			s.serveTCP(ctx, c, at)
		})
	}
}

// keep notes a connection, if there is room for it.
func (l *listeners) keep(c net.Conn, most int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.conns) >= most {
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *listeners) forget(c net.Conn) {
	l.mu.Lock()
	delete(l.conns, c)
	l.mu.Unlock()
	_ = c.Close() // what could be written has been
}

// serveTCP answers the queries of one connection, several at a time and in the order in which they are done.
func (s *Server) serveTCP(ctx context.Context, c net.Conn, at netip.AddrPort) {
	from, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return
	}
	w := &tcpWriter{conn: c, idle: s.cfg.TCPIdle}
	var group sync.WaitGroup
	defer group.Wait()
	busy := make(chan struct{}, perConn)
	for {
		// One deadline for a whole message: who sends a byte now and then gets nowhere.
		if err := c.SetReadDeadline(time.Now().Add(s.cfg.TCPIdle)); err != nil {
			return
		}
		pkt, err := readQuery(c)
		if err != nil {
			return
		}
		a := new(ask)
		reply, done := s.begin(a, pkt, from, at, packet.TCP, nil)
		if !done {
			reply, done = s.fast(a, nil)
		}
		if !done && !s.takeSlot() {
			reply, done = bareReply(nil, &a.req, serverFailure), true
		}
		if done {
			if !w.write(reply) {
				return
			}
			continue
		}
		busy <- struct{}{}
		group.Go(func() {
			defer func() { <-busy; s.freeSlot() }()
			if !w.write(s.slow(ctx, a)) {
				_ = c.Close() // the reader ends, too
			}
		})
	}
}

var errTooLong = errors.New("longer than any query")

// readQuery reads a message that is not longer than queries are.
func readQuery(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err //nolint:wrapcheck // the connection ends, whatever it is
	}
	n := binary.BigEndian.Uint16(head[:])
	if n > maxQuery {
		return nil, errTooLong
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err //nolint:wrapcheck // as above
}

// tcpWriter writes whole messages to a connection.
type tcpWriter struct {
	conn net.Conn
	idle time.Duration
	mu   sync.Mutex // held while a message is written, which has a deadline
}

// write sends a message; false if the connection is of no more use.
func (w *tcpWriter) write(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b)))
	framed = append(framed, b...)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.conn.SetWriteDeadline(time.Now().Add(w.idle)); err != nil {
		return false
	}
	_, err := w.conn.Write(framed)
	return err == nil
}
