package api

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/weirfw/weir/internal/winpipe"
)

// Who may use the API, and how one becomes that.
const (
	permitted     = "administrators"
	getPermission = "use a terminal that was started as administrator"
)

// listen makes the named pipe. Windows has no groups that a number names.
func listen(_ context.Context, path string, _ int) (net.Listener, error) {
	ln, err := winpipe.Listen(path)
	switch {
	case errors.Is(err, winpipe.ErrTaken):
		return nil, fmt.Errorf("listen on %s: if it is a refd, stop it first, or set api.socket: %w", path, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return ln, nil
}

// dial connects to a refd.
func dial(ctx context.Context, path string) (net.Conn, error) {
	return winpipe.Dial(ctx, path) //nolint:wrapcheck // call wraps it
}

// peerCredentials says which process opened the pipe: the access list has decided already who may.
func peerCredentials(c net.Conn) peer {
	p, ok := c.(*winpipe.Conn)
	if !ok {
		return peer{err: errNoPeer}
	}
	pid, err := p.ClientPID()
	return peer{pid: pid, err: err}
}

// admitted reports whether a peer may use the API.
func (p *peer) admitted() bool { return p.err == nil }
