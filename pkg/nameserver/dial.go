package nameserver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/weirfw/weir/pkg/packet"
)

// dialer makes the sockets that ask upstream servers.
type dialer struct {
	announce func(p packet.Protocol, localPort uint16) error
	withdraw func(p packet.Protocol, localPort uint16)
}

// announced is a socket that takes its announcement back when it is closed: while it has its port, nobody else can.
type announced struct {
	net.Conn
	withdraw func()
}

// Close implements net.Conn.
func (a *announced) Close() error {
	a.withdraw()
	return a.Conn.Close() //nolint:wrapcheck // it is that connection's own
}

// dial connects to an upstream server from a random port, which is announced first.
func (d *dialer) dial(ctx context.Context, p packet.Protocol, to netip.AddrPort) (net.Conn, error) {
	network := "tcp"
	if p == packet.UDP {
		network = "udp"
	}
	family := "4"
	if to.Addr().Is6() {
		family = "6"
	}
	c, err := d.connect(ctx, p, network+family, to)
	if err != nil {
		return nil, fmt.Errorf("connect to %v: %w", to, err)
	}
	return &announced{c, sync.OnceFunc(func() { d.takeBack(p, portOf(c)) })}, nil
}

func (d *dialer) takeBack(p packet.Protocol, port uint16) {
	if d.withdraw != nil && port != 0 {
		d.withdraw(p, port)
	}
}

func (d *dialer) tell(p packet.Protocol, port uint16) error {
	if d.announce == nil {
		return nil
	}
	if err := d.announce(p, port); err != nil {
		return fmt.Errorf("announce port %d: %w", port, err)
	}
	return nil
}

// portOf returns a socket's own port.
func portOf(c net.Conn) uint16 {
	ap, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return 0
	}
	return ap.Port()
}
