//go:build unix

package ivpn

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// trusted says whether only root, or the user that this process runs as, can
// write something.
func trusted(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return untrusted(path, "has no owner that could be told")
	case !ownerTrusted(st.Uid):
		return untrusted(path, fmt.Sprintf("belongs to user %d; want root", st.Uid))
	case info.Mode().Perm()&0o022 != 0:
		return untrusted(path, fmt.Sprintf("can be written by others than root (mode %v)", info.Mode().Perm()))
	}
	return nil
}

// ownerTrusted reports whether what this user owns is as good as ours.
func ownerTrusted(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

// keepsEntries reports whether others may write a folder of an administrator's
// and yet not move what it contains, as in /tmp.
func keepsEntries(_ string, info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && ownerTrusted(st.Uid) && info.IsDir() && info.Mode()&fs.ModeSticky != 0
}

// privileged reports whether a process of this user may be the daemon, which
// runs as root: its path alone proves nothing, because in a mount namespace of
// their own everybody can put another program there.
func privileged(uid uint32) bool { return ownerTrusted(uid) }
