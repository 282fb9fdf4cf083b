package netif

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testutil"
)

// namespace is a network namespace that ends with its test. Nothing here touches the machine's own.
type namespace struct {
	t    testing.TB
	file *os.File // keeps it alive
}

// newNamespace makes a namespace in which loopback is up.
func newNamespace(t testing.TB) *namespace {
	t.Helper()
	testutil.RequireRoot(t)
	testutil.RequireTool(t, "ip")
	ns := &namespace{t: t}
	err := <-onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		ns.file, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.file.Close(); err != nil {
			t.Error(err)
		}
	})
	ns.ip("link set lo up")
	return ns
}

// onThread runs fn on a thread of its own, which ends with it, so fn may change the thread's namespace.
func onThread(fn func() error) <-chan error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so the runtime ends the thread
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and /proc/self shows its namespace: hold it, and take another.
			defer runtime.UnlockOSThread()
			errc <- <-onThread(fn)
			return
		}
		errc <- fn()
	}()
	return errc
}

// start runs fn in the namespace without waiting for it.
func (ns *namespace) start(fn func() error) <-chan error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// do runs fn in the namespace; an error ends the test.
func (ns *namespace) do(fn func() error) {
	ns.t.Helper()
	if err := <-ns.start(fn); err != nil {
		ns.t.Fatal(err)
	}
}

// ip runs commands of iproute2 and returns what they print.
func (ns *namespace) ip(commands ...string) string {
	ns.t.Helper()
	var all strings.Builder
	for _, command := range commands {
		ns.do(func() error {
			out, err := exec.CommandContext(ns.t.Context(), "ip", strings.Fields(command)...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("ip %s: %w: %s", command, err, out)
			}
			all.Write(out)
			return nil
		})
	}
	return all.String()
}

// tun makes a tun interface that is running because somebody has it open.
func (ns *namespace) tun(name string) {
	ns.t.Helper()
	ns.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open tun: %w", err)
		}
		ns.t.Cleanup(func() {
			if err := unix.Close(fd); err != nil {
				ns.t.Error(err)
			}
		})
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return fmt.Errorf("name %s: %w", name, err)
		}
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	})
}

// read takes a snapshot of the namespace.
func (ns *namespace) read() (s *Snapshot) {
	ns.t.Helper()
	ns.do(func() (err error) {
		s, err = Read(ns.t.Context())
		return err
	})
	return s
}
