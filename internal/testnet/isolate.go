package testnet

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/testutil"
)

// isolatedVar tells a test binary that it is the isolated process, and for which test.
const isolatedVar = "WEIR_TESTNET_ISOLATED"

// Isolate runs the calling test again, alone, in a process whose every thread is in a fresh network namespace with lo up, and
// reports its result. For code that opens sockets in goroutines of its own and has no other way into a namespace:
//
//	if !testnet.Isolate(t) {
//		return // it has run
//	}
//
// It returns true in that process. Call it first, at the top of a test (not of a subtest). Labs made inside work as usual.
func Isolate(t *testing.T) bool {
	t.Helper()
	if os.Getenv(isolatedVar) == t.Name() {
		return true
	}
	lab := New(t)
	host := lab.Host("isolated")
	ctx, cancel := context.WithCancel(context.Background())
	if deadline, ok := t.Deadline(); ok {
		cancel()
		ctx, cancel = context.WithDeadline(context.Background(), deadline)
	}
	defer cancel()
	args := []string{"-test.run=^" + regexp.QuoteMeta(t.Name()) + "$", "-test.v", "-test.count=1"}
	for _, arg := range os.Args[1:] {
		// Keeps -test.short and the like; what chooses tests or writes files belongs to the process above.
		if strings.HasPrefix(arg, "-test.short") || strings.HasPrefix(arg, "-test.timeout") {
			args = append(args, arg)
		}
	}
	cmd := host.Command(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), isolatedVar+"="+t.Name())
	cmd.WaitDelay = waitDelay
	out, err := cmd.CombinedOutput()
	reportIsolated(t, string(out), err)
	return false
}

func reportIsolated(t *testing.T, out string, err error) {
	t.Helper()
	skipped := strings.Contains(out, "--- SKIP: "+t.Name()+" ")
	switch {
	case err != nil:
		t.Fatalf("isolated: %v\n%s", err, out)
	case skipped:
		t.Skipf("isolated:\n%s", out)
	case !strings.Contains(out, "--- PASS: "+t.Name()+" "):
		t.Fatalf("isolated: the test did not run:\n%s", out)
	case testing.Verbose():
		t.Logf("isolated:\n%s", out)
	}
}

// RequireOwnNamespace fails the test unless its process is in a network namespace that a lab made: for tests that change the
// network around them, such as those that call Isolate.
func RequireOwnNamespace(t testutil.TB) {
	t.Helper()
	for _, name := range namespaces() {
		if strings.HasPrefix(name, prefix) && slices.Contains(processesIn(filepath.Join(netnsDir, name)), os.Getpid()) {
			return
		}
	}
	t.Fatalf("testnet: this test changes its network namespace and must not run in the machine's")
}
