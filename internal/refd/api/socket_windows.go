package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/weirfw/weir/internal/winpipe"
	"github.com/weirfw/weir/internal/winsvc"
)

// Who may use the API, and how one becomes that.
const (
	permitted     = "administrators"
	getPermission = "use a terminal that was started as administrator"
)

// listen makes the named pipe. Windows has no groups that a number names.
func listen(_ context.Context, path string, _ int) (ln net.Listener, groupless, err error) {
	ln, err = winpipe.Listen(path)
	switch {
	case errors.Is(err, winpipe.ErrTaken):
		return nil, nil, fmt.Errorf("listen on %s: if it is a refd, stop it first, or set api.socket: %w", path, err)
	case err != nil:
		return nil, nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return ln, nil, nil
}

// privateFolder makes a folder that only administrators and the system may read, or makes one that is there such: files have the access
// list of their folder here. One that belongs to somebody else is refused, and so are files in it that do.
func privateFolder(dir string, files ...string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err //nolint:wrapcheck // writeTokens does
	}
	return winsvc.ProtectFolder(dir, files...) //nolint:wrapcheck // as above
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
