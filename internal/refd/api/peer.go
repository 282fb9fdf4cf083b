package api

import (
	"context"
	"errors"
	"net"
)

// errNoPeer is of a connection that is not over the unix socket, or the named pipe.
var errNoPeer = errors.New("not over refd's socket")

// peer is who is at the other end of a connection over a unix socket or a named pipe.
type peer struct {
	uid    uint32
	pid    int
	groups []uint32
	err    error
}

type peerKey struct{}

func withPeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, peerCredentials(c))
}

func peerOf(ctx context.Context) peer {
	p, ok := ctx.Value(peerKey{}).(peer)
	if !ok {
		return peer{err: errNoPeer}
	}
	return p
}
