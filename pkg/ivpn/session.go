package ivpn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"sync"
	"time"
)

// ErrNotConnected is wrapped when there is no daemon to ask, or no longer.
var ErrNotConnected = errors.New("ivpn: not connected")

// ErrTimeout is wrapped when the daemon takes too long.
var ErrTimeout = errors.New("ivpn: the daemon does not answer")

// DaemonError is the daemon's refusal of a request.
type DaemonError struct {
	Title, Message string
	// Type is the daemon's number; 1 means that the secret for privileged
	// requests is missing or wrong.
	Type int
}

// Error implements error.
func (e *DaemonError) Error() string {
	text := e.Message
	if e.Title != "" && e.Title != text {
		text = e.Title + ": " + text
	}
	return fmt.Sprintf("ivpn: the daemon refuses: %s (type %d)", text, e.Type)
}

// session is one connection to a daemon.
type session struct {
	conn   net.Conn
	in     *lines
	answer time.Duration // limit of an answer
	folder string        // where eaa is
	// heard is told what comes, by the reading goroutine.
	heard func(message, error)

	writing sync.Mutex // makes messages leave one by one; separate from mu, which is never held during I/O
	mu      sync.Mutex // guards what follows
	idx     uint32
	secret  string
	pending map[uint32]chan<- message
	ended   chan struct{} // closed when nothing comes any more
	err     error         // why; set before ended is closed
}

// dial connects to 127.0.0.1, from 127.0.0.1: the daemon answers nobody else.
func dial(ctx context.Context, port uint16, limit time.Duration) (net.Conn, error) {
	local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	d := net.Dialer{Timeout: limit, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp4", netip.AddrPortFrom(local, port).String())
	if err != nil {
		return nil, fmt.Errorf("connect to the daemon: %w", err)
	}
	if err := trustListener(port); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func newSession(c net.Conn, cfg *ClientConfig, folder string) *session {
	return &session{
		conn: c, in: newLines(c), answer: cfg.AnswerTimeout, folder: folder,
		pending: map[uint32]chan<- message{}, ended: make(chan struct{}),
	}
}

// read takes what comes until the connection ends.
func (s *session) read() {
	for {
		line, err := s.in.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the daemon closed the connection")
			}
			s.mu.Lock()
			s.err = fmt.Errorf("%w: %w", ErrNotConnected, err)
			close(s.ended)
			s.mu.Unlock()
			return
		}
		m, err := parse(line)
		// first what it says, then who waited for it
		s.heard(m, err)
		if err == nil {
			s.deliver(m)
		}
	}
}

// deliver hands a response to whoever asked.
func (s *session) deliver(m message) {
	switch m.Command {
	case cmdHelloResp, cmdEmptyResp, cmdErrorResp:
	default:
		return // only these answer our requests
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.pending[m.Idx]; ok {
		delete(s.pending, m.Idx)
		c <- m // buffered: one answer each
	}
}

// ask sends a request and returns its answer. If the daemon wants the secret of
// privileged requests, that is read, and the request sent once more.
func (s *session) ask(ctx context.Context, r stamped) (message, error) {
	m, err := s.askOnce(ctx, r)
	refusal, ok := err.(*DaemonError) //nolint:errorlint // askOnce returns it as it is
	if !ok || refusal.Type != errorSecret {
		return m, err
	}
	secret, readErr := readSecret(s.folder)
	switch {
	case errors.Is(readErr, fs.ErrNotExist):
		return m, err
	case readErr != nil:
		return m, errors.Join(err, readErr)
	}
	s.mu.Lock()
	s.secret = secret
	s.mu.Unlock()
	return s.askOnce(ctx, r)
}

func (s *session) askOnce(ctx context.Context, r stamped) (message, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.answer, ErrTimeout)
	defer cancel()
	reply := make(chan message, 1)
	s.mu.Lock()
	s.idx++
	idx := s.idx
	r.stamp(idx, s.secret)
	s.pending[idx] = reply
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.pending, idx)
		s.mu.Unlock()
	}()
	if err := s.send(ctx, r); err != nil {
		return message{}, err
	}
	select {
	case m := <-reply:
		return m, m.refusal()
	case <-s.ended:
		select {
		case m := <-reply: // the last thing that the daemon said
			return m, m.refusal()
		default:
			return message{}, s.err
		}
	case <-ctx.Done():
		return message{}, fmt.Errorf("wait for the daemon's answer: %w", context.Cause(ctx))
	}
}

// refusal is the error that an answer is, nil if it is none.
func (m message) refusal() error {
	if r, ok := m.body.(errorResp); ok {
		return &DaemonError{Title: r.ErrorTitle, Message: r.ErrorMessage, Type: r.ErrorType}
	}
	return nil
}

// send writes one message.
func (s *session) send(ctx context.Context, r stamped) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	deadline, _ := ctx.Deadline() // askOnce sets one
	if err := s.conn.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("%w: %w", ErrNotConnected, err)
	}
	if _, err := s.conn.Write(append(b, '\n')); err != nil {
		// half a message may be out: what follows would make no sense
		return fmt.Errorf("%w: %w", ErrNotConnected, errors.Join(err, s.conn.Close()))
	}
	return nil
}
