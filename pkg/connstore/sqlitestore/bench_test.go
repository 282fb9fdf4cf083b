package sqlitestore_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/connstore/sqlitestore"
	"github.com/weirfw/weir/pkg/verdict"
)

// What a connection costs the packet path: added, decided, ended; without a history and with one.
func BenchmarkNote(b *testing.B) {
	for _, name := range []string{"without", "with"} {
		b.Run(name, func(b *testing.B) {
			live := connstore.NewLive(connstore.Config{})
			if name == "with" {
				r := sqlitestore.NewRecorder(sqlitestore.RecorderConfig{Path: filepath.Join(b.TempDir(), "h.db"), Live: live, MaxPending: 1 << 20})
				ctx, cancel := context.WithCancel(context.Background())
				ready, done := make(chan struct{}), make(chan error, 1)
				go func() { done <- r.Run(ctx, func() { close(ready) }) }()
				<-ready
				defer func() {
					cancel()
					if err := <-done; err != nil {
						b.Error(err)
					}
				}()
			}
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				c, _ := live.GetOrAdd(tuple(n), func() *conn.Snapshot { return &conn.Snapshot{Started: time.Unix(0, 1)} })
				c.Update(func(s *conn.Snapshot) { s.Decision.Verdict = verdict.Accept })
				live.End(tuple(n), time.Unix(0, 2))
			}
		})
	}
}
