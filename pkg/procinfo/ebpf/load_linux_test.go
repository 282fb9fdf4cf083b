//go:build amd64 || arm64

package ebpf_test

import (
	"errors"
	"testing"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/procinfo/ebpf"
)

// newTracker returns a Tracker, or ends the test where the kernel refuses BPF.
func newTracker(t testing.TB, cfg ebpf.Config) *ebpf.Tracker {
	t.Helper()
	testutil.RequireRoot(t)
	tracker, err := ebpf.New(cfg)
	if errors.Is(err, ebpf.ErrRefused) {
		testutil.Unavailable(t, "needs eBPF: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tracker.Close(); err != nil {
			t.Error(err)
		}
	})
	return tracker
}

// What a kernel of today has, all of it has to let in.
func TestIntegrationFeatures(t *testing.T) {
	tracker := newTracker(t, ebpf.Config{})
	s := tracker.Status()
	for _, m := range s.Missing {
		t.Errorf("%s: %s (%s)", m.Feature, m.Why, m.Lost)
	}
	t.Log(s)
}
