package procinfo

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/conn"
)

// owner returns the process that a socket belongs to, given one that holds it as
// descriptor fd: p itself, unless others hold it too. m is what was known of the
// socket.
func (f *Finder) owner(p *proc, fd int, s *sock, m *memoSock, sc *scratch) (*conn.Process, error) {
	p.remember(fd)
	if p.inherited.Load() == nil {
		if sc.quick {
			return nil, errSlow
		}
		if err := f.noteInherited(p, sc); err != nil {
			return nil, err
		}
	}
	stamp := f.newestTask(sc)
	known := m.pid == int32(p.pid) && time.Now().UnixNano() < m.until
	switch {
	case m.pid != 0 && m.pid != int32(p.pid):
		// It has moved: who knows where else to.
		if sc.quick {
			return nil, errSlow
		}
	case s.state != stateListen && p.made(s.inode):
		if sc.quick && !p.childless(stamp) {
			return nil, errSlow
		}
		f.socks.setSock(memoSock{inode: s.inode, pid: int32(p.pid), fd: int32(fd)})
		return f.judge(p, f.family(p, fd, s.inode, stamp, sc), sc)
	case known && m.stamp == int32(stamp) && stamp != 0:
		return p.info.Load(), nil
	case sc.quick:
		return nil, errSlow
	case known:
		return f.judge(p, f.family(p, fd, s.inode, stamp, sc), sc)
	}
	holders, err := f.everyone(p, fd, s, sc)
	if err != nil {
		return nil, err
	}
	info, err := f.judge(p, holders, sc)
	if sc.short != nil {
		return nil, sc.short
	}
	at := found{p.pid, fd}
	for _, h := range holders {
		if err == nil && h.pid == info.PID {
			at = h
		}
	}
	note := memoSock{
		inode: s.inode, pid: int32(at.pid), fd: int32(at.fd), stamp: int32(stamp), until: believed(sc.cost),
	}
	if err != nil {
		errors.As(err, &note.err)
	}
	f.socks.setSock(note)
	return info, err
}

// noteInherited lists the sockets that a process has when we meet it.
func (f *Finder) noteInherited(p *proc, sc *scratch) error {
	inodes := make([]uint32, 0, 16)
	err := f.eachSocket(p.pid, sc, func(_ int, inode uint32) bool {
		inodes = append(inodes, inode)
		return true
	})
	if err != nil {
		return err
	}
	slices.Sort(inodes)
	inodes = slices.Clip(slices.Compact(inodes))
	p.inherited.Store(&inodes)
	return nil
}

// everyone returns all processes that hold the socket, p among them. Of a
// connection all descriptors are compared of those processes only that p
// descends from or that descend from p, and one descriptor, fd, of the others:
// what else there is are connections that were handed over a unix socket and
// kept, and looking for those costs too much for each connection. One that is
// being made, as most are when we see their first packet, was handed to nobody.
func (f *Finder) everyone(p *proc, fd int, s *sock, sc *scratch) ([]found, error) {
	begin := time.Now()
	pids, err := f.pids(sc)
	if err != nil {
		return nil, err
	}
	var relatives []int
	if s.connected() && s.state != stateSynSent {
		relatives = f.relatives(p, sc)
	}
	holders := []found{{p.pid, fd}}
	for _, pid := range pids {
		at := -1
		switch {
		case pid == p.pid:
		case s.connected() && !slices.Contains(relatives, pid):
			if isSocket(f.proc, sc.path.pidFD(pid, fd), s.inode, sc) {
				at = fd
			}
		default:
			at = f.shared(p, fd, pid, s.inode, sc)
		}
		if at >= 0 {
			holders = append(holders, found{pid, at})
		}
	}
	sc.cost += time.Since(begin)
	if !p.holds(fd, s.inode, sc) {
		// comparing with it has told nothing then
		return nil, errChanged
	}
	return holders, nil
}

// relatives returns the processes that p descends from, and that descend from p.
func (f *Finder) relatives(p *proc, sc *scratch) []int {
	const most = 4096
	all := f.childrenOf(p.pid, sc)
	for i := 0; i < len(all) && len(all) < most; i++ {
		all = append(all, f.childrenOf(all[i], sc)...)
	}
	for up, depth := p.stat.parent, 0; up != 0 && depth < maxParents; depth++ {
		all = append(all, up)
		b, err := f.readPID(up, "stat", sc)
		if err != nil {
			sc.note(err)
			break
		}
		st, err := parseStat(b)
		if err != nil {
			break
		}
		up = st.parent
	}
	return all
}

// shared returns the descriptor under which the process pid has p's socket fd
// too, -1 if it has not. The kernel compares two descriptors in a fraction of the time that it
// takes to tell what one is.
func (f *Finder) shared(p *proc, fd, pid int, inode uint32, sc *scratch) int {
	if open, ok := f.openFiles(pid, sc); ok {
		const gaps = 16 // numbers without a descriptor that we put up with
		for n, end := 0, open+gaps; open > 0 && n < end; n++ {
			switch same, err := sameFile(p.pid, fd, pid, n); {
			case same:
				return n
			case err == nil:
				open--
			case !errors.Is(err, unix.EBADF):
				end = 0 // not permitted, or gone
			}
		}
		if open == 0 {
			return -1
		}
	}
	at, err := f.lookIn(pid, inode, sc)
	if err != nil {
		sc.note(err)
		return -1
	}
	return at
}

// openFiles returns how many descriptors a process has. Kernels before 6.2 do
// not tell.
func (f *Finder) openFiles(pid int, sc *scratch) (int, bool) {
	var st unix.Stat_t
	if !f.countsFiles || statAt(f.proc, sc.path.pidFile(pid, "fd"), &st) != nil {
		return 0, false
	}
	return int(st.Size), true
}

// family returns p and the children that hold its socket, and theirs. It
// returns nil if there are none, without allocating.
func (f *Finder) family(p *proc, fd int, inode uint32, stamp int, sc *scratch) []found {
	var holders []found
	for _, pid := range f.children(p, stamp, sc) {
		if isSocket(f.proc, sc.path.pidFD(pid, fd), inode, sc) {
			holders = append(holders, found{pid, fd})
		}
	}
	if holders == nil {
		return nil
	}
	holders = append([]found{{p.pid, fd}}, holders...)
	for i := 1; i < len(holders); i++ {
		for _, pid := range f.childrenOf(holders[i].pid, sc) {
			at := found{pid, fd}
			if !slices.Contains(holders, at) && isSocket(f.proc, sc.path.pidFD(pid, fd), inode, sc) {
				holders = append(holders, at)
			}
		}
	}
	return holders
}

// childless reports whether p is known to have no children, stamp being the
// newest task.
func (p *proc) childless(stamp int) bool {
	last := p.children.Load()
	return last != nil && last.stamp == stamp && stamp != 0 && len(last.pids) == 0
}

// children returns the children of p, and perhaps some that have ended. Where few
// tasks were made since the last time, those are looked at, for listing the
// children takes a file for each thread. A child that p adopted, because its
// parent ended, may be missing for a second.
func (f *Finder) children(p *proc, stamp int, sc *scratch) []int {
	const few = 8
	last := p.children.Load()
	if last != nil && last.stamp == stamp && stamp != 0 {
		return last.pids
	}
	now := time.Now().UnixNano()
	next := &offspring{stamp: stamp, listed: now}
	made := 0
	if last != nil {
		made = stamp - last.stamp
	}
	if made > 0 && made <= few && last.stamp != 0 && now-last.listed < int64(lasting) {
		next.listed, next.pids = last.listed, last.pids
		for pid := last.stamp + 1; pid <= stamp; pid++ {
			if f.isChild(pid, p.pid, sc) && !slices.Contains(next.pids, pid) {
				next.pids = append(slices.Clip(next.pids), pid)
			}
		}
	} else {
		next.pids = f.childrenOf(p.pid, sc)
	}
	if sc.short != nil {
		return next.pids // perhaps not all
	}
	p.children.Store(next)
	return next.pids
}

// isChild reports whether a task is a process, not a thread, with that parent.
func (f *Finder) isChild(pid, parent int, sc *scratch) bool {
	b, err := f.readPID(pid, "stat", sc)
	if err != nil {
		sc.note(err)
		return false
	}
	if st, err := parseStat(b); err != nil || st.parent != parent {
		return false
	}
	b, err = f.readPID(pid, "status", sc)
	sc.note(err)
	return err == nil && parseThreadGroup(b) == pid
}

// childrenOf returns the children of all threads of a process.
func (f *Finder) childrenOf(pid int, sc *scratch) []int {
	dir, err := openat(f.proc, sc.path.pidFile(pid, "task"), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		sc.note(err)
		return nil
	}
	defer closeFD(dir)
	var children []int
	err = numbers(dir, sc.dents[:], func(tid int) bool {
		b, err := readFile(dir, sc.path.pidFile(tid, "children"), sc.file[:])
		sc.note(err)
		for err == nil && len(b) > 0 {
			var word []byte
			if word, b = nextWord(b); len(word) == 0 {
				break
			}
			if child, convErr := strconv.Atoi(string(word)); convErr == nil {
				children = append(children, child)
			}
		}
		return true
	})
	if err != nil {
		sc.note(err)
		return nil // it ended, and has no children any more
	}
	return children
}

// judge names the owner of a socket with several holders: the one that all
// others descend from, if they still run its image. None means p alone.
func (f *Finder) judge(p *proc, holders []found, sc *scratch) (*conn.Process, error) {
	if len(holders) <= 1 {
		return p.info.Load(), nil
	}
	stats := make(map[int]stat, len(holders))
	for _, h := range holders {
		b, err := f.readPID(h.pid, "stat", sc)
		if err != nil {
			sc.note(err)
			continue // ended meanwhile
		}
		if st, err := parseStat(b); err == nil {
			stats[h.pid] = st
		}
	}
	root, ok := f.ancestor(stats, sc)
	if ok {
		for _, st := range stats {
			ok = ok && (len(stats) == 1 || st.sameImage(stats[root]))
		}
	}
	if !ok {
		return nil, f.several(holders, sc)
	}
	if root == p.pid {
		return p.info.Load(), nil
	}
	owner, err := f.known(root, 0)
	if err != nil {
		sc.note(err)
		return nil, unknown(ReasonGone)
	}
	defer owner.release()
	return owner.info.Load(), nil
}

// ancestor returns the process that all others descend from.
func (f *Finder) ancestor(stats map[int]stat, sc *scratch) (root int, ok bool) {
	for pid, st := range stats {
		above := false
		for up, depth := st.parent, 0; up != 0 && depth < maxParents; depth++ {
			if _, above = stats[up]; above {
				break
			}
			b, err := f.readPID(up, "stat", sc)
			if err != nil {
				sc.note(err)
				break
			}
			next, err := parseStat(b)
			if err != nil {
				break
			}
			up = next.parent
		}
		if above {
			continue
		}
		if root != 0 {
			return 0, false
		}
		root = pid
	}
	return root, root != 0
}

func (f *Finder) readPID(pid int, name string, sc *scratch) ([]byte, error) {
	return readFile(f.proc, sc.path.pidFile(pid, name), sc.file[:])
}

// several makes the error that lists the candidates.
func (f *Finder) several(holders []found, sc *scratch) error {
	const most = 16
	e := &UnknownError{Reason: ReasonSeveral}
	slices.SortFunc(holders, func(a, b found) int { return a.pid - b.pid })
	for _, h := range holders {
		if len(e.Candidates) == most {
			break
		}
		p, err := f.known(h.pid, 0)
		if err != nil {
			sc.note(err)
			continue
		}
		e.Candidates = append(e.Candidates, p.info.Load())
		p.release()
	}
	return e
}
