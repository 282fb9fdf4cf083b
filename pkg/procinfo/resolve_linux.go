package procinfo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirfw/weir/pkg/conn"
)

// errNotHeld says that no process holds a socket that the kernel knows.
var errNotHeld = errors.New("procinfo: socket not held")

// errSlow says that a quick lookup cannot tell.
var errSlow = errors.New("procinfo: only a search can tell")

// errChanged says that a process became another program, or closed the socket,
// while we looked.
var errChanged = errors.New("procinfo: changed meanwhile")

// resolve returns the process that all of sc.socks belong to.
func (f *Finder) resolve(ctx context.Context, sc *scratch) (*conn.Process, error) {
	var owner *conn.Process
	for i := range sc.socks {
		s := &sc.socks[i]
		if s.inode == 0 {
			if len(sc.socks) == 1 {
				return nil, unknown(ReasonNoProcess) // closed, or never accepted
			}
			continue
		}
		p, err := f.resolveOne(ctx, s, sc)
		if err != nil {
			return nil, err
		}
		switch {
		case owner == nil:
			owner = p
		case owner.PID != p.PID || owner.StartTicks != p.StartTicks:
			return nil, &UnknownError{Reason: ReasonSeveral, Candidates: []*conn.Process{owner, p}}
		}
	}
	if owner == nil {
		return nil, unknown(ReasonNoProcess)
	}
	return owner, nil
}

// resolveOne returns the process that a socket belongs to.
func (f *Finder) resolveOne(ctx context.Context, s *sock, sc *scratch) (*conn.Process, error) {
	m, _ := f.socks.sock(s.inode)
	if m.err != nil && time.Now().UnixNano() < m.until {
		return nil, m.err
	}
	const tries = 3
	for range tries {
		p, fd := f.remembered(&m, s, sc)
		if p == nil {
			if sc.quick {
				return nil, errSlow
			}
			var err error
			if p, fd, err = f.search(ctx, s, sc); err != nil {
				return nil, err
			}
		} else {
			f.counters.remembered.Add(1)
		}
		if p == nil {
			continue
		}
		// First the descriptor was seen to be the socket, and now the image to be
		// the same as ever: so it was the same in between.
		if !p.alive(sc) {
			f.procs.remove(p)
			p.release()
			continue
		}
		info, err := f.confirm(p, fd, s, &m, sc)
		p.release()
		if !errors.Is(err, errChanged) {
			return info, err
		}
	}
	return nil, unknown(ReasonGone)
}

// quickCandidates is how many processes a quick lookup tries.
const quickCandidates = 4

// remembered finds a holder of the socket among the processes met lately; nil
// if there is none.
func (f *Finder) remembered(m *memoSock, s *sock, sc *scratch) (*proc, int) {
	if p := f.procs.acquire(int(m.pid)); p != nil {
		if p.holds(int(m.fd), s.inode, sc) {
			return p, int(m.fd)
		}
		p.release()
	}
	var hit *proc
	hitFD := 0
	likely := sc.recent[:]
	if sc.quick {
		likely = likely[:quickCandidates]
	}
	n := f.procs.candidates(s.uid, likely)
	for i, p := range sc.recent[:n] {
		sc.recent[i] = nil
		if hit == nil {
			if fd, ok := p.predict(s.inode, sc); ok {
				hit, hitFD = p, fd
				continue
			}
		}
		p.release()
	}
	if hit != nil {
		f.procs.touch(hit)
	}
	return hit, hitFD
}

// search scans the processes for a holder. A nil proc without an error means: it
// was there, try again.
func (f *Finder) search(ctx context.Context, s *sock, sc *scratch) (*proc, int, error) {
	at, denied, err := f.scan(ctx, s, sc)
	if err != nil {
		return nil, 0, err
	}
	if at.pid == 0 {
		sc.denied = sc.denied || denied
		return nil, 0, errNotHeld
	}
	p, err := f.known(at.pid, 0)
	switch {
	case err == nil:
	case vanished(err):
		return nil, 0, nil
	default:
		return nil, 0, err
	}
	if !p.holds(at.fd, s.inode, sc) {
		p.release()
		return nil, 0, nil
	}
	return p, at.fd, nil
}

// confirm makes p's description true and names the owner of the socket.
func (f *Finder) confirm(p *proc, fd int, s *sock, m *memoSock, sc *scratch) (*conn.Process, error) {
	fresh, err := p.fresh(s.cgroup)
	if err == nil && !fresh {
		if sc.quick {
			p.checked.Store(0) // what told that it may have changed tells once
			return nil, errSlow
		}
		err = f.reread(p, 0)
	}
	if err != nil {
		f.procs.remove(p)
		return nil, goneOr(err)
	}
	info, err := f.owner(p, fd, s, m, sc)
	if sc.short != nil {
		return nil, fmt.Errorf("look for others that hold the socket: %w", sc.short)
	}
	if err != nil && !errors.Is(err, ErrUnknown) {
		return nil, goneOr(err)
	}
	return info, err
}
