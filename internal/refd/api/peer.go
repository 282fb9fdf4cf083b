package api

import (
	"context"
	"net"
)

// peer is who is at the other end of a connection.
type peer struct {
	uid uint32
	pid int
	err error
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
