package testnet

import (
	"encoding/binary"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openSniffer runs inside the namespace.
func openSniffer(iface string, f Filter) (int, error) {
	program, err := f.program()
	if err != nil {
		return -1, err
	}
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return -1, fmt.Errorf("find interface: %w", err)
	}
	// SOCK_DGRAM: packets begin with the IP header whatever the link is. Protocol 0: nothing comes before the bind, so no
	// packet is counted that the filter has not seen.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	filters := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filters[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filters)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filters[0]))}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		closeSocket(fd)
		return -1, fmt.Errorf("attach filter: %w", err)
	}
	addr := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: link.Index}
	if err := unix.Bind(fd, addr); err != nil {
		closeSocket(fd)
		return -1, fmt.Errorf("bind to %s: %w", iface, err)
	}
	return fd, nil
}

// snifferCount reads and resets the kernel's count. It includes the packets that the socket had no room for.
func snifferCount(fd int) (uint64, error) {
	stats, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("packet statistics: %w", err)
	}
	return uint64(stats.Packets), nil
}

func snifferRead(fd int, buf []byte) (n int, ok bool) {
	n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
	return n, err == nil
}

func closeSocket(fd int) {
	_ = unix.Close(fd) // nothing was written that could be lost
}

func networkOrder(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
