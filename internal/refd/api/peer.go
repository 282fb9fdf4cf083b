package api

import (
	"context"
	"errors"
	"net"
)

// errNoPeer is of a connection that is not over a unix socket.
var errNoPeer = errors.New("not a unix socket")

// peer is who is at the other end of a connection over a unix socket.
type peer struct {
	uid    uint32
	pid    int
	groups []uint32
	err    error
}

type peerKey struct{}

func withPeer(ctx context.Context, c net.Conn) context.Context {
	p := peer{err: errNoPeer}
	if u, ok := c.(*net.UnixConn); ok {
		p = peerCredentials(u)
	}
	return context.WithValue(ctx, peerKey{}, p)
}

func peerOf(ctx context.Context) peer {
	p, ok := ctx.Value(peerKey{}).(peer)
	if !ok {
		return peer{err: errNoPeer}
	}
	return p
}
