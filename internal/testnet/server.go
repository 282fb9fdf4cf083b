package testnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/weirfw/weir/internal/testutil"
)

// Server answers inside a host until the test ends or Close is called, and counts.
type Server struct {
	addr     netip.AddrPort
	closer   io.Closer
	wg       sync.WaitGroup
	accepted atomic.Uint64
	packets  atomic.Uint64
	received atomic.Uint64
	sent     atomic.Uint64

	mu     sync.Mutex // guards conns and closed
	conns  map[net.Conn]struct{}
	closed bool
}

// TCPEcho sends back what it receives. The address is as for net.Listen: "[::]:7" is all addresses, port 0 is any port.
func (h *Host) TCPEcho(t testutil.TB, addr string) *Server {
	t.Helper()
	return h.serveTCP(t, addr, func(s *Server, c net.Conn) {
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			s.received.Add(uint64(n))
			written, writeErr := c.Write(buf[:n])
			s.sent.Add(uint64(written))
			if err != nil || writeErr != nil {
				return
			}
		}
	})
}

// TCPDiscard reads and forgets.
func (h *Host) TCPDiscard(t testutil.TB, addr string) *Server {
	t.Helper()
	return h.serveTCP(t, addr, func(s *Server, c net.Conn) {
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			s.received.Add(uint64(n))
			if err != nil {
				return
			}
		}
	})
}

// TCPSource sends bytes until the other side closes: a download without an end.
func (h *Host) TCPSource(t testutil.TB, addr string) *Server {
	t.Helper()
	return h.serveTCP(t, addr, func(s *Server, c net.Conn) {
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Write(buf)
			s.sent.Add(uint64(n))
			if err != nil {
				return
			}
		}
	})
}

// UDPEcho sends packets back to where they come from.
func (h *Host) UDPEcho(t testutil.TB, addr string) *Server {
	t.Helper()
	conn, err := h.ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		t.Fatalf("on %s: UDP echo on %s: %v", h.name, addr, err)
	}
	s := newServer(conn.LocalAddr(), conn)
	s.wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // an ICMP answer to something sent before
			}
			s.packets.Add(1)
			s.received.Add(uint64(n))
			if n, err = conn.WriteTo(buf[:n], from); err == nil {
				s.sent.Add(uint64(n))
			}
		}
	})
	t.Cleanup(s.Close)
	return s
}

// Addr is where the server listens, with the port it got.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Port is the port of Addr.
func (s *Server) Port() uint16 { return s.addr.Port() }

// Accepted is the number of TCP connections so far.
func (s *Server) Accepted() uint64 { return s.accepted.Load() }

// Packets is the number of UDP packets received.
func (s *Server) Packets() uint64 { return s.packets.Load() }

// Received is the number of bytes received.
func (s *Server) Received() uint64 { return s.received.Load() }

// Sent is the number of bytes given to the kernel to send.
func (s *Server) Sent() uint64 { return s.sent.Load() }

// Close ends the server and its connections, and waits for its goroutines. The end of the test does it too.
func (s *Server) Close() {
	_ = s.closer.Close() // closing twice is fine, and a listener has nothing to lose
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		_ = c.Close() // as above
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func newServer(addr net.Addr, closer io.Closer) *Server {
	return &Server{addr: netip.MustParseAddrPort(addr.String()), closer: closer, conns: map[net.Conn]struct{}{}}
}

func (h *Host) serveTCP(t testutil.TB, addr string, handle func(*Server, net.Conn)) *Server {
	t.Helper()
	listener, err := h.Listen(context.Background(), "tcp", addr)
	if err != nil {
		t.Fatalf("on %s: TCP server on %s: %v", h.name, addr, err)
	}
	s := newServer(listener.Addr(), listener)
	s.wg.Go(func() {
		for {
			c, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // a client that was gone before we looked
			}
			s.accepted.Add(1)
			if !s.keep(c) {
				return
			}
			s.wg.Go(func() {
				defer s.forget(c)
				handle(s, c)
			})
		}
	})
	t.Cleanup(s.Close)
	return s
}

// keep notes the connection so that Close ends it; false if Close has been called already.
func (s *Server) keep(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close() // nobody has used it
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	_ = c.Close() // the handler has seen the error that matters
}
