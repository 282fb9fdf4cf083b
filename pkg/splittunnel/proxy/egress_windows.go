package proxy

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/windows"
)

// Options of ws2ipdef.h; both families use the same number.
const (
	ipUnicastIf   = 31
	ipv6UnicastIf = 31
)

// Dial connects to dst by the interface and from the source address, and by no other way; the network is "tcp" or "udp". The error
// wraps ErrEgress if the interface or the address cannot be used.
//
// The interface is set by IP_UNICAST_IF or IPV6_UNICAST_IF before the socket connects; Mark has no meaning on Windows.
func (e Egress) Dial(ctx context.Context, network string, dst netip.AddrPort) (net.Conn, error) {
	if err := e.check(dst); err != nil {
		return nil, err
	}
	if e.Index == 0 {
		return nil, fmt.Errorf("%w %s: its index is not known", ErrEgress, e.Interface)
	}
	d := net.Dialer{ControlContext: func(_ context.Context, _, _ string, c syscall.RawConn) error {
		var bound error
		if err := c.Control(func(fd uintptr) { bound = e.bindDevice(windows.Handle(fd)) }); err != nil {
			return fmt.Errorf("reach the socket: %w", err)
		}
		return bound
	}}
	source := netip.AddrPortFrom(e.Source, 0)
	switch network {
	case "tcp":
		d.LocalAddr = net.TCPAddrFromAddrPort(source)
	case "udp":
		d.LocalAddr = net.UDPAddrFromAddrPort(source)
	default:
		return nil, fmt.Errorf("proxy: dial %s: only tcp and udp have a way out", network)
	}
	c, err := d.DialContext(ctx, network, dst.String())
	if err != nil {
		return nil, fmt.Errorf("connect to %v by %s: %w", dst, e.Interface, err)
	}
	return c, nil
}

// bindDevice makes the socket send by the interface.
func (e Egress) bindDevice(fd windows.Handle) error {
	level, name, value := windows.IPPROTO_IPV6, ipv6UnicastIf, unicastIf(e.Index, e.Source)
	if e.Source.Is4() {
		level, name = windows.IPPROTO_IP, ipUnicastIf
	}
	if err := windows.SetsockoptInt(fd, level, name, int(int32(value))); err != nil {
		return fmt.Errorf("%w %s: bind to the interface: %w", ErrEgress, e.Interface, err)
	}
	return nil
}

// unicastIf is the option's value for an interface: the number in network byte order for IPv4, in that of the host for IPv6.
func unicastIf(index int, source netip.Addr) uint32 {
	if source.Is6() {
		return uint32(index)
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(index))
	return binary.NativeEndian.Uint32(b[:])
}
