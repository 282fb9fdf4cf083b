package procinfo

import (
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// diagPool is a few NETLINK_SOCK_DIAG sockets, so that lookups need not wait for
// each other.
type diagPool struct {
	sockets []diagSocket
	next    atomic.Uint32
	// has tells which protocols the kernel answers for.
	has [256]bool
}

// diagSocket is one of them. It answers for the network namespace of the thread
// that opened it.
type diagSocket struct {
	// mu guards everything below, and is held for a question and its answer:
	// they belong together, and the kernel answers at once.
	mu  sync.Mutex
	fd  int
	seq uint32
	req [diagRequestLen]byte
	buf []byte
}

func newDiagPool(size int) (*diagPool, error) {
	const bufferSize = 32 << 10 // the kernel makes no larger message for a list
	p := &diagPool{sockets: make([]diagSocket, size)}
	for i := range p.sockets {
		p.sockets[i].fd = -1
	}
	for i := range p.sockets {
		s := &p.sockets[i]
		fd, err := openDiag()
		if err != nil {
			p.close()
			return nil, err
		}
		s.fd, s.buf = fd, make([]byte, bufferSize)
	}
	p.probe()
	return p, nil
}

func openDiag() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return -1, fmt.Errorf("open inet_diag socket: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		closeFD(fd)
		return -1, fmt.Errorf("connect inet_diag socket: %w", err)
	}
	// The kernel answers before it returns from the question; should it not, we
	// would rather not wait for ever.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		closeFD(fd)
		return -1, fmt.Errorf("set timeout of inet_diag socket: %w", err)
	}
	return fd, nil
}

// probe asks for lists that are empty by construction: a missing protocol is
// ENOENT there, while for one socket it could not be told from "no such socket".
func (p *diagPool) probe() {
	for _, protocol := range [...]uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_UDPLITE} {
		_, err := p.list(&query{protocol: protocol, family: unix.AF_INET}, nil)
		p.has[protocol] = err == nil
	}
}

func (p *diagPool) close() {
	for i := range p.sockets {
		s := &p.sockets[i]
		s.mu.Lock()
		closeFD(s.fd)
		s.fd = -1
		s.mu.Unlock()
	}
}

// acquire returns a locked socket, a free one if there is one.
func (p *diagPool) acquire() *diagSocket {
	first := int(p.next.Add(1))
	for i := range p.sockets {
		if s := &p.sockets[(first+i)%len(p.sockets)]; s.mu.TryLock() {
			return s
		}
	}
	s := &p.sockets[first%len(p.sockets)]
	s.mu.Lock()
	return s
}

// exact returns the socket that the kernel finds for the query: a connected
// one, else the listening or bound one it would give a packet to. The error is
// ENOENT if there is none.
func (p *diagPool) exact(q *query) (sock, error) {
	d := p.acquire()
	defer d.mu.Unlock()
	if err := d.ask(q); err != nil {
		return sock{}, err
	}
	for {
		b, err := d.answer()
		if err != nil {
			return sock{}, err
		}
		r, _, ok := nextReply(b)
		switch {
		case !ok:
			return sock{}, fmt.Errorf("read inet_diag answer: %w", errFormat)
		case r.seq != d.seq:
			continue // the late end of an earlier question
		case r.kind == sockDiagFamily:
			return r.sock, nil
		case r.errno != 0:
			return sock{}, unix.Errno(r.errno)
		}
	}
}

// list appends all sockets with the query's family, states and local port.
func (p *diagPool) list(q *query, into []sock) ([]sock, error) {
	ask := *q
	ask.list = true
	d := p.acquire()
	defer d.mu.Unlock()
	if err := d.send(&ask); err != nil {
		return into, err
	}
	for {
		b, err := d.receive()
		if err != nil {
			return into, err
		}
		for {
			r, rest, ok := nextReply(b)
			if !ok {
				break
			}
			b = rest
			switch {
			case r.seq != d.seq:
			case r.kind == sockDiagFamily:
				into = append(into, r.sock)
			case r.errno != 0:
				return into, unix.Errno(r.errno)
			case r.kind == nlmsgDone:
				return into, nil
			}
		}
	}
}

// ask and answer are send and receive for one socket: the kernel looks it up in
// a few microseconds, and has the answer ready before the question returns, so
// the scheduler need not be told of the calls.
func (d *diagSocket) ask(q *query) error {
	if d.fd < 0 {
		return ErrClosed
	}
	d.seq++
	q.put(&d.req, d.seq)
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(d.fd), uintptr(unsafe.Pointer(&d.req[0])), uintptr(len(d.req)))
	if errno != 0 {
		return fmt.Errorf("ask inet_diag: %w", errno)
	}
	return nil
}

func (d *diagSocket) answer() ([]byte, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(d.fd),
		uintptr(unsafe.Pointer(&d.buf[0])), uintptr(len(d.buf)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return d.receive()
	}
	return d.buf[:n], nil
}

func (d *diagSocket) send(q *query) error {
	if d.fd < 0 {
		return ErrClosed
	}
	d.seq++
	q.put(&d.req, d.seq)
	for {
		_, err := unix.Write(d.fd, d.req[:])
		switch err {
		case nil:
			return nil
		case unix.EINTR:
		default:
			return fmt.Errorf("ask inet_diag: %w", err)
		}
	}
}

func (d *diagSocket) receive() ([]byte, error) {
	for {
		n, err := unix.Read(d.fd, d.buf)
		switch err {
		case nil:
			return d.buf[:n], nil
		case unix.EINTR:
		default:
			return nil, fmt.Errorf("read inet_diag answer: %w", err)
		}
	}
}
