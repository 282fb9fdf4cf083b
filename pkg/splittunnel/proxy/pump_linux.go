package proxy

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// smallRead is the shared buffer. A reading that fills it means bulk data, which is spliced from then on, until a splice
	// moves less than bulkLeast.
	smallRead = 16 << 10
	bulkLeast = smallRead / 2
	// pumpRounds is how often one direction of a session may read before others have their turn.
	pumpRounds = 8
)

// step is what one attempt to move data came to.
type step int

const (
	goOn  step = iota
	wait       // for an event
	ended      // the session
)

// pump moves what it can in direction d. It returns false if the session has ended.
func (l *loop) pump(s *tcpSession, d int) bool {
	h := &s.half[d]
	if s.connecting {
		return true
	}
	for round := 0; !h.closed; round++ {
		if round == pumpRounds {
			l.later(s, d)
			break
		}
		next := l.flush(s, d)
		if next == goOn {
			next = l.fill(s, d)
		}
		if next == ended {
			return false
		}
		if next == wait {
			break
		}
	}
	// Only data needs a pipe.
	if h.pipe.open && h.piped == 0 {
		l.warn(l.pipes.give(h.pipe))
		h.pipe = pipe{}
	}
	return true
}

// later gives the direction another turn after the events that wait.
func (l *loop) later(s *tcpSession, d int) {
	if !s.half[d].queued {
		s.half[d].queued = true
		l.again = append(l.again, turn{s.index, s.gen, d})
	}
}

// flush sends on what was read before, and then the end.
func (l *loop) flush(s *tcpSession, d int) step {
	h, dst := &s.half[d], s.fd[1-d]
	for len(h.held) > 0 {
		n, errno := send(dst, h.held, 0)
		if errno != 0 {
			return l.sendFailed(s, errno)
		}
		if h.held = h.held[n:]; len(h.held) == 0 {
			h.held = nil
		}
	}
	for h.piped > 0 {
		n, errno := splice(h.pipe.r, dst, h.piped)
		if n == 0 && errno == 0 {
			errno = unix.EPIPE // the pipe has less than was put in: cannot be, but must not be repeated for ever
		}
		if errno != 0 {
			return l.sendFailed(s, errno)
		}
		h.piped -= n
	}
	if !h.eof {
		return goOn
	}
	h.closed = true
	if s.half[1-d].closed {
		l.endTCP(s, nil, closeBoth)
		return ended
	}
	if err := unix.Shutdown(dst, unix.SHUT_WR); err != nil {
		return l.broken(s, fmt.Errorf("pass on the end of the data: %w", err))
	}
	return wait
}

func (l *loop) sendFailed(s *tcpSession, errno unix.Errno) step {
	switch errno {
	case unix.EAGAIN:
		return wait
	case unix.EINTR:
		return goOn
	}
	return l.broken(s, errno)
}

// broken resets both sides: what one of them did, the other shall see.
func (l *loop) broken(s *tcpSession, err error) step {
	l.stats.tcpReset.Add(1)
	l.endTCP(s, err, resetBoth)
	return ended
}

// fill reads once and sends what it can of it.
func (l *loop) fill(s *tcpSession, d int) step {
	h := &s.half[d]
	if len(h.held) > 0 || h.piped > 0 {
		return goOn // interrupted while flushing
	}
	if h.failed != 0 {
		return l.broken(s, h.failed)
	}
	if !h.readable {
		return wait
	}
	if h.bulk && !h.pipe.open {
		h.pipe, h.bulk = l.pipes.take()
	}
	if h.bulk {
		return l.fillPipe(s, d)
	}
	n, errno := recv(s.fd[d], l.buf)
	if st := l.didRead(s, d, n, errno); st != goOn || n == 0 {
		return st
	}
	h.bulk = n == len(l.buf)
	flags := 0
	switch {
	case h.bulk:
	case h.hup:
		// Nothing else tells what comes after the data. If it is their end, it goes with them in one packet.
		if n += l.readOn(s, d, n); h.eof {
			flags = unix.MSG_MORE
		}
	default:
		h.readable = false // it is empty: what comes now has an event of its own
	}
	sent, errno := send(s.fd[1-d], l.buf[:n], flags)
	if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
		return l.broken(s, errno)
	}
	if sent < n {
		h.held = append([]byte(nil), l.buf[sent:n]...)
	}
	return goOn
}

// readOn reads behind the n bytes in the buffer, where the end of the data or an error is, and perhaps more data. An error waits
// until the data have been sent.
func (l *loop) readOn(s *tcpSession, d, n int) int {
	h := &s.half[d]
	more, errno := recv(s.fd[d], l.buf[n:])
	switch {
	case errno == unix.EAGAIN:
		h.readable = false
	case errno == unix.EINTR:
	case errno != 0:
		h.failed = errno
	case more == 0:
		h.eof = true
	default:
		l.count(h, d, more)
	}
	return more
}

func (l *loop) fillPipe(s *tcpSession, d int) step {
	h := &s.half[d]
	n, errno := splice(s.fd[d], h.pipe.w, pipeSize)
	if st := l.didRead(s, d, n, errno); st != goOn {
		return st
	}
	h.piped = n
	h.bulk = n >= bulkLeast
	return goOn
}

// didRead looks at what reading came to.
func (l *loop) didRead(s *tcpSession, d, n int, errno unix.Errno) step {
	h := &s.half[d]
	switch {
	case errno == unix.EAGAIN:
		h.readable = false
		return wait
	case errno == unix.EINTR:
		return goOn
	case errno != 0:
		return l.broken(s, errno)
	case n == 0:
		h.eof = true
		return goOn
	}
	l.count(h, d, n)
	return goOn
}

func (l *loop) count(h *half, d, n int) {
	h.bytes += uint64(n)
	if d == toServer {
		l.stats.tcpSent.Add(uint64(n))
	} else {
		l.stats.tcpReceived.Add(uint64(n))
	}
}

// The calls below do not block and are short, so Go's scheduler need not know of them, but for splice, which may move a megabyte.
// They return 0 bytes with an error.

func recv(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func send(fd int, b []byte, flags int) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		uintptr(unix.MSG_NOSIGNAL|flags), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func splice(from, to, most int) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(most), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
