package nfq

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testutil"
)

// TestIntegrationOrphanedLock: what a killed process was about to execute has its lock for a moment. A living one keeps it.
func TestIntegrationOrphanedLock(t *testing.T) {
	testutil.RequireRoot(t)
	prefix := "LOCK" + strconv.Itoa(os.Getpid())
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	ns, err := namespaceID()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(lockDir, fmt.Sprintf("nfq-%s-%s.lock", ns, prefix))
	for _, test := range []struct {
		name string
		pid  int
		free bool
	}{
		{"alive", os.Getpid(), false},
		{"gone", ended.Process.Pid, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			first, err := takeLock(prefix)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := first.f.WriteAt([]byte(fmt.Sprintf("%-12d\n", test.pid)), 0); err != nil {
				t.Fatal(err)
			}
			freed := make(chan error, 1)
			if test.free {
				// Like the end of the program, this removes nothing.
				time.AfterFunc(20*time.Millisecond, func() { freed <- unix.Flock(int(first.f.Fd()), unix.LOCK_UN) })
			} else {
				freed <- nil
			}
			second, err := takeLock(prefix)
			if err := <-freed; err != nil {
				t.Error(err)
			}
			if (err == nil) != test.free || err != nil && (!errors.Is(err, ErrInUse) || errors.Is(err, errOrphan)) {
				t.Errorf("got %v; want the lock: %v, or else ErrInUse", err, test.free)
			}
			if second != nil {
				err = errors.Join(second.release(), first.f.Close())
			} else {
				err = first.release()
			}
			if err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("got %v; want the lock's file gone", err)
			}
		})
	}
}
