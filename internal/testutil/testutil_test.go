package testutil_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/testutil"
)

// recorder is a TB that notes what a check said instead of ending the test.
type recorder struct {
	testing.TB
	fatal, skipped, errors string
	cleanup                []func()
}

func (r *recorder) Cleanup(undo func())            { r.cleanup = append(r.cleanup, undo) }
func (r *recorder) Errorf(format string, a ...any) { r.errors += fmt.Sprintf(format, a...) }
func (r *recorder) Fatalf(format string, a ...any) { r.fatal += fmt.Sprintf(format, a...) }
func (r *recorder) Skipf(format string, a ...any)  { r.skipped += fmt.Sprintf(format, a...) }

func TestUnavailable(t *testing.T) {
	for _, test := range []struct {
		name, env           string
		wantFatal, wantSkip bool
	}{
		{name: "at home", env: "", wantSkip: true},
		{name: "in CI", env: "1", wantFatal: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv(testutil.CIVar, test.env)
			r := &recorder{TB: t}
			testutil.RequireTool(r, "no-such-program-here")
			if got := r.fatal != ""; got != test.wantFatal {
				t.Errorf("got fatal %q; want fatal: %v", r.fatal, test.wantFatal)
			}
			if got := r.skipped != ""; got != test.wantSkip {
				t.Errorf("got skip %q; want skip: %v", r.skipped, test.wantSkip)
			}
			if said := r.fatal + r.skipped; !strings.Contains(said, "no-such-program-here") {
				t.Errorf("got %q; want the name of what is missing", said)
			}
		})
	}
}

func TestRequireToolFindsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "weir-tool.exe"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	r := &recorder{TB: t}
	testutil.RequireTool(r, "weir-tool.exe")
	if r.fatal+r.skipped != "" {
		t.Errorf("got %q; want nothing", r.fatal+r.skipped)
	}
}

func TestNoLeaks(t *testing.T) {
	release := make(chan struct{})
	r := &recorder{TB: t}
	testutil.NoLeaks(r)
	started := make(chan struct{})
	go leakyWorker(started, release)
	<-started
	r.cleanup[0]()
	close(release)
	if !strings.Contains(r.errors, "leakyWorker") {
		t.Errorf("got %q; want the stack of leakyWorker", r.errors)
	}

	r = &recorder{TB: t}
	testutil.NoLeaks(r)
	done := make(chan struct{})
	go func() { close(done) }()
	<-done
	r.cleanup[0]()
	if r.errors != "" {
		t.Errorf("got %q; want nothing for a goroutine that ended", r.errors)
	}
}

// The goroutines of tests that run at the same time would be taken for leaks. Subtests may be parallel: they end before it looks.
func TestNoLeaksIsNotForParallelTests(t *testing.T) {
	refused := func(t *testing.T) {
		t.Helper()
		if recover() == nil {
			t.Error("got a test that is parallel and looks for leaks; want it refused")
		}
	}
	t.Run("parallel after it", func(t *testing.T) {
		defer refused(t)
		testutil.NoLeaks(t)
		t.Parallel()
	})
	t.Run("parallel before it", func(t *testing.T) {
		t.Parallel()
		defer refused(t)
		testutil.NoLeaks(t)
	})
	t.Run("parallel in it", func(t *testing.T) {
		testutil.NoLeaks(t)
		for range 2 {
			t.Run("sub", func(t *testing.T) { t.Parallel() })
		}
	})
}

func leakyWorker(started chan<- struct{}, release <-chan struct{}) {
	close(started)
	<-release
}

func TestIntegrationKernelProbes(t *testing.T) {
	testutil.RequireRoot(t)
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	testutil.RequireNFQUEUE(t)
	testutil.RequireIPTables(t, testutil.VariantNFT)
	testutil.RequireIPTables(t, testutil.VariantLegacy)
	after, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if after != before {
		t.Errorf("got namespace %s after the probes; want %s as before", after, before)
	}

	t.Setenv(testutil.CIVar, "")
	r := &recorder{TB: t}
	testutil.RequireRule(r, testutil.VariantNFT, "-A", "OUTPUT", "-j", "NOSUCHTARGET")
	if r.skipped == "" {
		t.Error("got no skip; want one for a target that no kernel has")
	}
}

func TestHex(t *testing.T) {
	if got := testutil.Hex(t, "01 02ff # three\n\t# nothing\n0a"); string(got) != "\x01\x02\xff\x0a" {
		t.Errorf("got % x; want 01 02 ff 0a", got)
	}
	r := recorder{TB: t}
	if testutil.Hex(&r, "0"); r.fatal == "" {
		t.Error("got no failure for half a byte; want one")
	}
}
