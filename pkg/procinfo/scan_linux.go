package procinfo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// eachSocket calls yield for each socket among a process' descriptors, until it
// returns false.
func (f *Finder) eachSocket(pid int, sc *scratch, yield func(fd int, inode uint32) bool) error {
	f.counters.listed.Add(1)
	if n, ok := f.openFiles(pid, sc); ok && n == 0 {
		return nil // a thread of the kernel, mostly
	}
	dir, err := openat(f.proc, sc.path.pidFile(pid, "fd"), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open descriptors of process %d: %w", pid, err)
	}
	defer closeFD(dir)
	err = numbers(dir, sc.dents[:], func(fd int) bool {
		n, err := readlinkat(dir, sc.path.number(fd), sc.link[:])
		if err != nil {
			return true // closed meanwhile
		}
		inode, ok := parseSocketLink(sc.link[:n])
		return !ok || yield(fd, inode)
	})
	if err != nil {
		return fmt.Errorf("list descriptors of process %d: %w", pid, err)
	}
	return nil
}

// lookIn searches one process for a socket.
func (f *Finder) lookIn(pid int, inode uint32, sc *scratch) (fd int, err error) {
	fd = -1
	err = f.eachSocket(pid, sc, func(n int, found uint32) bool {
		if found == inode {
			fd = n
		}
		return fd < 0
	})
	return fd, err
}

// pids returns all processes, the newest first.
func (f *Finder) pids(sc *scratch) ([]int, error) {
	dir, err := openat(f.proc, []byte(".\x00"), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("open processes: %w", err)
	}
	defer closeFD(dir)
	var all []int
	if err := numbers(dir, sc.dents[:], func(pid int) bool { all = append(all, pid); return true }); err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	newest := f.newestTask(sc)
	// Numbers are given in a circle: those above the newest are the oldest.
	age := func(pid int) int {
		if pid > newest {
			return pid - 1<<31
		}
		return pid
	}
	slices.SortFunc(all, func(a, b int) int { return age(b) - age(a) })
	return all, nil
}

// newestTask returns the number given last to a process or thread, 0 if it is
// not known. As long as it stays the same, nothing was forked.
func (f *Finder) newestTask(sc *scratch) int {
	// nothing to wait for here either: see readlinkat
	n, _, errno := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(f.loadavg), uintptr(unsafe.Pointer(&sc.link[0])), 128, 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return parseLastPID(sc.link[:n])
}

// found is where a socket was found.
type found struct{ pid, fd int }

// scan searches all processes for a socket: first those that were right lately,
// then its user's, the newest first, then the others. denied tells that some
// could not be searched. Where the socket goes meanwhile, so does the reason to search on.
func (f *Finder) scan(ctx context.Context, s *sock, sc *scratch) (at found, denied bool, err error) {
	f.counters.scans.Add(1)
	begin := time.Now()
	defer func() { sc.cost += time.Since(begin) }()
	seen := f.likely(s.uid, sc)
	for _, pid := range seen {
		if at, err := f.step(ctx, pid, s.inode, sc, &denied); err != nil || at.pid != 0 {
			return at, denied, err
		}
	}
	looked := begin
	over := func() bool {
		now := time.Now()
		if now.Sub(looked) < lookEvery {
			return false
		}
		looked = now
		return f.vanishedSince(s, sc)
	}
	all, err := f.pids(sc)
	if err != nil {
		return found{}, false, err
	}
	var others []int
	for _, pid := range all {
		var st unix.Stat_t
		if over() {
			return found{}, denied, nil
		}
		switch {
		case slices.Contains(seen, pid):
		case statAt(f.proc, sc.path.number(pid), &st) != nil:
		case st.Uid != s.uid:
			others = append(others, pid)
		default:
			if at, err := f.step(ctx, pid, s.inode, sc, &denied); err != nil || at.pid != 0 {
				return at, denied, err
			}
		}
	}
	for _, pid := range others {
		if over() {
			return found{}, denied, nil
		}
		if at, err := f.step(ctx, pid, s.inode, sc, &denied); err != nil || at.pid != 0 {
			return at, denied, err
		}
	}
	return found{}, denied, nil
}

// lookEvery is how long a scan goes on between two looks whether the socket is still there. Programs that open many short connections
// on a busy host would otherwise have each searched for in all processes when it is over.
const lookEvery = 2 * time.Millisecond

// vanishedSince reports whether a connected TCP socket, which sc.query asks for, is gone. Of others it does not know.
func (f *Finder) vanishedSince(s *sock, sc *scratch) bool {
	if f.diag == nil || sc.query.protocol != unix.IPPROTO_TCP || s.remote != sc.query.remote || s.cookie == 0 {
		return false
	}
	now, err := f.diag.exact(&sc.query)
	return errors.Is(err, unix.ENOENT) || err == nil && now.cookie != s.cookie
}

// step searches one process in a scan.
func (f *Finder) step(ctx context.Context, pid int, inode uint32, sc *scratch, denied *bool) (found, error) {
	if err := ctx.Err(); err != nil {
		return found{}, fmt.Errorf("search processes: %w", err)
	}
	fd, err := f.lookIn(pid, inode, sc)
	switch {
	case vanished(err):
		// Processes that end meanwhile are no news.
		*denied = *denied || isDenied(err)
	case err != nil:
		return found{}, err
	case fd >= 0:
		return found{pid: pid, fd: fd}, nil
	}
	return found{}, nil
}

// likely returns the processes of the user that owned sockets most recently.
func (f *Finder) likely(uid uint32, sc *scratch) []int {
	const enough = 2
	var pids []int
	n := f.procs.candidates(uid, sc.recent[:])
	for _, p := range sc.recent[:n] {
		if len(pids) < enough && p.info.Load().UID == uid {
			pids = append(pids, p.pid)
		}
		p.release()
	}
	clear(sc.recent[:])
	return pids
}
