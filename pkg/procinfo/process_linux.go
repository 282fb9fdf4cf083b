package procinfo

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/hostfile"
	"github.com/weirfw/weir/pkg/conn"
)

// maxParents bounds the chain of parents.
const maxParents = 32

// scratch is the buffers of one lookup.
type scratch struct {
	path  pathBuf
	link  [unix.PathMax]byte
	file  [32 << 10]byte
	dents [32 << 10]byte
	socks []sock
	// recent are processes to try; see cache.candidates.
	recent [8]*proc
	query  query
	// alone is the cookie of the socket to be noted as having no rival.
	alone uint64
	// denied tells that some processes could not be searched.
	denied bool
	// short is the first error because of which a search of this lookup saw
	// less than there is; see note.
	short error
	// quick forbids everything that takes longer than a few system calls:
	// errSlow instead.
	quick bool
	// cost is how long searching the processes has taken in this lookup.
	cost time.Duration
}

// note keeps err if it says nothing about a process, but that we ran out of
// descriptors or memory. Nothing that was not seen then is known not to be there:
// no answer may rest on it, and none may be remembered.
func (sc *scratch) note(err error) {
	if sc.short == nil && exhausted(err) {
		sc.short = err
	}
}

// known returns the process with the number as it is now, from the cache if
// possible. The caller releases it.
func (f *Finder) known(pid, depth int) (*proc, error) {
	sc := f.scratch()
	defer f.putScratch(sc)
	if p := f.procs.acquire(pid); p != nil {
		if p.alive(sc) {
			if err := f.refresh(p, 0, depth); err == nil {
				return p, nil
			}
		}
		f.procs.remove(p)
		p.release()
	}
	return f.admit(pid, depth, sc)
}

// admit opens a process and reads what is to be known about it. It starts over
// if the process executes another program meanwhile.
func (f *Finder) admit(pid, depth int, sc *scratch) (*proc, error) {
	const tries = 4
	for range tries {
		dir, err := openat(f.proc, sc.path.number(pid), unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return nil, fmt.Errorf("open process %d: %w", pid, err)
		}
		p := &proc{pid: pid, dir: dir, image: -1}
		p.refs.Store(2)
		p.fds, err = openat(dir, sc.path.file("fd"), unix.O_RDONLY|unix.O_DIRECTORY)
		if isDenied(err) {
			p.fds, err = -1, nil // nobody can tell its sockets
		}
		if err == nil {
			err = f.meet(p, depth, sc)
		}
		if err == nil && p.alive(sc) {
			f.procs.insert(p)
			return p, nil
		}
		p.refs.Store(1)
		p.release()
		if err != nil {
			return nil, fmt.Errorf("read process %d: %w", pid, err)
		}
	}
	return nil, fmt.Errorf("read process %d: %w", pid, errChanged)
}

func (f *Finder) meet(p *proc, depth int, sc *scratch) error {
	st, err := readStat(p.dir, sc)
	if err != nil {
		return err
	}
	// A vfork child has its parent's memory, and so its parent's image, until it
	// executes something. The comparison comes first: what is not shared now
	// will not be later.
	if st.parent == 0 || !sharesMemory(p.pid, st.parent) {
		if p.image, err = openat(p.dir, sc.path.file("pagemap"), unix.O_RDONLY); exhausted(err) {
			return err
		} else if err != nil {
			p.image = -1 // not permitted, or not built into this kernel
		} else if !p.alive(sc) {
			closeFD(p.image)
			p.image = -1 // no memory: a kernel thread, or about to be gone
		}
	}
	// Again, now that the image is pinned: an exec chooses new addresses.
	if p.stat, err = readStat(p.dir, sc); err != nil {
		return err
	}
	p.checked.Store(time.Now().UnixNano())
	info, err := f.describe(p, depth, sc)
	if err != nil {
		return err
	}
	p.info.Store(info)
	return nil
}

func readStat(dir int, sc *scratch) (stat, error) {
	b, err := readFile(dir, sc.path.file("stat"), sc.file[:])
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// describe reads everything that conn.Process has. What may not be read stays
// empty.
func (f *Finder) describe(p *proc, depth int, sc *scratch) (*conn.Process, error) {
	st, err := readStat(p.dir, sc)
	if err != nil {
		return nil, err
	}
	info := &conn.Process{PID: p.pid, StartTicks: st.start}
	if info.UID, err = p.uid(); err != nil {
		return nil, err
	}
	if info.Path, info.InnerPath, err = f.executable(p, sc); err != nil {
		return nil, err
	}
	b, err := readFile(p.dir, sc.path.file("cmdline"), sc.file[:])
	if err != nil && !withheld(err) {
		return nil, err
	}
	info.Args = splitArgs(b)
	if b, err = readFile(p.dir, sc.path.file("cgroup"), sc.file[:]); err != nil && !withheld(err) {
		return nil, err
	}
	info.Cgroup = parseCgroup(b)
	if info.Script, err = script(p, info, sc); err != nil {
		return nil, err
	}
	info.App = f.apps.Of(info, appFiles{p.dir})
	if info.Parent, err = f.parent(p, st, depth, sc); err != nil {
		return nil, err
	}
	return info, nil
}

// seen is what was found out about the executable of an image: whether its path is that of the host's file.
type seen struct {
	path string
	host bool
}

// executable returns the path of what a process runs: as inner if the host has another file there, or none. That is looked up once for
// an image, as long as the kernel calls it the same.
func (f *Finder) executable(p *proc, sc *scratch) (path, inner string, err error) {
	const tries = 3
	var now seen
	for range tries {
		name, err := readLink(p.dir, "exe", sc)
		if err != nil || name == "" {
			return "", "", err
		}
		if old := p.exe.Load(); old != nil && old.path == name {
			now = *old
			break
		}
		if name == now.path {
			break // it was not moved while we looked
		}
		now = seen{name, isMemfd(name) || f.host.Runs(p.dir, name)}
		if now.host {
			break
		}
	}
	p.exe.Store(&now)
	if now.host {
		return now.path, "", nil
	}
	return "", now.path, nil
}

// isMemfd reports whether a path is the kernel's name for a file that has no place anywhere.
func isMemfd(name string) bool {
	return strings.HasPrefix(name, "/memfd:") && strings.HasSuffix(name, hostfile.Deleted)
}

// appFiles are the files of a process that tell its app. Those below root are the process' own: they are opened without following a
// link, or waiting for a pipe.
type appFiles struct{ dir int }

// maxAppFile bounds what is read of one.
const maxAppFile = 256 << 10

// Read implements appid.Files.
func (a appFiles) Read(name string) ([]byte, error) {
	fd, err := unix.Openat(a.dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close() //nolint:errcheck // only read from
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: not a file", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxAppFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// withheld reports that the kernel keeps something to itself, as opposed to
// there being no such process any more.
func withheld(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOENT)
}

// readLink returns where a link of a process points to, "" if that is withheld
// or there is nothing: kernel threads have no executable.
func readLink(dir int, name string, sc *scratch) (string, error) {
	n, err := readlinkat(dir, sc.path.file(name), sc.link[:])
	switch {
	case err == nil:
		return string(sc.link[:n]), nil
	case withheld(err):
		return "", nil
	}
	return "", err
}

// script returns the absolute path of the file that an interpreter runs. A
// relative one counts only if it is there: the process may have changed its
// directory since.
func script(p *proc, info *conn.Process, sc *scratch) (string, error) {
	name := scriptOf(cmp.Or(info.Path, info.InnerPath), info.Args)
	if name == "" || name[0] == '/' {
		return absolute(name, "/"), nil
	}
	cwd, err := readLink(p.dir, "cwd", sc)
	if err != nil {
		return "", err
	}
	full := absolute(name, cwd)
	var st unix.Stat_t
	if full == "" || unix.Fstatat(p.dir, "root"+full, &st, 0) != nil {
		return "", nil
	}
	return full, nil
}

// parent returns the description of a process' parent, nil if there is none or
// it is not known. Because the parent is asked for again afterwards, its number
// cannot have been another process' in between. The error is one of those that
// exhausted reports.
func (f *Finder) parent(p *proc, st stat, depth int, sc *scratch) (*conn.Process, error) {
	if st.parent == 0 || depth >= maxParents {
		return nil, nil //nolint:nilnil // see above
	}
	parent, err := f.known(st.parent, depth+1)
	if exhausted(err) {
		return nil, err
	}
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // see above
	}
	defer parent.release()
	now, err := readStat(p.dir, sc)
	switch {
	case exhausted(err):
		return nil, err
	case err != nil || now.parent != st.parent || parent.stat.start > st.start:
		return nil, nil //nolint:nilerr,nilnil // see above
	}
	return parent.info.Load(), nil
}

// refresh makes p.info true again as to what changes without an exec. cgroup is
// the id of a socket's control group, if known: a new one means that the process
// may have moved.
func (f *Finder) refresh(p *proc, cgroup uint64, depth int) error {
	fresh, err := p.fresh(cgroup)
	if err != nil || fresh {
		return err
	}
	return f.reread(p, depth)
}

// fresh reports whether p.info was read lately, and nothing tells that it is no
// longer true.
func (p *proc) fresh(cgroup uint64) (bool, error) {
	uid, err := p.uid()
	if err != nil {
		return false, err
	}
	moved := cgroup != 0 && p.cgroup.Swap(cgroup) != cgroup
	return uid == p.info.Load().UID && !moved && time.Now().UnixNano()-p.checked.Load() < int64(lasting), nil
}

func (f *Finder) reread(p *proc, depth int) error {
	info := p.info.Load()
	sc := f.scratch()
	defer f.putScratch(sc)
	p.checked.Store(time.Now().UnixNano())
	fresh, err := f.describe(p, depth, sc)
	if err != nil {
		return err
	}
	if !p.alive(sc) {
		// an exec: what was read may be half of the old and half of the new
		return errChanged
	}
	if !same(info, fresh) {
		// whoever was faster has read the same
		p.info.CompareAndSwap(info, fresh)
	}
	return nil
}

// same reports whether two descriptions say the same, parents included.
func same(a, b *conn.Process) bool {
	for range maxParents + 1 {
		if a == b {
			return true
		}
		if a == nil || b == nil {
			return false
		}
		if a.PID != b.PID || a.UID != b.UID || a.StartTicks != b.StartTicks || a.Path != b.Path || a.InnerPath != b.InnerPath ||
			a.Script != b.Script || a.Cgroup != b.Cgroup || a.App != b.App || !slices.Equal(a.Args, b.Args) {
			return false
		}
		a, b = a.Parent, b.Parent
	}
	return true
}

// unchanged is alive for a process without a usable pagemap: the executable and
// the arguments are compared.
func (p *proc) unchanged(sc *scratch) bool {
	info := p.info.Load()
	if info == nil {
		return true // being met: what is read is read now
	}
	exe, err := readLink(p.dir, "exe", sc)
	if err != nil || strings.TrimSuffix(exe, hostfile.Deleted) != strings.TrimSuffix(cmp.Or(info.Path, info.InnerPath), hostfile.Deleted) {
		return false
	}
	st, err := readStat(p.dir, sc)
	if err != nil || st.code != p.stat.code || st.stack != p.stat.stack {
		return false
	}
	b, err := readFile(p.dir, sc.path.file("cmdline"), sc.file[:])
	return (err == nil || withheld(err)) && slices.Equal(splitArgs(b), info.Args)
}
