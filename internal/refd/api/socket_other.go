//go:build !windows

package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Who may use the API, and how one becomes that.
const (
	permitted     = "root"
	getPermission = "use sudo"
)

// admitted reports whether a peer may use the API.
func (p *peer) admitted() bool {
	return p.err == nil && (p.uid == 0 || p.uid == uint32(os.Geteuid()))
}

// dial connects to a refd.
func dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path) //nolint:wrapcheck // call wraps it
}

// listen opens the socket: with mode 0600, or 0660 for a group. Its folder is made, for the own user (and the group) alone, if there
// is none; one that is there lets the group through if it is ours alone, and keeps its mode otherwise. A socket that nobody listens
// on is left over from a crash and replaced; anything else that is in the way stays. Where the group cannot be let in, the socket is
// the own user's alone, and groupless says why: who has no group can be helped, who has no refd cannot.
func listen(ctx context.Context, path string, gid int) (ln net.Listener, groupless, err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make folder of the API socket: %w", err)
	}
	if err := makeRoom(ctx, path); err != nil {
		return nil, nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	var lc net.ListenConfig
	if ln, err = lc.Listen(ctx, "unix", path); err != nil {
		return nil, nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	mode := fs.FileMode(0o600)
	if gid >= 0 {
		if err := openTo(dir, path, gid); err != nil {
			groupless = fmt.Errorf("let the group use %s: %w", path, err)
		} else {
			mode = 0o660
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("protect %s: %w", path, err), ln.Close())
	}
	return ln, groupless, nil
}

// openTo gives a socket to a group, and lets the group through a folder that is its owner's alone.
func openTo(dir, path string, gid int) error {
	if err := os.Lchown(path, -1, gid); err != nil {
		return err //nolint:wrapcheck // listen does
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		return err //nolint:wrapcheck // listen does
	}
	if err := os.Chown(dir, -1, gid); err != nil {
		return err //nolint:wrapcheck // listen does
	}
	return os.Chmod(dir, 0o710) //nolint:wrapcheck // listen does
}

// privateFolder makes a folder for the own user alone, if there is none. Modes protect the files in it.
func privateFolder(dir string, _ ...string) error { return os.MkdirAll(dir, 0o700) } //nolint:wrapcheck // the caller says what for

// makeRoom removes the socket of a refd that crashed.
func makeRoom(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for an old socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("what is there is not a socket: choose another api.socket")
	}
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close() // nothing was sent
		return errors.New("another refd answers there: stop it first, or set api.socket")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("the socket there is somebody else's: choose another api.socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}
