//go:build unix

package nameserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/weirfw/weir/pkg/packet"
)

// connect has the kernel choose a port, which it does at random, before the socket connects: nothing leaves from a port that was not
// announced, and no port is announced that somebody else has.
func (d *dialer) connect(ctx context.Context, p packet.Protocol, network string, to netip.AddrPort) (net.Conn, error) {
	var port uint16
	nd := net.Dialer{ControlContext: func(_ context.Context, network, _ string, raw syscall.RawConn) error {
		var err error
		if cerr := raw.Control(func(fd uintptr) { port, err = d.bind(int(fd), p, network) }); cerr != nil {
			return fmt.Errorf("reach the socket: %w", cerr)
		}
		return err
	}}
	c, err := nd.DialContext(ctx, network, to.String())
	if err != nil {
		d.takeBack(p, port)
	}
	return c, err //nolint:wrapcheck // dial says what it is about
}

// bind binds a socket and announces its port.
func (d *dialer) bind(fd int, p packet.Protocol, network string) (port uint16, err error) {
	var anyPort syscall.Sockaddr = &syscall.SockaddrInet4{}
	if strings.HasSuffix(network, "6") {
		anyPort = &syscall.SockaddrInet6{}
	}
	if err := syscall.Bind(fd, anyPort); err != nil {
		return 0, fmt.Errorf("bind to a port: %w", err)
	}
	own, err := syscall.Getsockname(fd)
	if err != nil {
		return 0, fmt.Errorf("ask for the port: %w", err)
	}
	switch own := own.(type) {
	case *syscall.SockaddrInet4:
		port = uint16(own.Port)
	case *syscall.SockaddrInet6:
		port = uint16(own.Port)
	}
	if port == 0 {
		return 0, errors.New("the socket has no port")
	}
	return port, d.tell(p, port)
}
