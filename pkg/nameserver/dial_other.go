//go:build !unix

package nameserver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/weirfw/weir/pkg/packet"
)

// dialTries bounds how often another port is tried; a port can be taken.
const dialTries = 8

// connect chooses a random port of those that IANA leaves to programs (RFC 6335 section 6), and announces it: Go binds and connects in
// one go here.
func (d *dialer) connect(ctx context.Context, p packet.Protocol, network string, to netip.AddrPort) (c net.Conn, err error) {
	for range dialTries {
		var random [2]byte
		if _, err := rand.Read(random[:]); err != nil {
			return nil, fmt.Errorf("random numbers: %w", err)
		}
		port := 49152 | int(binary.BigEndian.Uint16(random[:]))
		nd := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}}
		if p == packet.UDP {
			nd.LocalAddr = &net.UDPAddr{Port: port}
		}
		if err := d.tell(p, uint16(port)); err != nil {
			return nil, err
		}
		if c, err = nd.DialContext(ctx, network, to.String()); err == nil {
			break
		}
		if d.takeBack(p, uint16(port)); ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("from ports of our choice: %w", err)
	}
	return c, nil
}
