package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// soOriginalDst is SO_ORIGINAL_DST of linux/netfilter_ipv4.h and IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h.
const soOriginalDst = 80

// originalDestination asks the kernel where a connection was going before it was redirected here. Of one that was not
// redirected it may return our own address. The error wraps syscall.ENOENT if the kernel knows nothing.
func originalDestination(c *net.TCPConn) (to netip.AddrPort, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return to, fmt.Errorf("original destination: %w", err)
	}
	ask := originalDestination6
	if addrPort(c.LocalAddr()).Addr().Is4() {
		ask = originalDestination4
	}
	var askErr error
	if err := raw.Control(func(fd uintptr) { to, askErr = ask(int(fd)) }); err != nil {
		return to, fmt.Errorf("original destination: %w", err)
	}
	if askErr != nil {
		return to, fmt.Errorf("original destination: %w", os.NewSyscallError("getsockopt", askErr))
	}
	return to, nil
}

// originalDestination4 gets a sockaddr_in. Package syscall has no call for that; its ipv6_mreq has room for one.
func originalDestination4(fd int) (to netip.AddrPort, err error) {
	mreq, err := syscall.GetsockoptIPv6Mreq(fd, syscall.SOL_IP, soOriginalDst)
	if err != nil {
		return to, err //nolint:wrapcheck // the caller does
	}
	b := mreq.Multiaddr // family, port, address
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4])), nil
}

// originalDestination6 gets a sockaddr_in6, with which ip6_mtuinfo begins.
func originalDestination6(fd int) (to netip.AddrPort, err error) {
	info, err := syscall.GetsockoptIPv6MTUInfo(fd, syscall.SOL_IPV6, soOriginalDst)
	if err != nil {
		return to, err //nolint:wrapcheck // the caller does
	}
	var port [2]byte // in the order of the network, whatever this machine's
	binary.NativeEndian.PutUint16(port[:], info.Addr.Port)
	return netip.AddrPortFrom(netip.AddrFrom16(info.Addr.Addr), binary.BigEndian.Uint16(port[:])), nil
}
