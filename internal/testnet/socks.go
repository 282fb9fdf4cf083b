package testnet

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/weirfw/weir/internal/testutil"
)

// SOCKS is a small SOCKS5 server: no authentication, CONNECT to addresses, IPv4 and IPv6 (RFC 1928).
type SOCKS struct {
	listener net.Listener
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	work     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	closed  bool
	open    map[net.Conn]struct{}
	targets []netip.AddrPort // of CONNECT, in order
	ended   int              // sessions that are over
}

// SOCKS serves on a host until Close or the end of the test, and connects from there.
func (h *Host) SOCKS(t testutil.TB, addr string) *SOCKS {
	t.Helper()
	l, err := h.Listen(context.Background(), "tcp", addr)
	if err != nil {
		t.Fatalf("on %s: serve SOCKS5: %v", h.name, err)
	}
	return ServeSOCKS(t, l, h.Dial)
}

// ServeSOCKS answers on l until Close or the end of the test, and connects by dial.
func ServeSOCKS(t testutil.TB, l net.Listener, dial func(ctx context.Context, network, address string) (net.Conn, error)) *SOCKS {
	t.Helper()
	s := &SOCKS{listener: l, dial: dial, open: map[net.Conn]struct{}{}}
	s.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.work.Go(func() { s.session(c) })
		}
	})
	t.Cleanup(s.Close)
	return s
}

// Close ends the server and all its connections.
func (s *SOCKS) Close() {
	_ = s.listener.Close() // that it is closed already is the only error
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		_ = c.Close() // its session sees that it is over
	}
	s.mu.Unlock()
	s.work.Wait()
}

// keep has Close end c.
func (s *SOCKS) keep(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = struct{}{}
	if s.closed {
		_ = c.Close() // its session sees that it is over
	}
}

func (s *SOCKS) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	_ = c.Close() // Close may have done so
}

func (s *SOCKS) session(c net.Conn) {
	s.keep(c)
	defer s.forget(c)
	to, err := handshake(c)
	if err != nil {
		return // also who only greets
	}
	s.mu.Lock()
	s.targets = append(s.targets, to)
	s.mu.Unlock()
	out, err := s.dial(context.Background(), "tcp", to.String())
	if err != nil {
		_, _ = c.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0}) //nolint:errcheck // connection refused; who asked may be gone
		return
	}
	s.keep(out)
	defer s.forget(out)
	_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0}) //nolint:errcheck // if it is gone, the copies end
	var back sync.WaitGroup
	back.Go(func() { pass(c, out) })
	pass(out, c)
	back.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended++
}

// pass copies from src to dst and passes the end on.
func pass(dst, src net.Conn) {
	if _, err := io.Copy(dst, src); err != nil {
		_ = dst.Close() // one of them was broken before
		_ = src.Close() // see above
		return
	}
	if d, ok := dst.(interface{ CloseWrite() error }); ok {
		_ = d.CloseWrite() // the other side may be gone
	}
}

// Asked returns where connections were wanted to, in order.
func (s *SOCKS) Asked() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.targets)
}

// Over returns how many sessions have ended.
func (s *SOCKS) Over() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// handshake reads the greeting and a CONNECT, and returns where to.
func handshake(c net.Conn) (to netip.AddrPort, err error) {
	b := make([]byte, 256)
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		return to, err
	}
	version, methods := b[0], b[2:2+int(b[1]%100)]
	if _, err := io.ReadFull(c, methods); err != nil {
		return to, err
	}
	if version != 5 || !slices.Contains(methods, 0) {
		return to, fmt.Errorf("version %d, methods %x", version, methods)
	}
	if _, err := c.Write([]byte{5, 0}); err != nil {
		return to, err
	}
	if _, err := io.ReadFull(c, b[:4]); err != nil {
		return to, err
	}
	size, ok := map[byte]int{1: 4, 4: 16}[b[3]]
	if b[0] != 5 || b[1] != 1 || !ok {
		return to, fmt.Errorf("request %x", b[:4])
	}
	if _, err := io.ReadFull(c, b[:size+2]); err != nil {
		return to, err
	}
	a, _ := netip.AddrFromSlice(b[:size])
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[size:])), nil
}
