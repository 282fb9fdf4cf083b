package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What an event is about.
const (
	kindWake = iota
	kindTCPListener
	kindUDPListener
	kindTCP
	kindUDP
	kindBits = 3
)

const (
	// eventsAtOnce is how many events one question to the kernel may return.
	eventsAtOnce = 256
	// sweepEvery is how often sessions are looked at for having been idle, and connections for taking too long.
	sweepEvery = 500 * time.Millisecond
	// edge is what TCP sockets are watched for: each change once.
	edge = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET
)

// loop is one thread with its sockets and sessions. Only that thread touches its fields, but those that say otherwise.
type loop struct {
	srv   *Server
	stats *counters
	ep    int
	wake  int // eventfd
	track *tracker

	now       time.Duration // since srv.impl.epoch; read once for each round of events
	nextSweep time.Duration
	stopping  bool
	deadline  time.Duration // once stopping

	listeners []*listener
	tcp       slab[tcpSession]
	tcpOf     map[Request]*tcpSession
	udp       slab[udpSession]
	udpOf     map[Request]*udpSession
	again     []turn // TCP sessions that have more to do than one turn allows
	turns     []turn // spare of again
	pipes     pipes
	buf       []byte // for small TCP messages
	spareFD   int    // given up to refuse clients when there are no descriptors left; -1 if there is none
	batch     *batch

	mu       sync.Mutex // guards commands and ended
	commands []func()
	ended    bool
	pending  atomic.Bool // there are commands
}

// listener is an address to which connections are redirected.
type listener struct {
	index  int
	addr   netip.AddrPort
	tcp    int // -1 once closed
	udp    int
	dgrams outlet
	peers  map[netip.AddrPort]*udpSession
}

// turn names a direction of a TCP session.
type turn struct {
	index int32
	gen   uint32
	dir   int
}

func newLoop(srv *Server, stats *counters, addrs []netip.AddrPort) (_ *loop, err error) {
	l := &loop{
		srv: srv, stats: stats, ep: -1, wake: -1, spareFD: -1,
		tcpOf: map[Request]*tcpSession{}, udpOf: map[Request]*udpSession{}, buf: make([]byte, smallRead),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if l.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make an epoll descriptor: %w", err)
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make an event descriptor: %w", err)
	}
	if err = l.watch(l.wake, unix.EPOLLIN, kindWake, 0, 0, 0); err != nil {
		return nil, err
	}
	if l.track, err = openTracker(); err != nil {
		return nil, err
	}
	if l.batch, err = newBatch(); err != nil {
		return nil, err
	}
	if l.spareFD, err = openSpare(); err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if err = l.listen(a); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func openSpare() (int, error) {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a spare descriptor: %w", err)
	}
	return fd, nil
}

func (l *loop) listen(addr netip.AddrPort) error {
	n := &listener{index: len(l.listeners), addr: addr, tcp: -1, udp: -1, peers: map[netip.AddrPort]*udpSession{}}
	l.listeners = append(l.listeners, n)
	var err error
	if n.tcp, err = listenTCP(addr); err != nil {
		return fmt.Errorf("listen on %v for TCP: %w", addr, err)
	}
	if n.udp, err = listenUDP(addr); err != nil {
		return fmt.Errorf("listen on %v for UDP: %w", addr, err)
	}
	n.dgrams = outlet{fd: n.udp, segment: true}
	return nil
}

// open begins to accept.
func (l *loop) open() error {
	for _, n := range l.listeners {
		if err := l.watch(n.tcp, unix.EPOLLIN, kindTCPListener, int32(n.index), 0, 0); err != nil {
			return err
		}
		if err := l.watch(n.udp, unix.EPOLLIN, kindUDPListener, int32(n.index), 0, 0); err != nil {
			return err
		}
	}
	return nil
}

// watch asks for events of fd, which belongs to the slot index of its kind; side tells its two descriptors apart.
func (l *loop) watch(fd int, events uint32, kind uint32, index int32, gen uint32, side int32) error {
	ev := unix.EpollEvent{Events: events, Fd: index<<1 | side, Pad: int32(gen<<kindBits | kind)}
	if err := unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("watch descriptor %d: %w", fd, err)
	}
	return nil
}

// run handles events until the loop was told to stop and its sessions have ended.
func (l *loop) run() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	events := make([]unix.EpollEvent, eventsAtOnce)
	for !l.finished() {
		n, err := l.poll(events)
		if err != nil {
			return errors.Join(err, l.end())
		}
		l.now = l.srv.impl.clock()
		for i := range events[:n] {
			l.dispatch(&events[i])
		}
		l.runCommands()
		l.runAgain()
		if l.now >= l.nextSweep {
			l.sweep()
		}
	}
	return l.end()
}

func (l *loop) finished() bool {
	return l.stopping && (l.tcp.len() == 0 || l.now >= l.deadline)
}

// poll waits for events. The first look does not wait and is no blocking call for Go's scheduler: under load, where the answer
// is there already, that saves giving up the processor and asking for it again.
func (l *loop) poll(events []unix.EpollEvent) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.ep), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno == 0 && n > 0 || len(l.again) > 0 {
		if errno != 0 {
			n = 0 // EINTR: the turns that wait come first, the next look will tell
		}
		return int(n), nil
	}
	timeout := -1
	if l.tcp.len() > 0 || l.udp.len() > 0 || l.stopping {
		timeout = int(sweepEvery / time.Millisecond)
	}
	if l.stopping {
		timeout = min(timeout, int(max(0, l.deadline-l.srv.impl.clock())/time.Millisecond)+1)
	}
	k, err := unix.EpollWait(l.ep, events, timeout)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return 0, fmt.Errorf("proxy: wait for events: %w", err)
	}
	return max(k, 0), nil
}

func (l *loop) dispatch(ev *unix.EpollEvent) {
	index, side := ev.Fd>>1, int(ev.Fd&1)
	gen := uint32(ev.Pad) >> kindBits
	switch uint32(ev.Pad) & (1<<kindBits - 1) {
	case kindWake:
		l.drainWake()
	case kindTCPListener:
		l.accept(l.listeners[index])
	case kindUDPListener:
		l.fromClients(l.listeners[index])
	case kindTCP:
		if s := l.tcp.get(index, gen); s != nil {
			l.tcpEvent(s, side, ev.Events)
		}
	case kindUDP:
		if s := l.udp.get(index, gen); s != nil {
			l.fromServer(s)
		}
	}
}

func (l *loop) drainWake() {
	var b [8]byte
	// The count is of no interest.
	if _, err := unix.Read(l.wake, b[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
		l.warn(fmt.Errorf("read an event descriptor: %w", err))
	}
}

// post has the loop's thread run f soon: before anything that arrives at the proxy later. It returns false if the loop has ended.
func (l *loop) post(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.commands = append(l.commands, f)
	if !l.pending.Swap(true) {
		one := [8]byte{7: 1, 0: 1} // not zero in either byte order
		// EAGAIN means that the counter is full: then the loop will wake up, too.
		if _, err := unix.Write(l.wake, one[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
			l.warn(fmt.Errorf("write an event descriptor: %w", err))
		}
	}
	return true
}

// runCommands runs what was posted. It is called after each reading from a listener and before what was read is handled, so that
// what was posted before a client's packet was let through is done before the packet is seen.
func (l *loop) runCommands() {
	if !l.pending.Load() {
		return
	}
	l.mu.Lock()
	commands := l.commands
	l.commands = nil
	l.pending.Store(false)
	l.mu.Unlock()
	for _, f := range commands {
		f()
	}
}

// stop closes the listeners; sessions may go on for the time of grace.
func (l *loop) stop(grace time.Duration) {
	if l.stopping {
		return
	}
	l.stopping = true
	l.deadline = l.srv.impl.clock() + max(grace, 0)
	for _, n := range l.listeners {
		// The UDP socket stays: it sends the answers. Its unknown peers are refused from now on.
		if err := closeFD(n.tcp); err != nil {
			l.srv.cfg.Log.Warn("proxy: stop listening", "address", n.addr, "error", err)
		}
		n.tcp = -1
	}
}

// end ends the sessions that are left, answers the commands that are left and closes everything.
func (l *loop) end() error {
	stopped := fmt.Errorf("%w: the proxy ends", ErrStopped)
	l.tcp.each(func(s *tcpSession) { l.stopTCP(s, stopped) })
	l.udp.each(func(s *udpSession) { l.stopUDP(s, stopped) })
	l.mu.Lock()
	l.ended = true
	commands := l.commands
	l.commands = nil
	l.mu.Unlock()
	for _, f := range commands {
		f()
	}
	return l.close()
}

func (l *loop) close() error {
	errs := []error{l.pipes.close()}
	fds := []int{l.spareFD, l.ep}
	for _, n := range l.listeners {
		fds = append(fds, n.tcp, n.udp)
	}
	for _, fd := range fds {
		if fd >= 0 {
			errs = append(errs, closeFD(fd))
		}
	}
	if l.track != nil {
		errs = append(errs, l.track.close())
	}
	if l.batch != nil {
		errs = append(errs, l.batch.close())
	}
	// post writes to it under the lock, unless the loop has ended.
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	if l.wake >= 0 {
		errs = append(errs, closeFD(l.wake))
	}
	return errors.Join(errs...)
}

func (l *loop) runAgain() {
	if len(l.again) == 0 {
		return
	}
	turns := l.again
	l.again = l.turns[:0]
	for _, t := range turns {
		if s := l.tcp.get(t.index, t.gen); s != nil {
			s.half[t.dir].queued = false
			l.pump(s, t.dir)
		}
	}
	l.turns = turns[:0]
}

func (l *loop) sweep() {
	l.nextSweep = l.now + sweepEvery
	cfg := &l.srv.cfg
	l.tcp.each(func(s *tcpSession) {
		switch {
		case s.connecting && l.now-s.born > cfg.ConnectTimeout:
			l.stats.tcpTimedOut.Add(1)
			l.endTCP(s, fmt.Errorf("connect to %v: no answer within %v: %w", s.req.Destination, cfg.ConnectTimeout, unix.ETIMEDOUT), resetBoth)
		case !s.connecting && l.now-s.seen > cfg.TCPIdle:
			l.stats.tcpIdle.Add(1)
			l.endTCP(s, ErrIdle, resetBoth)
		}
	})
	l.udp.each(func(s *udpSession) {
		if l.now-max(s.fromClient, s.fromServer) > s.idleLimit(cfg.UDPIdle) {
			l.stats.udpIdle.Add(1)
			l.endUDP(s, ErrIdle)
		}
	})
}
