package testutil

import (
	"runtime"
	"strings"
	"time"
)

// leakWait is how long goroutines may take to end after the test did: closing sockets and dying workers are not instant on
// two busy cores under the race detector.
const leakWait = 3 * time.Second

// NoLeaks fails the test if, after all clean-ups registered later, goroutines run that did not run when NoLeaks was called.
// Call it first. Tests that use it cannot be parallel, before it or after: their goroutines could not be told apart.
func NoLeaks(t TB) {
	t.Helper()
	if env, ok := t.(interface{ Setenv(name, value string) }); ok {
		env.Setenv("WEIR_NO_LEAKS", "1") // the one thing by which package testing refuses Parallel; nobody reads it
	}
	before := goroutines()
	t.Cleanup(func() {
		t.Helper()
		if t.Failed() {
			return // a test that ended early leaves things running; its own message is the one to read
		}
		leaked := waitForEnd(before, leakWait)
		for _, stack := range leaked {
			t.Errorf("leaked goroutine, still there after %v:\n%s", leakWait, stack)
		}
	})
}

// waitForEnd polls until no goroutine but those of before and the ignored ones runs; it returns what is left.
func waitForEnd(before map[string]string, limit time.Duration) []string {
	pause := time.Millisecond
	for deadline := time.Now().Add(limit); ; {
		var leaked []string
		for id, stack := range goroutines() {
			if _, known := before[id]; !known {
				leaked = append(leaked, stack)
			}
		}
		if len(leaked) == 0 || time.Now().After(deadline) {
			return leaked
		}
		time.Sleep(pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
}

// goroutines maps the number of each goroutine to its stack, without our own and those that package testing and the runtime
// keep for themselves. Numbers are never used twice in a process.
func goroutines() map[string]string {
	buf := make([]byte, 64<<10)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := strings.Split(string(buf), "\n\n")
	found := make(map[string]string, len(stacks))
	for _, stack := range stacks[1:] { // the first is the caller
		head, _, _ := strings.Cut(stack, " [")
		if !ignored(stack) {
			found[head] = stack
		}
	}
	return found
}

func ignored(stack string) bool {
	for _, s := range []string{
		"testing.(*T).Run(", "testing.(*M).startAlarm", "testing.runTests(", "testing.runFuzzing(", "testing.tRunner(",
		"os/signal.signal_recv(", "os/signal.loop(", "runtime.ensureSigM",
	} {
		// A stack that merely was started below tRunner says "created by testing.(*T).Run": that is no reason to
		// ignore it, so only frames count.
		frames, _, _ := strings.Cut(stack, "\ncreated by ")
		if strings.Contains(frames, "\n"+s) {
			return true
		}
	}
	return false
}
