package procinfo

import (
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/conn"
)

// proc is a process that we have met, running one image. It is usable until
// release; fields that are not atomic do not change.
type proc struct {
	pid  int
	stat stat
	// dir is the open /proc/<pid>, bound to this process, and fds its fd, -1 if
	// that may not be read.
	dir, fds int
	// image is the open pagemap, bound to this image; -1 if it cannot be used.
	image int
	refs  atomic.Int32
	info  atomic.Pointer[conn.Process]
	exe   atomic.Pointer[seen]
	// checked is when info was read, in nanoseconds.
	checked atomic.Int64
	// cgroup is the id of the control group of a socket seen last.
	cgroup atomic.Uint64
	// recent are descriptors under which sockets were found, plus one.
	recent [4]atomic.Int32
	oldest atomic.Uint32
	// latest is the one used last, plus one.
	latest atomic.Int32
	// inherited are the sockets, sorted, that it had when we first found it to
	// own one; nil before. Sockets that are not among them it made itself.
	inherited atomic.Pointer[[]uint32]
	children  atomic.Pointer[offspring]
}

// offspring are the children of a process when stamp was the newest task.
type offspring struct {
	stamp int
	pids  []int
	// listed is when the whole list was read, in nanoseconds.
	listed int64
}

func (p *proc) release() {
	if p.refs.Add(-1) == 0 {
		closeFD(p.dir)
		closeFD(p.fds)
		closeFD(p.image)
	}
}

// alive reports whether the process still runs the image that p describes.
func (p *proc) alive(sc *scratch) bool {
	if p.image < 0 {
		return p.unchanged(sc)
	}
	// An entry of pagemap has 8 bytes. Which one does not matter: there is
	// nothing to read at all once the image has gone.
	const entry = 8
	n, err := pread(p.image, sc.link[:entry], 0)
	return err == nil && n == entry
}

// holds reports whether descriptor fd is the socket.
func (p *proc) holds(fd int, inode uint32, sc *scratch) bool {
	return p.fds >= 0 && isSocket(p.fds, sc.path.number(fd), inode, sc)
}

func isSocket(dir int, path []byte, inode uint32, sc *scratch) bool {
	n, err := readlinkat(dir, path, sc.link[:])
	if err != nil {
		return false
	}
	found, ok := parseSocketLink(sc.link[:n])
	return ok && found == inode
}

// uid returns the effective user id; /proc/<pid> belongs to that user.
func (p *proc) uid() (uint32, error) {
	var st unix.Stat_t
	if err := unix.Fstat(p.dir, &st); err != nil {
		return 0, err //nolint:wrapcheck // the caller says what it did
	}
	return st.Uid, nil
}

// remember notes a descriptor as likely next time.
func (p *proc) remember(fd int) {
	p.latest.Store(int32(fd) + 1)
	for i := range p.recent {
		if p.recent[i].Load() == int32(fd)+1 {
			return
		}
	}
	p.recent[p.oldest.Add(1)%uint32(len(p.recent))].Store(int32(fd) + 1)
}

// predict returns the descriptor of a socket among the likely ones: those of
// late, and the one after the latest, for programs that keep their connections.
// A quick lookup tries the likeliest only.
func (p *proc) predict(inode uint32, sc *scratch) (fd int, ok bool) {
	latest := int(p.latest.Load()) - 1
	if latest < 0 {
		return 0, false
	}
	for _, fd := range [...]int{latest, latest + 1} {
		if p.holds(fd, inode, sc) {
			return fd, true
		}
	}
	if sc.quick {
		return 0, false
	}
	for i := range p.recent {
		fd := int(p.recent[i].Load()) - 1
		if fd >= 0 && fd != latest && fd != latest+1 && p.holds(fd, inode, sc) {
			return fd, true
		}
	}
	return 0, false
}

// made reports whether the process made the socket after we met it.
func (p *proc) made(inode uint32) bool {
	inherited := p.inherited.Load()
	if inherited == nil {
		return false
	}
	_, found := slices.BinarySearch(*inherited, inode)
	return !found
}

// cache holds the processes met most recently.
type cache struct {
	limit int
	// mu guards byPID and order.
	mu    sync.Mutex
	byPID map[int]*proc
	// order begins with the process used last.
	order []*proc
}

// acquire returns the process with the number, or nil. The caller releases it.
func (c *cache) acquire(pid int) *proc {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.byPID[pid]
	if p != nil {
		p.refs.Add(1)
		c.touchLocked(p)
	}
	return p
}

func (c *cache) touchLocked(p *proc) {
	if len(c.order) > 0 && c.order[0] == p {
		return
	}
	if i := slices.Index(c.order, p); i > 0 {
		copy(c.order[1:i+1], c.order[:i])
		c.order[0] = p
	}
}

// touch makes p the process used last.
func (c *cache) touch(p *proc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touchLocked(p)
}

// candidates fills into with processes used last, those of the user first, and
// returns how many. The caller releases them.
func (c *cache) candidates(uid uint32, into []*proc) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for pass := range 2 {
		for _, p := range c.order {
			if n == len(into) {
				return n
			}
			if p.inherited.Load() == nil || (p.info.Load().UID == uid) != (pass == 0) {
				continue // never owned a socket, or belongs to the other pass
			}
			p.refs.Add(1)
			into[n] = p
			n++
		}
	}
	return n
}

// insert takes over p, which has one reference for the cache and one for the
// caller, and drops what was known under its number and what is too much.
func (c *cache) insert(p *proc) {
	var dropped []*proc
	c.mu.Lock()
	if old := c.byPID[p.pid]; old != nil {
		c.removeLocked(old)
		dropped = append(dropped, old)
	}
	c.byPID[p.pid] = p
	c.order = slices.Insert(c.order, 0, p)
	for len(c.order) > c.limit {
		last := c.order[len(c.order)-1]
		c.removeLocked(last)
		dropped = append(dropped, last)
	}
	c.mu.Unlock()
	for _, d := range dropped {
		d.release()
	}
}

func (c *cache) removeLocked(p *proc) {
	delete(c.byPID, p.pid)
	if i := slices.Index(c.order, p); i >= 0 {
		c.order = slices.Delete(c.order, i, i+1)
	}
}

// remove forgets p, if it was not replaced yet.
func (c *cache) remove(p *proc) {
	c.mu.Lock()
	found := c.byPID[p.pid] == p
	if found {
		c.removeLocked(p)
	}
	c.mu.Unlock()
	if found {
		p.release()
	}
}

func (c *cache) clear() {
	c.mu.Lock()
	all := c.order
	c.order, c.byPID = nil, make(map[int]*proc)
	c.mu.Unlock()
	for _, p := range all {
		p.release()
	}
}

func (c *cache) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.order)
}
