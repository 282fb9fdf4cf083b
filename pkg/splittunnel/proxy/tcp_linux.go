package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/packet"
)

// acceptAtOnce is how many clients are accepted before others have their turn.
const acceptAtOnce = 64

// The two directions, and the two sides of a session: data in direction d comes from side d.
const (
	toServer = 0 // from the client
	toClient = 1 // from the destination
)

// tcpSession is one relayed connection.
type tcpSession struct {
	index      int32
	gen        uint32
	fd         [2]int // the client's socket and the one to the destination
	connecting bool
	half       [2]half
	req        Request
	egress     Egress
	peer       netip.AddrPort
	born, seen time.Duration
}

// half is one direction of a session.
type half struct {
	pipe     pipe
	piped    int    // bytes in the pipe
	held     []byte // read, but not yet taken by the other side
	bytes    uint64
	readable bool       // the last reading did not empty the socket
	bulk     bool       // the last reading was as large as the buffer
	hup      bool       // an end or an error follows the data, and no other event will tell
	eof      bool       // the sender has closed
	closed   bool       // and the receiver knows
	queued   bool       // in loop.again
	failed   unix.Errno // what reading ended with, after the data
}

func listenTCP(addr netip.AddrPort) (int, error) {
	// What is set here before listening, accepted sockets have from the start.
	fd, err := bindListen(addr, unix.SOCK_STREAM,
		option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1, "SO_REUSEADDR"},
		option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1, "SO_REUSEPORT"},
		option{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1, "TCP_NODELAY"},
		option{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, "SO_KEEPALIVE"},
		option{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepIdle, "TCP_KEEPIDLE"})
	if err != nil {
		return -1, err
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return -1, errors.Join(fmt.Errorf("listen: %w", err), closeFD(fd))
	}
	return fd, nil
}

func acceptOne(listener int) (fd int, peer netip.AddrPort, errno unix.Errno) {
	sa := sockaddr{len: unix.SizeofSockaddrInet6}
	r, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&sa.raw)),
		uintptr(unsafe.Pointer(&sa.len)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return int(r), addrPort(&sa.raw), 0
}

// accept takes the clients that wait. The listener is watched by level: those that are left over come with the next event.
func (l *loop) accept(n *listener) {
	for range acceptAtOnce {
		if n.tcp < 0 {
			return
		}
		fd, peer, errno := acceptOne(n.tcp)
		switch errno {
		case 0:
		case unix.EINTR, unix.ECONNABORTED:
			continue
		case unix.EMFILE, unix.ENFILE:
			l.shed(n)
			return
		default:
			return // EAGAIN, or memory is short: the next event tries again
		}
		l.runCommands()
		l.stats.tcpAccepted.Add(1)
		if l.srv.impl.openTCP.Add(1) > int64(l.srv.cfg.MaxTCP) {
			l.stats.tcpLimited.Add(1)
			l.reject(fd)
			continue
		}
		if err := l.openTCP(n, fd, peer); err != nil {
			l.reject(fd)
		}
	}
}

// reject resets a client that got no session.
func (l *loop) reject(fd int) {
	l.srv.impl.openTCP.Add(-1)
	l.warn(errors.Join(abortive(fd), closeFD(fd)))
}

// warn logs what should not happen, and changes nothing if it does.
func (l *loop) warn(err error) {
	if err != nil {
		l.srv.cfg.Log.Warn("proxy: unexpected", "error", err)
	}
}

// shed refuses a client when there is no descriptor to accept it with: otherwise it would wait for one, and so would we, in a
// busy loop.
func (l *loop) shed(n *listener) {
	l.stats.tcpLimited.Add(1)
	if l.spareFD >= 0 {
		l.warn(closeFD(l.spareFD))
		l.spareFD = -1
	}
	if fd, _, errno := acceptOne(n.tcp); errno == 0 {
		l.warn(errors.Join(abortive(fd), closeFD(fd)))
	}
	if fd, err := openSpare(); err == nil {
		l.spareFD = fd
	}
}

// openTCP begins a session for the client's socket. After an error the socket is still the caller's.
func (l *loop) openTCP(n *listener, fd int, peer netip.AddrPort) error {
	dst, err := original(fd, n.addr.Addr())
	if err != nil || l.isOwn(dst) {
		l.stats.tcpRefused.Add(1)
		return errors.Join(err, ErrUnknown)
	}
	req := Request{Protocol: packet.TCP, Client: peer, Destination: dst}
	egress, err := l.srv.cfg.Director.Direct(req)
	if errors.Is(err, ErrUnknown) {
		// Its port may have been changed on the way, because another connection of the client's port was there first.
		if orig, lookErr := l.track.original(ctTuple{packet.TCP, n.addr, peer}); lookErr == nil && orig.src != peer {
			req.Client = orig.src
			egress, err = l.srv.cfg.Director.Direct(req)
		}
	}
	if err != nil {
		l.stats.tcpRefused.Add(1)
		return fmt.Errorf("%v: %w", dst, err)
	}
	s := &tcpSession{
		fd: [2]int{fd, -1}, connecting: true, req: req, egress: egress, peer: peer, born: l.now, seen: l.now,
	}
	if err := l.connect(s); err != nil {
		l.srv.cfg.Director.Done(req, l.usage(s.born, err))
		return err
	}
	return nil
}

// connect opens the way to the destination and watches both sockets.
func (l *loop) connect(s *tcpSession) error {
	up, err := s.egress.dial(unix.SOCK_STREAM, s.req.Destination)
	if err != nil {
		switch {
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
			l.stats.tcpLimited.Add(1)
		case errors.Is(err, ErrEgress):
			l.stats.tcpNoEgress.Add(1)
		default:
			l.stats.tcpNoConnect.Add(1)
		}
		return err
	}
	s.fd[toClient] = up
	s.index, s.gen = l.tcp.put(s)
	for side, fd := range s.fd {
		if err := l.watch(fd, edge, kindTCP, s.index, s.gen, int32(side)); err != nil {
			l.tcp.remove(s.index)
			return errors.Join(err, closeFD(up))
		}
	}
	l.tcpOf[s.req] = s
	l.stats.tcpOpen.Add(1)
	return nil
}

// isOwn reports whether dst is the proxy itself: somebody connected without being redirected.
func (l *loop) isOwn(dst netip.AddrPort) bool {
	for _, n := range l.listeners {
		if n.addr == dst {
			return true
		}
	}
	return false
}

func (l *loop) tcpEvent(s *tcpSession, side int, events uint32) {
	hup := events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	if s.connecting && !l.connected(s, side, events) {
		return
	}
	s.seen = l.now
	if events&unix.EPOLLIN != 0 || hup {
		h := &s.half[side]
		h.readable = true
		h.hup = h.hup || hup
		if !l.pump(s, side) {
			return
		}
	}
	if events&unix.EPOLLOUT != 0 {
		l.pump(s, 1-side)
	}
}

// connected handles an event of a session that waits for its destination. It returns true when data may flow.
func (l *loop) connected(s *tcpSession, side int, events uint32) bool {
	broken := events&(unix.EPOLLERR|unix.EPOLLHUP) != 0
	switch {
	case side == toServer && broken:
		l.endTCP(s, fmt.Errorf("client gave up before %v answered: %w", s.req.Destination, unix.ECONNRESET), resetBoth)
		return false
	case side == toServer:
		// The client's data stays where it is; the end of the data must not be forgotten.
		h := &s.half[toServer]
		h.hup = h.hup || events&unix.EPOLLRDHUP != 0
		return false
	case broken:
		err := socketError(s.fd[toClient])
		l.stats.tcpNoConnect.Add(1)
		l.endTCP(s, fmt.Errorf("connect to %v: %w", s.req.Destination, err), resetBoth)
		return false
	case events&unix.EPOLLOUT == 0:
		return false
	}
	s.connecting = false
	l.stats.tcpConnected.Add(1)
	s.half[toServer].readable = true
	return l.pump(s, toServer)
}

// socketError takes the error that a socket has waiting; ECONNABORTED if it does not say.
func socketError(fd int) error {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		return fmt.Errorf("get SO_ERROR: %w", err)
	case n == 0:
		return unix.ECONNABORTED
	}
	return unix.Errno(n)
}

// ending says how the sockets of a session are closed.
type ending int

const (
	closeBoth ending = iota // what was sent still arrives
	resetBoth
)

// endTCP ends a session; s is gone afterwards.
func (l *loop) endTCP(s *tcpSession, cause error, how ending) {
	for d := range s.half {
		h := &s.half[d]
		if h.pipe.open {
			l.warn(l.pipes.discard(h.pipe))
			h.pipe = pipe{}
		}
		h.held = nil
	}
	for _, fd := range s.fd {
		if how == resetBoth {
			l.warn(abortive(fd))
		}
		l.warn(closeFD(fd))
	}
	l.tcp.remove(s.index)
	if l.tcpOf[s.req] == s {
		delete(l.tcpOf, s.req)
	}
	l.srv.impl.openTCP.Add(-1)
	l.stats.tcpOpen.Add(-1)
	u := l.usage(s.born, cause)
	u.Sent, u.Received = s.half[toServer].bytes, s.half[toClient].bytes
	l.srv.cfg.Director.Done(s.req, u)
}
