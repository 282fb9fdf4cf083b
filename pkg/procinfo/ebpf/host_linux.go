//go:build amd64 || arm64 || 386

package ebpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/procinfo"
)

// unknown returns the errors of lookups, which must not cost an allocation each.
func unknown(r procinfo.Reason) error {
	if int(r) < len(unknowns) {
		return unknowns[r]
	}
	return &procinfo.UnknownError{Reason: r}
}

var unknowns = [...]*procinfo.UnknownError{ //nolint:gochecknoglobals // a table that nobody writes
	procinfo.ReasonNoSocket:  {Reason: procinfo.ReasonNoSocket},
	procinfo.ReasonNoProcess: {Reason: procinfo.ReasonNoProcess},
	procinfo.ReasonGone:      {Reason: procinfo.ReasonGone},
	procinfo.ReasonSeveral:   {Reason: procinfo.ReasonSeveral},
}

func native(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

func address(w [4]uint32, family uint8) netip.Addr {
	var b [16]byte
	for i := range w {
		binary.NativeEndian.PutUint32(b[4*i:], w[i])
	}
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b)
}

func closeFD(fd int) {
	_ = unix.Close(fd) // nothing was written to it
}

// startOf reads the start of a process from its stat file, 0 if it has gone.
func startOf(stat string) uint64 {
	const field = 22 - 3 // counted behind the name, which is the second
	b, err := os.ReadFile(stat)
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) <= field {
		return 0
	}
	n, err := strconv.ParseUint(fields[field], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// cgroupNames is the hierarchy of cgroup v2.
type cgroupNames struct {
	fd int
	// mount is where it is mounted; empty if it was not, and only we see it.
	mount string
}

// openCgroups finds the hierarchy, or mounts it for ourselves where nobody did.
func openCgroups(proc string) (*cgroupNames, error) {
	mounts, err := os.ReadFile(proc + "/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find the cgroup v2 hierarchy: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if !strings.HasPrefix(after, "cgroup2 ") || len(f) < 5 || f[3] != "/" {
			continue
		}
		fd, err := unix.Open(f[4], unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			return &cgroupNames{fd: fd, mount: f[4]}, nil
		}
	}
	fd, err := mountCgroups()
	if err != nil {
		return nil, fmt.Errorf("no cgroup v2 hierarchy is mounted, and mounting one failed: %w", err)
	}
	return &cgroupNames{fd: fd}, nil
}

// mountCgroups makes a mount that has no place in any directory, and goes with its descriptor.
func mountCgroups() (int, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err //nolint:wrapcheck // the caller says what it was for
	}
	defer closeFD(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err //nolint:wrapcheck // the caller says what it was for
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0) //nolint:wrapcheck // the caller says what it was for
}

// root is a path of the root group, for as long as c is open.
func (c *cgroupNames) root() string { return "/proc/self/fd/" + strconv.Itoa(c.fd) }

// name returns the path of a group by its number, which is that of its directory in kernfs; empty if it has gone.
func (c *cgroupNames) name(id uint64) string {
	const kernfsHandle = 0xfe // FILEID_KERNFS
	handle := unix.NewFileHandle(kernfsHandle, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(c.fd, handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return ""
	}
	defer closeFD(fd)
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return ""
	}
	if c.mount == "" {
		return path
	}
	path = strings.TrimPrefix(path, c.mount)
	if path == "" {
		return "/"
	}
	return path
}

func (c *cgroupNames) close() error {
	if c.fd < 0 {
		return nil
	}
	err := unix.Close(c.fd)
	c.fd = -1
	if err != nil && !errors.Is(err, unix.EBADF) {
		return fmt.Errorf("close the cgroup hierarchy: %w", err)
	}
	return nil
}
