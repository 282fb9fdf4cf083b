package hostfile_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/hostfile"
)

// This very program is the host's file at its path, and at no other.
func TestOwnProgram(t *testing.T) {
	v := hostfile.New("/proc")
	own, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := unix.Open("/proc/self", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	if err := unix.Stat(own, &st); err != nil {
		t.Fatal(err)
	}
	dev := unix.Major(st.Dev)<<20 | unix.Minor(st.Dev)
	for file, want := range map[string]bool{own: true, "/bin/sh": false, "/nowhere/" + own: false, own + hostfile.Deleted: true, "/proc/x" + hostfile.Deleted: false} {
		if got := v.Runs(dir, file); got != want {
			t.Errorf("%s: runs %v; want %v", file, got, want)
		}
	}
	if !v.Is(own, dev, st.Ino) || v.Is(own, dev+1, st.Ino) || v.Is(own, dev, st.Ino+1) || v.Is("/bin/sh", dev, st.Ino) || v.Is(own, dev, 0) {
		t.Error("a file is not known by its numbers, or another is")
	}
	if v.RootRuns(1<<30, own) {
		t.Error("a process that is not there runs something")
	}
}
