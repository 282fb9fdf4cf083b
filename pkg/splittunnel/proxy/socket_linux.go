package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// udpBuffer is the send and receive buffer of UDP sockets in bytes: a limit, not an allocation. A datagram of 65,507 bytes
	// is charged with twice its size.
	udpBuffer = 4 << 20
	// keepIdle is after how many seconds of silence dead peers are looked for. The client's own probes end at the proxy.
	keepIdle = 300
	// originalDst is SO_ORIGINAL_DST of linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST.
	originalDst = 80
)

// sockaddr is an address as the kernel has it, of either family.
type sockaddr struct {
	raw unix.RawSockaddrInet6
	len uint32
}

// set makes a the address ap. Scope is the interface of a link-local address, which has no meaning without.
func (a *sockaddr) set(ap netip.AddrPort, scope int) {
	if ap.Addr().Is4() {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.raw))
		*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: ap.Addr().As4()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&v4.Port))[:], ap.Port())
		a.len = unix.SizeofSockaddrInet4
		return
	}
	a.raw = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: ap.Addr().As16()}
	if ap.Addr().IsLinkLocalUnicast() || ap.Addr().IsLinkLocalMulticast() {
		a.raw.Scope_id = uint32(scope)
	}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&a.raw.Port))[:], ap.Port())
	a.len = unix.SizeofSockaddrInet6
}

// addrPort is the zero AddrPort for families that are not IP.
func addrPort(raw *unix.RawSockaddrInet6) netip.AddrPort {
	switch raw.Family {
	case unix.AF_INET:
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(raw))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&v4.Port))[:]))
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(raw.Addr), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&raw.Port))[:]))
	}
	return netip.AddrPort{}
}

func closeFD(fd int) error {
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close descriptor %d: %w", fd, err)
	}
	return nil
}

// option is an integer socket option.
type option struct {
	level, name, value int
	what               string
}

func setOptions(fd int, opts ...option) error {
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set %s: %w", o.what, err)
		}
	}
	return nil
}

func familyNumber(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// newSocket makes a non-blocking socket.
func newSocket(family, kind int) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	return fd, nil
}

// bindListen binds a new listening or receiving socket to exactly addr, after opts.
func bindListen(addr netip.AddrPort, kind int, opts ...option) (int, error) {
	fd, err := newSocket(familyNumber(addr.Addr()), kind)
	if err != nil {
		return -1, err
	}
	if !addr.Addr().Is4() {
		opts = append(opts, option{unix.SOL_IPV6, unix.IPV6_V6ONLY, 1, "IPV6_V6ONLY"})
	}
	if err = setOptions(fd, opts...); err == nil {
		err = bindTo(fd, addr, 0)
	}
	if err != nil {
		return -1, errors.Join(err, closeFD(fd))
	}
	return fd, nil
}

// bindTo and connectTo take an interface for link-local addresses.
func bindTo(fd int, addr netip.AddrPort, scope int) error {
	var sa sockaddr
	sa.set(addr, scope)
	if _, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa.raw)), uintptr(sa.len)); errno != 0 {
		return fmt.Errorf("bind to %v: %w", addr, errno)
	}
	return nil
}

func connectTo(fd int, addr netip.AddrPort, scope int) unix.Errno {
	var sa sockaddr
	sa.set(addr, scope)
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa.raw)), uintptr(sa.len))
	return errno
}

// dial makes a socket that leaves by e and no other way, and connects it to dst, for TCP without waiting. The error wraps
// ErrEgress if the interface or the address cannot be used.
func (e Egress) dial(kind int, dst netip.AddrPort) (int, error) {
	if err := e.check(dst); err != nil {
		return -1, err
	}
	fd, err := newSocket(familyNumber(dst.Addr()), kind)
	if err != nil {
		return -1, err
	}
	if err = e.bind(fd); err == nil {
		err = prepare(fd, kind)
	}
	if err == nil {
		switch errno := connectTo(fd, dst, e.Index); errno {
		case 0, unix.EINPROGRESS:
		case unix.ENODEV, unix.ENXIO: // binding to an index does not tell that there is no such interface
			err = fmt.Errorf("%w %s: connect to %v: %w", ErrEgress, e.Interface, dst, errno)
		default:
			err = fmt.Errorf("connect to %v: %w", dst, errno)
		}
	}
	if err != nil {
		return -1, errors.Join(err, closeFD(fd))
	}
	return fd, nil
}

func (e Egress) bind(fd int) error {
	if e.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(e.Mark)); err != nil {
			return fmt.Errorf("%w %s: mark its packets (CAP_NET_ADMIN is needed): %w", ErrEgress, e.Interface, err)
		}
	}
	if err := e.bindDevice(fd); err != nil {
		return fmt.Errorf("%w %s: bind to the interface: %w", ErrEgress, e.Interface, err)
	}
	// The port is chosen at connect, where it must be unique only for the destination.
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return fmt.Errorf("set IP_BIND_ADDRESS_NO_PORT: %w", err)
	}
	if err := bindTo(fd, netip.AddrPortFrom(e.Source, 0), e.Index); err != nil {
		return fmt.Errorf("%w %s: %w", ErrEgress, e.Interface, err)
	}
	return nil
}

func (e Egress) bindDevice(fd int) error {
	if e.Index > 0 {
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, e.Index)
		if !errors.Is(err, unix.ENOPROTOOPT) || e.Interface == "" {
			return err //nolint:wrapcheck // bind says what was tried
		}
		// Linux before 5.1 knows names only.
	}
	return unix.BindToDevice(fd, e.Interface) //nolint:wrapcheck // bind says what was tried
}

// prepare sets the options that only make things faster or find the dead, all of which every supported kernel has.
func prepare(fd, kind int) error {
	if kind == unix.SOCK_STREAM {
		return setOptions(fd,
			option{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1, "TCP_NODELAY"},
			option{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, "SO_KEEPALIVE"},
			option{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepIdle, "TCP_KEEPIDLE"})
	}
	return udpOptions(fd)
}

func udpOptions(fd int) error {
	for _, o := range [...][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], udpBuffer) == nil {
			continue
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], udpBuffer); err != nil {
			return fmt.Errorf("set buffer size: %w", err)
		}
	}
	// Linux before 5.0 does not coalesce: then every datagram comes alone, and nothing else changes.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) // see above
	return nil
}

// original returns where a redirected TCP connection wanted to go; the local address if it was not redirected.
func original(fd int, local netip.Addr) (netip.AddrPort, error) {
	level := uintptr(unix.SOL_IPV6)
	if local.Is4() {
		level = unix.SOL_IP
	}
	sa := sockaddr{len: unix.SizeofSockaddrInet6}
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), level, originalDst,
		uintptr(unsafe.Pointer(&sa.raw)), uintptr(unsafe.Pointer(&sa.len)), 0)
	if errno != 0 {
		return netip.AddrPort{}, fmt.Errorf("look up where the client wanted to go: %w", errno)
	}
	dst := addrPort(&sa.raw)
	if !dst.IsValid() {
		return dst, fmt.Errorf("look up where the client wanted to go: address family %d", sa.raw.Family)
	}
	return dst, nil
}

// abortive makes closing fd reset the connection.
func abortive(fd int) error {
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return fmt.Errorf("set SO_LINGER: %w", err)
	}
	return nil
}

// isIPv6Missing reports whether an address cannot be bound because the host has no IPv6.
func isIPv6Missing(addr netip.Addr, err error) bool {
	return !addr.Is4() && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL))
}
