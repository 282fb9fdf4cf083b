package nfq

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/intercept"
)

// ErrQueueTaken is wrapped when another program reads a queue that we want.
var ErrQueueTaken = errors.New("nfq: another program reads the queue")

// burstSlots is how many packets one system call receives. More did not help in
// measurements, and verdicts of a burst wait for its last packet.
const burstSlots = 32

// socketPort is a netlink socket that owns a queue.
//
// The reader waits in a blocking system call, because that is the cheapest way
// to wait; stop wakes it by a request that does nothing but have an answer,
// which arrives on this very socket. There is no timeout and no second file
// descriptor to poll.
type socketPort struct {
	fd       int
	number   uint16
	slotSize int
	early    [][]byte // packets that came before the answer to the bind request
	stats    *os.File // nfnetlink_queue in proc, of our namespace
	stopping atomic.Bool
}

// openPort binds a queue in the network namespace of the calling thread.
func openPort(number uint16, cfg *Config) (port, error) {
	p := &socketPort{fd: -1, number: number, slotSize: slotSize(cfg.CopyRange)}
	if err := p.open(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("queue %d: %w", number, err), p.close())
	}
	return p, nil
}

// slotSize is what the longest message about a packet takes: the copied part and
// 512 bytes for everything else, of which some 200 are used.
func slotSize(copyRange int) int { return (copyRange + 512 + 511) &^ 511 }

func (p *socketPort) open(cfg *Config) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("%w: open netfilter socket: %w (does the kernel have nfnetlink?)", intercept.ErrNotInterceptable, err)
	}
	p.fd = fd
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, cfg.ReceiveBuffer); err != nil {
		return fmt.Errorf("%w: set receive buffer: %w (root or CAP_NET_ADMIN is needed)", intercept.ErrNotInterceptable, err)
	}
	// Without this option a full buffer makes the kernel refuse every packet
	// until we have read all of it. Stats.UserDrops counts the losses.
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 1); err != nil {
		return fmt.Errorf("switch off ENOBUFS: %w", err)
	}
	// The thread's view: /proc/net is that of the main thread.
	p.stats, err = os.Open("/proc/thread-self/net/netfilter/nfnetlink_queue")
	if err != nil {
		return fmt.Errorf("%w: this kernel has no NFQUEUE: %w (modprobe nfnetlink_queue)", intercept.ErrNotInterceptable, err)
	}
	return p.bindQueue(cfg)
}

// bindQueue binds and configures the queue in one message. A kernel that lacks a
// flag refuses the whole message, so the flags are tried one by one then.
func (p *socketPort) bindQueue(cfg *Config) error {
	flags := []uint32{flagGSO, flagUIDGID}
	if cfg.FailOpen {
		flags = append(flags, flagFailOpen)
	}
	params := queueParams{queue: p.number, copyRange: uint32(cfg.CopyRange), maxLen: uint32(cfg.MaxQueueLen)}
	for _, f := range flags {
		params.flags |= f
	}
	err := p.request(appendConfig(nil, params))
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
		return p.explain(err)
	}
	params.flags = 0
	if err := p.request(appendConfig(nil, params)); err != nil {
		return p.explain(err)
	}
	for _, f := range flags {
		if err := p.request(appendFlagsConfig(nil, p.number, f)); err != nil {
			if f == flagFailOpen {
				return fmt.Errorf("fail open: %w", err)
			}
			cfg.Logger.Warn("the kernel lacks a queue flag; without GSO (4) bulk traffic is slow, without UID (8) users are unknown",
				"queue", p.number, "flag", f, "error", err)
		}
	}
	return nil
}

// explain tells apart why a queue cannot be bound: the kernel says EPERM both
// without the right and when somebody else was quicker.
func (p *socketPort) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EBUSY):
		if line, ok := p.queueLine(); ok {
			return fmt.Errorf("%w: %w (netlink port %d, mostly its process id; is refd running?): %w",
				intercept.ErrNotInterceptable, ErrQueueTaken, line.portID, err)
		}
		return fmt.Errorf("%w: bind: %w (root or CAP_NET_ADMIN is needed)", intercept.ErrNotInterceptable, err)
	}
	return fmt.Errorf("%w: bind: %w", intercept.ErrNotInterceptable, err)
}

// request sends b and returns the kernel's answer, which is there when sending
// returns. Packets that come before it are kept for the reader.
func (p *socketPort) request(b []byte) error {
	if err := unix.Sendto(p.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	buf := make([]byte, p.slotSize)
	for {
		n, _, err := unix.Recvfrom(p.fd, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive answer: %w", err)
		}
		var m message
		if kind, _ := parse(buf[:n], &m); kind != messageError {
			p.early = append(p.early, append([]byte(nil), buf[:n]...))
			continue
		}
		if m.errno != 0 {
			return unix.Errno(m.errno)
		}
		return nil
	}
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// slots is the memory that bursts are received into.
type slots struct {
	size    int
	buf     []byte
	iovecs  [burstSlots]unix.Iovec
	headers [burstSlots]mmsghdr
	// misses counts since lingering was of use last.
	misses int
}

func newSlots(size int) *slots {
	s := &slots{size: size, buf: make([]byte, burstSlots*size)}
	for i := range s.headers {
		s.iovecs[i].Base = &s.buf[i*size]
		s.iovecs[i].SetLen(size)
		s.headers[i].hdr.Iov = &s.iovecs[i]
		s.headers[i].hdr.SetIovlen(1)
	}
	return s
}

func (s *slots) datagram(i int) []byte {
	b := s.buf[i*s.size:]
	return b[:min(int(s.headers[i].n), s.size)]
}

// tryReceive takes what is there. It does not tell the scheduler: it cannot
// block.
func (s *slots) tryReceive(fd int) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.headers[0])), burstSlots, unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

// lingering is how long a reader looks for more packets after a new connection.
// After lingerMisses times in vain it does so at every lingerRetry-th only.
const (
	lingering    = 60 * time.Microsecond
	lingerMisses = 8
	lingerRetry  = 32
)

// linger is tryReceive for a moment: new connections often follow each other, and
// to sleep and be woken costs more than the moment, above all in virtual
// machines. Where they do not follow, or those who make them need this
// processor, it is given up.
func (s *slots) linger(fd int) (int, unix.Errno) {
	if s.misses >= lingerMisses {
		if s.misses++; s.misses%lingerRetry != 0 {
			return 0, unix.EAGAIN
		}
	}
	for until := time.Now().Add(lingering); ; {
		n, e := s.tryReceive(fd)
		switch {
		case e != unix.EAGAIN:
			s.misses = 0
			return n, e
		case !time.Now().Before(until):
			s.misses++
			return n, e
		}
	}
}

// receive waits for one packet and takes what is there with it.
func (s *slots) receive(fd int) (int, unix.Errno) {
	n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.headers[0])), burstSlots, unix.MSG_WAITFORONE, 0, 0)
	return int(n), e
}

// read implements port.
func (p *socketPort) read(q *queue) error {
	// A reader that moves between threads pays for it in every burst.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, b := range p.early {
		q.receive(b, time.Now())
	}
	p.early = nil
	if err := q.flush(); err != nil {
		return err
	}
	s := newSlots(p.slotSize)
	for !p.stopping.Load() {
		n, e := s.tryReceive(p.fd)
		if e == unix.EAGAIN && q.settled && !q.left {
			n, e = s.linger(p.fd)
		}
		if e == unix.EAGAIN {
			n, e = s.receive(p.fd)
		}
		switch e {
		case 0:
		case unix.EAGAIN, unix.EINTR:
			continue
		case unix.ENOBUFS:
			// Packets were lost; the queue is as good as before.
			q.local[statENOBUFS]++
			continue
		default:
			return fmt.Errorf("queue %d: receive: %w", p.number, e)
		}
		if err := q.burstOf(s, n); err != nil {
			return err
		}
	}
	return nil
}

// burstOf decides about n datagrams.
func (q *queue) burstOf(s *slots, n int) error {
	now := time.Now()
	q.left, q.settled = false, false
	for i := range n {
		q.receive(s.datagram(i), now)
	}
	if err := q.flush(); err != nil {
		return err
	}
	if q.left {
		// Who got the packets is ready to run, but would wait until the
		// scheduler notices that this thread sleeps in the kernel. Between
		// unlocked goroutines changing over is cheap.
		runtime.UnlockOSThread()
		runtime.Gosched()
		runtime.LockOSThread()
	}
	return nil
}

// send implements sender. The kernel has carried out the verdicts when it
// returns, so a packet is on its way then.
func (p *socketPort) send(b []byte) error {
	to := unix.RawSockaddrNetlink{Family: unix.AF_NETLINK}
	for pause := time.Microsecond; ; pause *= 4 {
		_, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(p.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
			unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to))
		if e == 0 {
			return nil
		}
		if !passing(e) || pause >= 5*time.Second {
			return e
		}
		// A verdict that is not sent would hold its packet for ever, so it is
		// worth waiting, 5 s in all.
		time.Sleep(pause)
	}
}

// passing reports whether a send failed because memory is short, or a signal
// came.
func passing(e unix.Errno) bool {
	return e == unix.EAGAIN || e == unix.EINTR || e == unix.ENOBUFS || e == unix.ENOMEM
}

// stop implements port.
func (p *socketPort) stop() error {
	p.stopping.Store(true)
	if err := p.send(appendNoop(nil)); err != nil {
		return fmt.Errorf("queue %d: wake reader: %w", p.number, err)
	}
	return nil
}

// close implements port.
func (p *socketPort) close() error {
	var errs []error
	if p.fd >= 0 {
		errs = append(errs, unix.Close(p.fd))
		p.fd = -1
	}
	if p.stats != nil {
		errs = append(errs, p.stats.Close())
		p.stats = nil
	}
	return errors.Join(errs...)
}
