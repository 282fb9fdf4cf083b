package procinfo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/hostfile"
	"github.com/weirfw/weir/pkg/appid"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
)

// Finder finds the processes of connections. It has no goroutine of its own; its
// methods may be called from any.
type Finder struct {
	first []firstOwner
	// proc is the open procfs, loadavg a file in it.
	proc, loadavg int
	// countsFiles tells that the kernel has the number of a process' descriptors
	// as the size of their directory.
	countsFiles bool
	// diag is nil where the kernel has no inet_diag at all.
	diag  *diagPool
	net   procNet
	procs cache
	socks memo
	apps  appid.Identifier
	host  *hostfile.View
	pool  sync.Pool

	// life is held for reading by lookups, so that Close waits for them: it
	// guards the descriptors above, whose numbers others get after Close.
	life   sync.RWMutex
	closed bool

	counters counters
}

// One more than the highest of each.
const (
	numReasons = int(ReasonSeveral) + 1
	numMethods = int(MethodEBPF) + 1
)

// unknowns are the errors without candidates, by reason: packets that belong to
// no process may be many, and must not cost an allocation each.
var unknowns = [numReasons]*UnknownError{ //nolint:gochecknoglobals // a table that nobody writes
	ReasonNoSocket:     {Reason: ReasonNoSocket},
	ReasonNoProcess:    {Reason: ReasonNoProcess},
	ReasonGone:         {Reason: ReasonGone},
	ReasonNotPermitted: {Reason: ReasonNotPermitted},
	ReasonSeveral:      {Reason: ReasonSeveral},
}

func unknown(r Reason) error { return unknowns[r] }

type counters struct {
	lookups, failed, remembered, scans, listed atomic.Uint64

	found   [numMethods]atomic.Uint64
	unknown [numReasons]atomic.Uint64
}

// New returns a Finder for the network namespace of the calling thread. Call
// Close when done with it. On systems other than Linux the error wraps
// errors.ErrUnsupported.
func New(cfg Config) (*Finder, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	f := &Finder{proc: -1, loadavg: -1, host: hostfile.New(cfg.Proc)}
	f.procs = cache{limit: cfg.Processes, byPID: make(map[int]*proc)}
	f.pool.New = func() any { return new(scratch) }
	if f.proc, err = unix.Open(cfg.Proc, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("procinfo: open %s: %w", cfg.Proc, err)
	}
	if f.loadavg, err = openat(f.proc, []byte("loadavg\x00"), unix.O_RDONLY); err != nil {
		closeFD(f.proc)
		return nil, fmt.Errorf("procinfo: open %s/loadavg (is procfs mounted there?): %w", cfg.Proc, err)
	}
	var st unix.Stat_t
	f.countsFiles = statAt(f.proc, []byte("self/fd\x00"), &st) == nil && st.Size > 0
	if f.net, err = openProcNet(cfg.Proc); err != nil {
		closeFD(f.proc)
		closeFD(f.loadavg)
		return nil, err
	}
	if cfg.ProcOnly {
		return f.startWith(cfg.First), nil
	}
	if f.diag, err = newDiagPool(cfg.Sockets); err != nil {
		// Kernels without inet_diag are served through /proc/net; Stats tells.
		f.diag = nil
	}
	return f.startWith(cfg.First), nil
}

// firstOwner is one of Config.First.
type firstOwner struct {
	SocketOwner
	quick  QuickOwner // nil if it is none
	method Method
}

func (f *Finder) startWith(owners []SocketOwner) *Finder {
	for _, o := range owners {
		first := firstOwner{SocketOwner: o, method: MethodFirst}
		first.quick, _ = o.(QuickOwner)
		if m, ok := o.(MethodNamer); ok && int(m.Method()) < numMethods {
			first.method = m.Method()
		}
		if d, ok := o.(ProcessDescriber); ok {
			d.DescribeBy(f.Process)
		}
		f.first = append(f.first, first)
	}
	return f
}

func (c Config) withDefaults() (Config, error) {
	if c.Processes < 0 || c.Sockets < 0 {
		return c, fmt.Errorf("procinfo: negative size in config: %d processes, %d sockets", c.Processes, c.Sockets)
	}
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	if c.Processes == 0 {
		c.Processes = 128
	}
	if c.Sockets == 0 {
		c.Sockets = 4
	}
	c.First = append([]SocketOwner(nil), c.First...)
	return c, nil
}

// Close closes what the Finder has open, after the calls in progress. Closing
// twice is fine.
func (f *Finder) Close() error {
	f.life.Lock()
	defer f.life.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	if f.diag != nil {
		f.diag.close()
	}
	f.procs.clear()
	closeFD(f.proc)
	closeFD(f.loadavg)
	if err := f.net.close(); err != nil {
		return fmt.Errorf("procinfo: close: %w", err)
	}
	return nil
}

// Find returns the process of the connection that the packet belongs to;
// direction is that of the connection. While nothing about a process changes,
// the same pointer is returned for it.
//
// The error wraps ErrUnknown, and is an *UnknownError, if the process is not
// known; it wraps ErrClosed after Close, and ctx's error if ctx ended while
// processes were searched.
func (f *Finder) Find(ctx context.Context, info *packet.Info, direction packet.Direction) (*conn.Process, error) {
	f.counters.lookups.Add(1)
	for _, o := range f.first {
		p, err := f.ask(ctx, o, info, direction)
		if err == nil {
			f.counters.found[o.method].Add(1)
			return p, nil
		}
		if isSeveral(err) {
			return nil, f.countError(err) // what knows less would guess
		}
	}
	p, method, err := f.holder(ctx, info, direction)
	switch {
	case errors.Is(err, ErrClosed):
		return nil, err
	case err != nil:
		return nil, f.countError(err)
	}
	f.counters.found[method].Add(1)
	return p, nil
}

// Holder is Find without Config.First: it returns the process that the socket of the connection belongs to now, whoever made it. The
// process of a connection that goes on may be another by then, or run another program. Stats do not count it: of connections whose
// programs have ended, which is when somebody asks, it mostly knows nothing.
func (f *Finder) Holder(ctx context.Context, info *packet.Info, direction packet.Direction) (*conn.Process, error) {
	p, _, err := f.holder(ctx, info, direction)
	if err != nil && !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrClosed) {
		return nil, fmt.Errorf("procinfo: holder: %w", err)
	}
	return p, err
}

func (f *Finder) holder(ctx context.Context, info *packet.Info, direction packet.Direction) (*conn.Process, Method, error) {
	f.life.RLock()
	defer f.life.RUnlock()
	if f.closed {
		return nil, 0, ErrClosed
	}
	sc := f.scratch()
	defer f.putScratch(sc)
	return f.find(ctx, info, direction, sc)
}

func isSeveral(err error) bool {
	u, ok := errors.AsType[*UnknownError](err)
	return ok && u.Reason == ReasonSeveral
}

// Holds returns a process as it is now if it has a socket that the connection may belong to; nil if it has none, or that is not known.
// Others may have it, too.
func (f *Finder) Holds(_ context.Context, p *conn.Process, info *packet.Info, direction packet.Direction) *conn.Process {
	now, err := f.Process(p.PID)
	if err != nil || now.StartTicks != p.StartTicks {
		return nil
	}
	f.life.RLock()
	defer f.life.RUnlock()
	if f.closed {
		return nil
	}
	sc := f.scratch()
	defer f.putScratch(sc)
	if _, err := f.locate(info, direction, sc); err != nil {
		return nil
	}
	for i := range sc.socks {
		if fd, err := f.lookIn(p.PID, sc.socks[i].inode, sc); err == nil && fd >= 0 {
			return now
		}
	}
	return nil
}

// FindQuick is Find for threads that must not be held up: it takes some ten
// microseconds and answers for a process that was found lately and has changed
// nothing since. ok is false if only Find can tell.
func (f *Finder) FindQuick(info *packet.Info, direction packet.Direction) (p *conn.Process, ok bool) {
	for i := range f.first {
		if p, ok, over := f.askQuick(&f.first[i], info, direction); over {
			return p, ok
		}
	}
	if f.diag == nil || !f.diag.has[info.Protocol] || !f.life.TryRLock() {
		return nil, false
	}
	defer f.life.RUnlock()
	if f.closed {
		return nil, false
	}
	sc := f.scratch()
	sc.quick = true
	defer f.putScratch(sc)
	if _, err := f.locate(info, direction, sc); err != nil {
		return nil, false
	}
	// The context ends searches, and there are none.
	p, err := f.resolve(context.Background(), sc)
	if err != nil {
		return nil, false
	}
	f.counters.lookups.Add(1)
	f.counters.found[MethodInetDiag].Add(1)
	return p, true
}

// askQuick asks one of Config.First. over tells that nobody else is to be asked.
func (f *Finder) askQuick(o *firstOwner, info *packet.Info, direction packet.Direction) (p *conn.Process, ok, over bool) {
	if o.quick == nil {
		return nil, false, true
	}
	owner, err := o.quick.OwnerQuick(info, direction)
	if u, isUnknown := errors.AsType[*UnknownError](err); isUnknown {
		return nil, false, u.Reason == ReasonGone || u.Reason == ReasonSeveral
	}
	if err != nil || owner.Process == nil {
		return nil, false, true
	}
	f.counters.lookups.Add(1)
	f.counters.found[o.method].Add(1)
	return owner.Process, true, true
}

// Process describes the process with the number as it is now. The error wraps
// ErrUnknown if there is none.
func (f *Finder) Process(pid int) (*conn.Process, error) {
	f.life.RLock()
	defer f.life.RUnlock()
	if f.closed {
		return nil, ErrClosed
	}
	p, err := f.known(pid, 0)
	if errors.Is(err, errChanged) {
		return nil, unknown(ReasonGone)
	}
	if err != nil {
		return nil, goneOr(err)
	}
	defer p.release()
	return p.info.Load(), nil
}

// ask asks one of Config.First.
func (f *Finder) ask(ctx context.Context, o SocketOwner, info *packet.Info, dir packet.Direction) (*conn.Process, error) {
	owner, err := o.Owner(ctx, info, dir)
	if err != nil || owner.Process != nil {
		return owner.Process, err //nolint:wrapcheck // Find drops it
	}
	p, err := f.Process(owner.PID)
	if err != nil {
		return nil, err
	}
	if owner.StartTicks != 0 && p.StartTicks != owner.StartTicks {
		return nil, unknown(ReasonGone)
	}
	return p, nil
}

// goneOr turns "no such process" into ErrUnknown.
func goneOr(err error) error {
	switch {
	case errors.Is(err, errChanged):
		return err
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH), errors.Is(err, unix.EAGAIN):
		return unknown(ReasonGone)
	case isDenied(err):
		return unknown(ReasonNotPermitted)
	}
	return err
}

func (f *Finder) countError(err error) error {
	if u, ok := errors.AsType[*UnknownError](err); ok && int(u.Reason) < len(f.counters.unknown) {
		f.counters.unknown[u.Reason].Add(1)
		return err
	}
	f.counters.failed.Add(1)
	return fmt.Errorf("procinfo: find: %w", err)
}

// find looks the socket up and then its process. If it has none, the socket is
// looked up again, for it may have gone, or been handed on, meanwhile.
func (f *Finder) find(
	ctx context.Context, info *packet.Info, dir packet.Direction, sc *scratch,
) (*conn.Process, Method, error) {
	const tries = 2
	var last error
	for range tries {
		method, err := f.locate(info, dir, sc)
		if err != nil {
			if last != nil && errors.Is(err, ErrUnknown) {
				err = unknown(ReasonGone) // it was there a moment ago
			}
			return nil, 0, err
		}
		p, err := f.resolve(ctx, sc)
		if err == nil {
			if sc.alone != 0 {
				f.socks.setAlone(sc.alone, useOf(info, dir), info.Local.Addr())
			}
			return p, method, nil
		}
		if !errors.Is(err, errNotHeld) {
			return nil, 0, ofProgram(info, dir, err)
		}
		last = err
	}
	return nil, 0, ofProgram(info, dir, f.unheld(sc))
}

// ofProgram says of a socket that nobody holds that its process is gone, where the packet tells that it was sent by a program: the
// kernel knows its user then. A program that closes a socket, or ends, loses its descriptor first, and until the kernel has got rid
// of the socket it looks like one of the kernel's own, whose packets have no user.
func ofProgram(info *packet.Info, dir packet.Direction, err error) error {
	if err == error(unknowns[ReasonNoProcess]) && info.HasUID && dir == packet.Outbound { //nolint:errorlint // that very one
		return unknown(ReasonGone)
	}
	return err
}

// unheld notes that nobody holds the sockets, so that the search is not repeated
// for each packet of the kernel's own sockets.
func (f *Finder) unheld(sc *scratch) error {
	e := unknowns[ReasonNoProcess]
	if sc.denied {
		e = unknowns[ReasonNotPermitted]
	}
	for i := range sc.socks {
		f.socks.setSock(memoSock{inode: sc.socks[i].inode, until: believed(sc.cost), err: e})
	}
	return e
}

// Stats returns what was counted since New.
func (f *Finder) Stats() Stats {
	s := Stats{
		Lookups: f.counters.lookups.Load(), Failed: f.counters.failed.Load(),
		Remembered: f.counters.remembered.Load(), Scans: f.counters.scans.Load(),
		Found: make(map[Method]uint64), Unknown: make(map[Reason]uint64),
		Processes: f.procs.size(),
	}
	for m := MethodFirst; int(m) < numMethods; m++ {
		if m != MethodDriver {
			s.Found[m] = f.counters.found[m].Load()
		}
	}
	for r := ReasonNoSocket; int(r) < numReasons; r++ {
		s.Unknown[r] = f.counters.unknown[r].Load()
	}
	if f.diag != nil {
		for n, has := range f.diag.has {
			if has {
				s.InetDiag = append(s.InetDiag, packet.Protocol(n))
			}
		}
	}
	return s
}

func (f *Finder) scratch() *scratch {
	sc, _ := f.pool.Get().(*scratch)
	return sc
}

func (f *Finder) putScratch(sc *scratch) {
	sc.quick = false
	f.pool.Put(sc)
}
