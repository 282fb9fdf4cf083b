package nameserver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/packet"
)

const (
	// streamIdle is how long a connection without questions is kept (RFC 7766 section 6.2.3 wants seconds).
	streamIdle = 10 * time.Second
	// streamDead is how long a connection with questions may be silent before it is given up: where the network has changed since it
	// was made, nobody will ever say so.
	streamDead = time.Second
	// maxPipelined bounds the questions on one connection.
	maxPipelined = 1024
)

var (
	errStreamEnd  = errors.New("the server closed the connection")
	errStreamFull = errors.New("too many questions on one connection")
)

// streamExchanger asks over one TCP or TLS connection, on which any number of questions are under way (RFC 7766 section 6.2.1.1).
type streamExchanger struct {
	upstream Upstream
	dialer   *dialer
	own      *ownQueries
	stats    *counters
	tls      *tls.Config // nil for TCP
	spawn    func(func())

	turn   chan struct{} // holds the right to dial
	mu     sync.Mutex    // guards current and closed
	cur    *stream
	closed bool
	noEDNS quirk
}

func (s *Server) newStreamExchanger(u Upstream, conf *tls.Config) *streamExchanger {
	return &streamExchanger{
		upstream: u, dialer: &s.dialer, own: &s.own, stats: &s.stats, tls: conf, spawn: s.spawn, turn: make(chan struct{}, 1),
	}
}

func (x *streamExchanger) close() {
	x.mu.Lock()
	cur := x.cur
	x.closed = true
	x.mu.Unlock()
	if cur != nil {
		cur.fail(net.ErrClosed)
	}
}

func (x *streamExchanger) exchange(ctx context.Context, o *outgoing) (*dns.Msg, error) {
	m, err := x.try(ctx, o, form{edns: !x.noEDNS.has(), pad: x.tls != nil})
	if errors.Is(err, errNoEDNS) {
		x.noEDNS.set()
		m, err = x.try(ctx, o, form{})
	}
	return m, err
}

// try asks on the connection there is, and on a new one if that has ended in the meantime, as servers may do at any time.
func (x *streamExchanger) try(ctx context.Context, o *outgoing, f form) (*dns.Msg, error) {
	for {
		c, used, err := x.connection(ctx)
		if err != nil {
			return nil, err
		}
		q, err := o.pack(f)
		if err != nil {
			return nil, err
		}
		b, err := c.ask(ctx, q, x, used)
		if err != nil && used && ctx.Err() == nil && !c.alive() {
			continue
		}
		if err != nil {
			return nil, err
		}
		if kind := q.match(b); kind == matchBare && f.edns {
			return nil, errNoEDNS
		} else if kind != matchExact {
			x.stats.wrong.Add(1)
			return nil, errForeign
		}
		m, err := decodeWhole(b)
		if err == nil && f.edns && withoutEDNS(m) {
			return nil, errNoEDNS
		}
		return m, err
	}
}

// connection returns the connection, and whether it was there already.
func (x *streamExchanger) connection(ctx context.Context) (c *stream, used bool, err error) {
	select {
	case x.turn <- struct{}{}:
		defer func() { <-x.turn }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	x.mu.Lock()
	c = x.cur
	x.mu.Unlock()
	if c != nil && c.alive() {
		return c, true, nil
	}
	conn, err := x.open(ctx)
	if err != nil {
		return nil, false, err
	}
	c = &stream{conn: conn, port: portOf(conn), waiting: map[uint16]chan []byte{}, dead: make(chan struct{})}
	x.mu.Lock()
	closed := x.closed
	x.cur = c
	x.mu.Unlock()
	if closed {
		c.fail(net.ErrClosed)
		return nil, false, fmt.Errorf("ask %v: %w", x.upstream, net.ErrClosed)
	}
	x.spawn(c.read)
	return c, false, nil
}

func (x *streamExchanger) open(ctx context.Context) (net.Conn, error) {
	c, err := x.dialer.dial(ctx, packet.TCP, x.upstream.Addr)
	if err != nil || x.tls == nil {
		return c, err
	}
	secure := tls.Client(c, x.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(&tlsError{err}, ignoreClosed(c.Close()))
	}
	return secure, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// tlsError marks failures of the handshake.
type tlsError struct{ err error }

func (e *tlsError) Error() string { return "TLS: " + e.err.Error() }
func (e *tlsError) Unwrap() error { return e.err }

// stream is one connection.
type stream struct {
	conn  net.Conn
	port  uint16
	heard atomic.Int64 // when something last came, in ns

	writing sync.Mutex // held while a message is written, which has a deadline

	mu      sync.Mutex // guards what follows
	waiting map[uint16]chan []byte
	err     error
	dead    chan struct{} // closed with err set
}

func (c *stream) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil
}

// fail ends the connection; err is what those who wait are told.
func (c *stream) fail(err error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = err
		close(c.dead)
	}
	c.mu.Unlock()
	if first {
		_ = c.conn.Close() // there is nothing left that could be lost
	}
}

// enter gives the question an id that is free on this connection.
func (c *stream) enter(q *packed) (chan []byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	if len(c.waiting) >= maxPipelined {
		return nil, errStreamFull
	}
	for c.waiting[q.id()] != nil {
		q.setID(q.id() + 1)
	}
	answer := make(chan []byte, 1)
	c.waiting[q.id()] = answer
	return answer, c.conn.SetReadDeadline(time.Time{}) //nolint:wrapcheck // the connection's own end
}

// leave takes a question back. Without any the connection is idle.
func (c *stream) leave(id uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
	if len(c.waiting) == 0 && c.err == nil {
		_ = c.conn.SetReadDeadline(time.Now().Add(streamIdle)) // a closed connection needs none
	}
}

// ask sends a question and waits for the packet with its id. A connection that has been used before has to say something within streamDead;
// with a new one the server may need that long.
func (c *stream) ask(ctx context.Context, q *packed, x *streamExchanger, used bool) ([]byte, error) { //nolint:revive // about the connection
	answer, err := c.enter(q)
	if err != nil {
		return nil, err
	}
	defer c.leave(q.id())
	if x.tls == nil {
		defer x.own.note(packet.TCP, c.port, q)()
	}
	began := time.Now()
	if err := c.write(q.wire); err != nil {
		c.fail(err)
		return nil, err
	}
	if used {
		silence := time.AfterFunc(streamDead, func() {
			if c.heard.Load() < began.UnixNano() {
				c.fail(errSilent)
			}
		})
		defer silence.Stop()
	}
	select {
	case b := <-answer:
		return b, nil
	case <-c.dead:
		select {
		case b := <-answer: // it came before the end
			return b, nil
		default:
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return nil, c.err
	case <-ctx.Done():
		if c.heard.Load() < began.UnixNano() && time.Since(began) >= streamDead {
			c.fail(ctx.Err()) // nobody else shall wait for it
		}
		return nil, ctx.Err()
	}
}

func (c *stream) write(wire []byte) error {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(wire)), uint16(len(wire)))
	b = append(b, wire...) // one segment: RFC 7766 section 8
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(streamDead)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if _, err := c.conn.Write(b); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// read hands packets to those who wait, until the connection ends.
func (c *stream) read() {
	for {
		b, err := readMessage(c.conn)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errStreamEnd
			}
			c.fail(err)
			return
		}
		c.heard.Store(time.Now().UnixNano())
		if len(b) < headerLen {
			c.fail(errMalformed)
			return
		}
		c.mu.Lock()
		answer := c.waiting[binary.BigEndian.Uint16(b)]
		c.mu.Unlock()
		if answer == nil {
			continue // nobody waits any more
		}
		select {
		case answer <- b:
		default: // a second answer
		}
	}
}

// readMessage reads one message with its length before it (RFC 1035 section 4.2.2).
func readMessage(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err //nolint:wrapcheck // callers tell the end from other errors
	}
	b := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read a message of %d bytes: %w", len(b), err)
	}
	return b, nil
}
