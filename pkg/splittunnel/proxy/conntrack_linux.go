package proxy

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ctWait bounds an answer of conntrack. The kernel writes it before send returns; the bound is for a kernel that does not.
const ctWait = 100 // milliseconds

// errUntracked is wrapped when conntrack does not know a connection.
var errUntracked = errors.New("not in conntrack")

// tracker asks conntrack about single connections. It belongs to one loop.
type tracker struct {
	fd  int
	seq uint32
	out []byte
	in  [4096]byte
}

func openTracker() (*tracker, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open a socket to conntrack: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind a socket to conntrack: %w", err), closeFD(fd))
	}
	return &tracker{fd: fd, out: make([]byte, 0, 256)}, nil
}

// original returns the connection's first direction, as the client made it, given the tuple of the answers to it. The error
// wraps errUntracked if there is no such connection.
func (t *tracker) original(reply ctTuple) (ctTuple, error) {
	t.seq++
	t.out = appendCtAsk(t.out[:0], t.seq, reply)
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(t.fd), uintptr(unsafe.Pointer(&t.out[0])), uintptr(len(t.out)), 0, 0, 0)
		if errno == 0 {
			break
		}
		if errno != unix.EINTR {
			return ctTuple{}, fmt.Errorf("ask conntrack: %w", errno)
		}
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(t.fd), uintptr(unsafe.Pointer(&t.in[0])), uintptr(len(t.in)), 0, 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			if err := t.wait(); err != nil {
				return ctTuple{}, err
			}
			continue
		case errno != 0:
			return ctTuple{}, fmt.Errorf("hear from conntrack: %w", errno)
		}
		orig, got, ours, err := decodeCtAnswer(t.in[:n], t.seq)
		switch {
		case !ours && err == nil:
			continue // the late answer to a question that was given up
		case errors.Is(err, unix.ENOENT):
			return ctTuple{}, fmt.Errorf("%w: answers from %v to %v", errUntracked, reply.src, reply.dst)
		case err != nil:
			return ctTuple{}, fmt.Errorf("hear from conntrack: %w", err)
		case got != reply:
			// The tuple also matches the first direction of a connection that the proxy's address began.
			return ctTuple{}, fmt.Errorf("%w: answers from %v to %v", errUntracked, reply.src, reply.dst)
		}
		return orig, nil
	}
}

func (t *tracker) wait() error {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}}, ctWait)
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("wait for conntrack: %w", err)
	case n == 0:
		return fmt.Errorf("wait for conntrack: no answer within %d ms", ctWait)
	}
	return nil
}

func (t *tracker) close() error { return closeFD(t.fd) }
