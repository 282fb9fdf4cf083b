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
	nd := net.Dialer{ControlContext: func(_ context.Context, network, _ string, raw syscall.RawConn) error {
		var err error
		if cerr := raw.Control(func(fd uintptr) { err = d.bind(int(fd), p, network) }); cerr != nil {
			return fmt.Errorf("reach the socket: %w", cerr)
		}
		return err
	}}
	return nd.DialContext(ctx, network, to.String()) //nolint:wrapcheck // dial says what it is about
}

func (d *dialer) bind(fd int, p packet.Protocol, network string) error {
	var anyPort syscall.Sockaddr = &syscall.SockaddrInet4{}
	if strings.HasSuffix(network, "6") {
		anyPort = &syscall.SockaddrInet6{}
	}
	if err := syscall.Bind(fd, anyPort); err != nil {
		return fmt.Errorf("bind to a port: %w", err)
	}
	own, err := syscall.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("ask for the port: %w", err)
	}
	switch own := own.(type) {
	case *syscall.SockaddrInet4:
		return d.tell(p, uint16(own.Port))
	case *syscall.SockaddrInet6:
		return d.tell(p, uint16(own.Port))
	}
	return errors.New("the socket has no port")
}
