package sqlitestore

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/connstore/connstoretest"
)

// However much has to go, a round of the Recorder does one step of it: what is new does not wait for the rest.
func TestARoundPrunesOneStep(t *testing.T) {
	r := NewRecorder(RecorderConfig{
		Path: filepath.Join(t.TempDir(), "history.db"), Live: connstore.NewLive(connstore.Config{}), Keep: time.Hour, Report: func(Condition) {},
	})
	if err := r.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := r.store.Load()
	defer s.Close() //nolint:errcheck // the test is over
	const rows = 2*pruneStep + 100
	if err := s.Write(t.Context(), connstoretest.Sample(rows, 5)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{rows - pruneStep, rows - 2*pruneStep, 0, 0} {
		if err := r.work(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := s.Len(); got != want {
			t.Errorf("after a round there are %d; want %d", got, want)
		}
	}
	if r.pruned.IsZero() {
		t.Error("it does not come to an end")
	}
}
