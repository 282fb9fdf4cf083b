//go:build !windows

package refd

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// giveTo gives a file to the owner and the group of another one.
func giveTo(f *os.File, like fs.FileInfo) error {
	was, ok := like.Sys().(*syscall.Stat_t)
	info, err := f.Stat()
	if err != nil || !ok {
		return err //nolint:wrapcheck // writeOver does
	}
	if is, ok := info.Sys().(*syscall.Stat_t); ok && is.Uid == was.Uid && is.Gid == was.Gid {
		return nil
	}
	return f.Chown(int(was.Uid), int(was.Gid)) //nolint:wrapcheck // as above
}

// syncFolder has the names in a folder on the disk.
func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err //nolint:wrapcheck // as above
	}
	err = dir.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil // not every file system can (fsync(2))
	}
	return errors.Join(err, dir.Close())
}
