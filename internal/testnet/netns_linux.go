package testnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// netnsDir is where iproute2 keeps named namespaces.
const netnsDir = "/run/netns"

// killWait is how long killed processes may take to be gone before the lab says so.
const killWait = 5 * time.Second

var errGoexit = errors.New("testnet: the function ended its goroutine (t.Fatal is not allowed in Do)")

func inNamespace(path string, fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot be thrown away, and /proc/self/net shows its namespace: it must stay where it is.
			// While this goroutine holds it, the other one gets another thread.
			defer runtime.UnlockOSThread()
			result <- inNamespace(path, fn)
			return
		}
		// No unlock: the runtime ends a thread whose goroutine ends locked.
		err := errGoexit
		defer func() { result <- err }()
		err = enterAndRun(path, fn)
	}()
	return <-result
}

func enterAndRun(path string, fn func() error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", path, err)
	}
	err = unix.Setns(fd, unix.CLONE_NEWNET)
	_ = unix.Close(fd) // opened to read: nothing to lose
	if err != nil {
		return fmt.Errorf("enter namespace %s: %w", path, err)
	}
	return fn()
}

// namespaces lists the named namespaces of this machine.
func namespaces() []string {
	entries, err := os.ReadDir(netnsDir)
	if err != nil {
		return nil // none was ever made
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names
}

// removeNamespace ends the processes inside and deletes the namespace. It is no error if somebody else did.
func removeNamespace(name string) error {
	path := filepath.Join(netnsDir, name)
	killErr := killInside(path)
	out, err := run("ip", "netns", "delete", name)
	if _, statErr := os.Stat(path); err != nil && statErr == nil {
		return errors.Join(killErr, fmt.Errorf("%w: %s", err, out))
	}
	return killErr
}

// killInside ends all processes whose main thread is in the namespace: all that Command and Start began and their children.
// Nobody else can be in a namespace that a lab made.
func killInside(path string) error {
	for deadline := time.Now().Add(killWait); ; time.Sleep(5 * time.Millisecond) {
		pids := processesIn(path)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v in %s survive a kill", pids, path)
		}
		for _, pid := range pids {
			if pid == os.Getpid() {
				return fmt.Errorf("refuse to kill this process, which is in %s itself", path)
			}
			_ = unix.Kill(pid, unix.SIGKILL) // ESRCH is what we want; what else could fail shows in the next round
		}
	}
}

// processesIn lists the processes of a namespace. Zombies are in none.
func processesIn(path string) []int {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return nil
	}
	want := "net:[" + strconv.FormatUint(st.Ino, 10) + "]"
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if ns, err := os.Readlink("/proc/" + entry.Name() + "/ns/net"); err == nil && ns == want {
			pids = append(pids, pid)
		}
	}
	return pids
}
