package procinfo

import (
	"errors"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below take their path as bytes that end in zero, and so allocate
// nothing; those of package unix copy a string.

// readlinkat is for links in procfs: reading one takes a microsecond or two and
// waits for nothing, so the scheduler is not told.
func readlinkat(dir int, path, buf []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_READLINKAT, uintptr(dir),
			uintptr(unsafe.Pointer(&path[0])), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

func openat(dir int, path []byte, flags int) (int, error) {
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir),
			uintptr(unsafe.Pointer(&path[0])), uintptr(flags|unix.O_CLOEXEC), 0, 0, 0)
		switch errno {
		case 0:
			return int(fd), nil
		case unix.EINTR:
		default:
			return -1, errno
		}
	}
}

func pread(fd int, b []byte, offset int64) (int, error) {
	for {
		n, err := unix.Pread(fd, b, offset)
		if err != unix.EINTR {
			return n, err //nolint:wrapcheck // the callers know what they read
		}
	}
}

func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd) // it was only read from: nothing can be lost
	}
}

// readFile reads a file of a process from its beginning, into buf as far as it
// has room.
func readFile(dir int, path, buf []byte) ([]byte, error) {
	fd, err := openat(dir, path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer closeFD(fd)
	n := 0
	for n < len(buf) {
		m, err := pread(fd, buf[n:], int64(n))
		if err != nil {
			return nil, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return buf[:n], nil
}

// sharesMemory reports whether two processes have the same memory, like a
// process and its vfork child. Where the kernel cannot compare the answer is
// yes, which is the careful one.
func sharesMemory(a, b int) bool {
	const compareVM = 1 // KCMP_VM
	n, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), compareVM, 0, 0, 0)
	return errno != 0 || n == 0
}

// sameFile reports whether two descriptors of two processes are one open file.
// The error is EBADF if one of them is not open.
func sameFile(pidA, fdA, pidB, fdB int) (bool, error) {
	const compareFile = 0 // KCMP_FILE
	n, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pidA), uintptr(pidB), compareFile, uintptr(fdA), uintptr(fdB), 0)
	if errno != 0 {
		return false, errno
	}
	return n == 0, nil
}

// pathBuf builds short paths that end in zero.
type pathBuf [128]byte

func (b *pathBuf) file(name string) []byte { return append(append(b[:0], name...), 0) }

func (b *pathBuf) number(n int) []byte { return append(strconv.AppendInt(b[:0], int64(n), 10), 0) }

func (b *pathBuf) pidFD(pid, fd int) []byte {
	p := append(strconv.AppendInt(b[:0], int64(pid), 10), "/fd/"...)
	return append(strconv.AppendInt(p, int64(fd), 10), 0)
}

func (b *pathBuf) pidFile(pid int, name string) []byte {
	p := append(strconv.AppendInt(b[:0], int64(pid), 10), '/')
	return append(append(p, name...), 0)
}

// numbers calls yield for each entry of the directory whose name is a number,
// until it returns false.
func numbers(dir int, buf []byte, yield func(n int) bool) error {
	for {
		n, err := unix.Getdents(dir, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err //nolint:wrapcheck // the callers know what they list
		}
		if n <= 0 {
			return nil
		}
		if !eachNumber(buf[:n], yield) {
			return nil
		}
	}
}

// eachNumber walks struct linux_dirent64 records.
func eachNumber(b []byte, yield func(n int) bool) bool {
	const nameOffset, lengthOffset = 19, 16
	for len(b) > nameOffset {
		length := int(*(*uint16)(unsafe.Pointer(&b[lengthOffset])))
		if length <= nameOffset || length > len(b) {
			return true
		}
		n, ok := leadingNumber(b[nameOffset:length])
		if ok && !yield(n) {
			return false
		}
		b = b[length:]
	}
	return true
}

// leadingNumber reads a name that ends in zero and consists of digits.
func leadingNumber(name []byte) (n int, ok bool) {
	for i, c := range name {
		if c == 0 {
			return n, i > 0
		}
		if c < '0' || c > '9' || n > 1<<30 {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return 0, false
}

// statAt fills st for a path that ends in zero. The owner of /proc/<pid> is the
// effective user.
func statAt(dir int, path []byte, st *unix.Stat_t) error {
	return unix.Fstatat(dir, string(path[:len(path)-1]), st, 0) //nolint:wrapcheck // gone or not is all that matters
}

// exhausted reports that this process or the machine has run out of descriptors
// or memory, which may be over in a moment.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// vanished reports that a process, or what we looked at in it, has gone, changed
// or was never ours to see.
func vanished(err error) bool {
	return errors.Is(err, errChanged) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, unix.EAGAIN) || isDenied(err)
}

func isDenied(err error) bool { return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) }
