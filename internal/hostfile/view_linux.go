package hostfile

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// View is the host's file system as its first process sees it. A service has mounts of its own, such as an empty /tmp. Its methods may
// be called from any goroutine.
type View struct {
	proc, root string
	// mounts and users are the namespaces of the first process.
	mounts, users namespace
}

type namespace struct{ dev, ino uint64 }

// New returns the view of the first process in the procfs that is mounted at proc, or our own where that one is none of ours to look at.
func New(proc string) *View {
	v := &View{proc: proc}
	for _, who := range []string{"1", "self"} {
		dir := proc + "/" + who
		var root unix.Stat_t
		v.mounts, v.users = namespaceOf(dir+"/ns/mnt"), namespaceOf(dir+"/ns/user")
		if v.root = dir + "/root"; v.mounts.ino != 0 && unix.Stat(v.root+"/", &root) == nil {
			return v
		}
	}
	v.root = ""
	return v
}

// MountNamespace is the inode of the host's mount namespace, 0 if it is not known.
func (v *View) MountNamespace() uint64 { return v.mounts.ino }

// Stat is stat(2) of the host's file at an absolute path.
func (v *View) Stat(file string, st *unix.Stat_t) error { return unix.Stat(v.root+file, st) } //nolint:wrapcheck // the number says all

func namespaceOf(file string) namespace {
	var st unix.Stat_t
	if unix.Stat(file, &st) != nil {
		return namespace{}
	}
	return namespace{st.Dev, st.Ino}
}

// Runs reports whether the process whose directory of procfs is open as dir runs the host's file at that path, which is what the kernel
// says of it. One that is deleted counts if it was where its folder is.
func (v *View) Runs(dir int, file string) bool {
	var running, here unix.Stat_t
	errRunning, errHere := unix.Fstatat(dir, "exe", &running, 0), v.Stat(file, &here)
	before, gone := strings.CutSuffix(file, Deleted)
	switch {
	case errRunning == nil && errHere == nil:
		return running.Dev == here.Dev && running.Ino == here.Ino
	case gone && before != "":
		return v.ran(dir, path.Dir(before))
	}
	// Mounts of FUSE keep everybody but their user out, root too.
	return errors.Is(errHere, unix.EACCES) && errors.Is(errRunning, unix.EACCES) && v.shares(dir)
}

// shares reports whether a process sees what the first one sees.
func (v *View) shares(dir int) bool {
	var st unix.Stat_t
	return v.mounts.ino != 0 && unix.Fstatat(dir, "ns/mnt", &st, 0) == nil && v.mounts == namespace{st.Dev, st.Ino}
}

// ran reports whether the deleted program of a process was in a folder of the host.
func (v *View) ran(dir int, folder string) bool {
	var exe, at unix.Statx_t
	// Asked for nothing, FUSE tells what can be told: file system and mount.
	if unix.Statx(dir, "exe", 0, 0, &exe) != nil {
		return false
	}
	err := unix.Statx(unix.AT_FDCWD, v.root+folder, 0, unix.STATX_BASIC_STATS, &at)
	for folder != "/" && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)) {
		folder = path.Dir(folder) // it went with it
		err = unix.Statx(unix.AT_FDCWD, v.root+folder, 0, unix.STATX_BASIC_STATS, &at)
	}
	if v.shares(dir) {
		return errors.Is(err, unix.EACCES) || err == nil && sameMount(&exe, &at)
	}
	// In a namespace of its own a mount is another one in any case. What root has mounted there, as for a service, is believed of a
	// program that only root can have put there.
	return err == nil && exe.Dev_major == at.Dev_major && exe.Dev_minor == at.Dev_minor && exe.Uid == 0 && exe.Mode&0o022 == 0 &&
		v.sameRoot(dir) && v.ofHostsUsers(dir)
}

func sameMount(a, b *unix.Statx_t) bool {
	if a.Mask&b.Mask&unix.STATX_MNT_ID != 0 {
		return a.Mnt_id == b.Mnt_id
	}
	return a.Dev_major == b.Dev_major && a.Dev_minor == b.Dev_minor // before Linux 5.8
}

// sameRoot reports whether the root of a process is that of the host.
func (v *View) sameRoot(dir int) bool {
	var its, hosts unix.Stat_t
	return unix.Fstatat(dir, "root", &its, 0) == nil && v.Stat("/", &hosts) == nil && its.Dev == hosts.Dev && its.Ino == hosts.Ino
}

// ofHostsUsers reports whether the mount namespace of a process belongs to the host's root, and not to somebody who is root in a user
// namespace of his own.
func (v *View) ofHostsUsers(dir int) bool {
	fd, err := unix.Openat(dir, "ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	owner, err := unix.IoctlRetInt(fd, unix.NS_GET_USERNS)
	if err != nil {
		return false
	}
	defer unix.Close(owner) //nolint:errcheck // nothing was written
	return v.users.ino != 0 && namespaceOf("/proc/self/fd/"+strconv.Itoa(owner)) == v.users
}

// RootRuns reports whether a process runs the host's file at that path, and only root can have put it there.
func (v *View) RootRuns(pid int, file string) bool {
	dir, err := unix.Open(v.proc+"/"+strconv.Itoa(pid), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(dir) //nolint:errcheck // nothing was written
	var st unix.Stat_t
	return unix.Fstatat(dir, "exe", &st, 0) == nil && st.Uid == 0 && os.FileMode(st.Mode)&0o022 == 0 && v.Runs(dir, file)
}

// Is reports whether a file that is known by the kernel's number of its file system, and its inode, is the host's at that path.
func (v *View) Is(file string, dev uint32, ino uint64) bool {
	const minorBits = 20 // linux/kdev_t.h
	var st unix.Stat_t
	return ino != 0 && v.Stat(file, &st) == nil && st.Ino == ino && unix.Major(st.Dev) == dev>>minorBits && unix.Minor(st.Dev) == dev&(1<<minorBits-1)
}
