package nfq

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// nlSocket is a netlink socket for requests. The kernel has carried out a request, and its answer waits in the socket, when
// sending returns; a list follows as it is read. So nothing here waits for an answer, and nothing can hang.
type nlSocket struct {
	port uint32 // tells our own changes from others' in events

	mu  sync.Mutex // guards what follows: one request with its answer at a time
	fd  int        // -1 when closed
	seq uint32
	out []byte
	in  []byte
}

// errNoAnswer tells that the kernel's answer was lost for want of memory.
var errNoAnswer = errors.New("nfq: no answer over netlink")

// answerSize holds what the kernel sends at once of a list.
const answerSize = 32 << 10

func openNetlink(protocol int) (*nlSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	s := &nlSocket{fd: fd, in: make([]byte, answerSize)}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind netlink socket: %w", err), s.close())
	}
	name, err := unix.Getsockname(fd)
	if sa, ok := name.(*unix.SockaddrNetlink); ok {
		s.port = sa.Pid
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("netlink port: %w", err), s.close())
	}
	return s, nil
}

// close may be called twice.
func (s *nlSocket) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return nil
	}
	err := unix.Close(s.fd)
	s.fd = -1
	if err != nil {
		return fmt.Errorf("close netlink socket: %w", err)
	}
	return nil
}

// request sends the one message that build appends, whose header's length and sequence number are filled in here, and calls
// answer, which may be nil, with what follows the netlink header of each message that comes back. Neither may use s or keep its
// argument. The error wraps the kernel's unix.Errno, or ErrClosed.
func (s *nlSocket) request(build func(b []byte) []byte, answer func(b []byte)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return ErrClosed
	}
	s.seq++
	s.out = build(s.out[:0])
	binary.NativeEndian.PutUint32(s.out, uint32(len(s.out)))
	binary.NativeEndian.PutUint32(s.out[8:], s.seq)
	for {
		err := unix.Sendto(s.fd, s.out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("send netlink request: %w", err)
		}
		return s.answersLocked(answer)
	}
}

// answersLocked reads up to the end of the answer.
func (s *nlSocket) answersLocked(answer func(b []byte)) error {
	for {
		n, err := unix.Read(s.fd, s.in)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return errNoAnswer
		case err != nil:
			return fmt.Errorf("read netlink answer: %w", err)
		}
		for b := s.in[:n]; len(b) >= nlmsgHeader; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < nlmsgHeader || size > len(b) {
				return errNoAnswer
			}
			typ, mine := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:]) == s.seq
			body := b[nlmsgHeader:size]
			b = b[min(align4(size), len(b)):]
			switch {
			case !mine || typ == nlmsgNoop: // what an earlier request did not read
			case typ == nlmsgError || typ == nlmsgDone:
				return errnoOf(body)
			case answer != nil:
				answer(body)
			}
		}
	}
}

// nlmsgDone ends a list.
const nlmsgDone = 3

// errnoOf reads the number at the beginning of an acknowledgement or of the end of a list.
func errnoOf(b []byte) error {
	if len(b) < 4 {
		return nil
	}
	if n := -int32(binary.NativeEndian.Uint32(b)); n != 0 {
		return unix.Errno(n)
	}
	return nil
}

// appendFlagsConfig appends a message that sets one flag of a bound queue.
func appendFlagsConfig(o []byte, queue uint16, flag uint32) []byte {
	begin := len(o)
	o = appendHeader(o, 0, subsysQueue<<8|msgConfig, nlmFlagRequest|nlmFlagAck, queue)
	o = appendFlags(o, flag)
	binary.NativeEndian.PutUint32(o[begin:], uint32(len(o)-begin))
	return o
}
