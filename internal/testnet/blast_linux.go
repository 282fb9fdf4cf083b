package testnet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batch is the number of packets in one sendmmsg.
const batch = 64

// mmsghdr is the kernel's struct mmsghdr; the compiler pads it like C does.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// blast runs inside the namespace, on a thread of its own.
func blast(ctx context.Context, b Blast) (BlastResult, error) {
	fd, err := blastSocket(b)
	if err != nil {
		return BlastResult{}, err
	}
	defer closeSocket(fd)
	var (
		result   BlastResult
		total    = uint64(float64(b.Rate) * b.For.Seconds())
		messages = newMessages(b)
		start    = time.Now()
	)
	for done := uint64(0); done < total && ctx.Err() == nil && time.Since(start) < 2*b.For+time.Second; {
		// What should have left by now; a late thread catches up, so the total is exact.
		due := min(total, uint64(float64(b.Rate)*time.Since(start).Seconds())+1)
		for done < due {
			sent, err := messages.send(fd, done, min(batch, due-done))
			switch {
			case err == nil:
				result.Sent += sent
			case refusal(err):
				sent, result.Refused = 1, result.Refused+1
			case !errors.Is(err, unix.EINTR): // the runtime interrupts threads with signals
				return result, fmt.Errorf("sendmmsg: %w", err)
			}
			if done == 0 && sent > 0 {
				b.First()
			}
			done += sent
		}
		time.Sleep(500 * time.Microsecond)
	}
	result.Elapsed = time.Since(start)
	return result, nil
}

// refusal says whether the error is about one packet: a firewall's, or the answer to an earlier packet.
func refusal(err error) bool {
	for _, e := range []unix.Errno{
		unix.EPERM, unix.EACCES, unix.ENOBUFS, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func blastSocket(b Blast) (int, error) {
	domain := unix.AF_INET
	if b.To.Addr().Is6() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("udp socket: %w", err)
	}
	// Packets that a firewall holds count as not sent yet; they must not slow down those that follow.
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 256<<20)
	if err == nil && b.Mark != 0 {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, b.Mark)
	}
	if err == nil && b.From.IsValid() {
		err = unix.Bind(fd, sockaddr(b.From))
	}
	if err != nil {
		closeSocket(fd)
		return -1, fmt.Errorf("prepare udp socket: %w", err)
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// messages is memory for one sendmmsg, laid out once.
type messages struct {
	ports   uint64
	first   uint16
	payload []byte
	iov     unix.Iovec
	names   [batch][unix.SizeofSockaddrInet6]byte
	headers [batch]mmsghdr
}

func newMessages(b Blast) *messages {
	m := &messages{ports: uint64(b.Ports), first: b.To.Port(), payload: make([]byte, max(b.Size, 1))}
	m.iov.Base = &m.payload[0]
	m.iov.SetLen(b.Size)
	for i := range m.headers {
		nameLen := encodeSockaddr(&m.names[i], b.To)
		hdr := &m.headers[i].hdr
		hdr.Name, hdr.Namelen = &m.names[i][0], nameLen
		hdr.Iov = &m.iov
		hdr.SetIovlen(1)
	}
	return m
}

// encodeSockaddr writes struct sockaddr_in or sockaddr_in6 and returns its length. Bytes 2 and 3 are the port in both.
func encodeSockaddr(to *[unix.SizeofSockaddrInet6]byte, a netip.AddrPort) uint32 {
	family, addrAt, length := uint16(unix.AF_INET), 4, uint32(unix.SizeofSockaddrInet4)
	if a.Addr().Is6() {
		family, addrAt, length = unix.AF_INET6, 8, unix.SizeofSockaddrInet6
	}
	binary.NativeEndian.PutUint16(to[:], family)
	copy(to[addrAt:], a.Addr().AsSlice())
	return length
}

// send sends count packets, the first of which is the seq-th of the blast, and returns how many were taken.
func (m *messages) send(fd int, seq, count uint64) (uint64, error) {
	for i := range count {
		port := m.first + uint16((seq+i)%m.ports)
		m.names[i][2], m.names[i][3] = byte(port>>8), byte(port)
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.headers[0])), uintptr(count), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return uint64(n), nil
}
