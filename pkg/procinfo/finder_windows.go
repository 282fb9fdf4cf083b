package procinfo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
)

// Finder describes the processes of connections. The driver tells which process a connection belongs to; a Finder knows the rest.
// It has no goroutine of its own; its methods may be called from any.
type Finder struct {
	first  []SocketOwner
	limit  int
	closed atomic.Bool

	mu    sync.Mutex // guards known and what follows
	known map[int]*conn.Process

	lookups, failed, remembered, foundFirst, foundDriver atomic.Uint64
	unknown                                              [int(ReasonSeveral) + 1]atomic.Uint64
}

// New returns a Finder. Call Close when done with it. Config.Proc and Config.Sockets mean nothing on Windows.
func New(cfg Config) (*Finder, error) {
	if cfg.Processes < 0 || cfg.Sockets < 0 {
		return nil, fmt.Errorf("procinfo: negative size in config: %d processes, %d sockets", cfg.Processes, cfg.Sockets)
	}
	if cfg.Processes == 0 {
		cfg.Processes = 128
	}
	return &Finder{first: append([]SocketOwner(nil), cfg.First...), limit: cfg.Processes, known: make(map[int]*conn.Process)}, nil
}

// Close ends the Finder. Closing twice is fine.
func (f *Finder) Close() error {
	f.closed.Store(true)
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.known)
	return nil
}

// Find returns the process of the connection that the packet belongs to: that which Config.First or the driver (info.PID) knows.
// While a process lives, the same pointer is returned for it.
//
// The error wraps ErrUnknown, and is an *UnknownError, if the process is not known; it wraps ErrClosed after Close.
func (f *Finder) Find(ctx context.Context, info *packet.Info, direction packet.Direction) (*conn.Process, error) {
	f.lookups.Add(1)
	for _, o := range f.first {
		owner, err := o.Owner(ctx, info, direction)
		if err != nil {
			continue
		}
		p := owner.Process
		if p == nil {
			p, err = f.Process(owner.PID)
		}
		if err == nil && (owner.StartTicks == 0 || p.StartTicks == owner.StartTicks) {
			f.foundFirst.Add(1)
			return p, nil
		}
	}
	var p *conn.Process
	err := error(&UnknownError{Reason: ReasonNoProcess})
	if info.PID != 0 {
		p, err = f.Process(info.PID)
	}
	if err != nil {
		return nil, f.count(err)
	}
	f.foundDriver.Add(1)
	return p, nil
}

func (f *Finder) count(err error) error {
	if u, ok := errors.AsType[*UnknownError](err); ok && int(u.Reason) < len(f.unknown) {
		f.unknown[u.Reason].Add(1)
		return err
	}
	f.failed.Add(1)
	return fmt.Errorf("procinfo: find: %w", err)
}

// FindQuick never knows: even whether a process still lives is a question to Windows.
func (*Finder) FindQuick(*packet.Info, packet.Direction) (*conn.Process, bool) { return nil, false }

// Process describes the process with the number as it is now. The error wraps ErrUnknown if there is none.
func (f *Finder) Process(pid int) (*conn.Process, error) {
	if f.closed.Load() {
		return nil, ErrClosed
	}
	o, err := open(pid)
	if err != nil {
		return nil, err
	}
	defer o.close()
	f.mu.Lock()
	p, ok := f.known[pid]
	f.mu.Unlock()
	if ok && p.StartTicks == o.start {
		f.remembered.Add(1)
		return p, nil
	}
	if p, err = o.describe(pid); err != nil {
		return nil, err
	}
	if strings.EqualFold(filepath.Base(p.Path), "svchost.exe") {
		if byPID, err := services(); err == nil { // without them it is still svchost
			p.Services = byPID[pid]
		}
	}
	if all, err := processes(); err == nil { // without its parents it is still the process
		p.Parent = parent(pid, p.StartTicks, all, maxParents)
	}
	f.remember(p)
	return p, nil
}

// remember keeps p. Rarely there are more processes than that; then all are forgotten.
func (f *Finder) remember(p *conn.Process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.known) >= f.limit {
		clear(f.known)
	}
	f.known[p.PID] = p
}

// parent describes the parent of a process that started at a time. A process keeps its parent's number after the parent has ended: one
// that started later is another that got the number.
func parent(pid int, started uint64, all map[int]listed, depth int) *conn.Process {
	above := all[pid].parent
	if above == 0 || above == pid || depth == 0 {
		return nil
	}
	o, err := open(above)
	if err != nil {
		return nil
	}
	defer o.close()
	if o.start > started {
		return nil
	}
	p, err := o.describe(above)
	if err != nil {
		return nil
	}
	p.Parent = parent(above, o.start, all, depth-1)
	return p
}

// Stats returns what was counted since New.
func (f *Finder) Stats() Stats {
	s := Stats{
		Lookups: f.lookups.Load(), Failed: f.failed.Load(), Remembered: f.remembered.Load(),
		Found:   map[Method]uint64{MethodFirst: f.foundFirst.Load(), MethodDriver: f.foundDriver.Load()},
		Unknown: make(map[Reason]uint64),
	}
	for r := ReasonNoSocket; int(r) < len(f.unknown); r++ {
		s.Unknown[r] = f.unknown[r].Load()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s.Processes = len(f.known)
	return s
}

// FindOrigin knows nothing on Windows: the driver tells the direction.
func (*Finder) FindOrigin(*packet.Info) (d packet.Direction, ok bool) { return packet.Outbound, false }
