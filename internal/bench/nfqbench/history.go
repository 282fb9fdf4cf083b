package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/connstore/sqlitestore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// openHistory keeps the connections of a store on disk, and makes o.history more of them a second, which are over at once. end fails
// where one of those was lost.
func openHistory(ctx context.Context, o *options, live *connstore.Live) (end func() error, err error) {
	dir, err := os.MkdirTemp("", "nfqbench")
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	path := filepath.Join(dir, "history.db")
	recorder := sqlitestore.NewRecorder(sqlitestore.RecorderConfig{Path: path, Live: live})
	// both end after the source, whose Run returns when ctx is done
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ready, written := make(chan struct{}), make(chan error, 1)
	go func() { written <- recorder.Run(own, func() { close(ready) }) }()
	<-ready
	loading, stop := context.WithCancel(own)
	made := make(chan int, 1)
	go func() { made <- load(loading, live, o.history) }()
	return func() error {
		stop()
		n := <-made
		cancel()
		return errors.Join(<-written, wantWritten(path, n), os.RemoveAll(dir))
	}, nil
}

// load makes connections until ctx is done, and returns how many.
func load(ctx context.Context, live *connstore.Live, rate int) (n int) {
	const perSecond = 100
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return n
		case now := <-tick.C:
			for due := int(now.Sub(began).Seconds() * float64(rate)); n < due; n++ {
				t := packet.Tuple{Protocol: packet.UDP, Local: netip.MustParseAddrPort("198.18.0.1:9"),
					Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 19, byte(n >> 8), byte(n)}), uint16(n>>16)+1)}
				c, _ := live.GetOrAdd(t, func() *conn.Snapshot { return &conn.Snapshot{Started: now, Internal: true} })
				c.Update(func(s *conn.Snapshot) {
					s.Process = &conn.Process{PID: 1 + n%50, Path: fmt.Sprintf("/usr/bin/load%d", n%20)}
					s.Decision = verdict.Decision{Verdict: verdict.Accept, Reason: verdict.Reason{Code: "load"}}
				})
				live.End(t, now)
			}
		}
	}
}

// wantWritten says whether all that load made is in the database.
func wantWritten(path string, n int) error {
	ctx := context.Background()
	s, err := sqlitestore.Open(ctx, path)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	p, err := s.Query(ctx, connstore.Query{Remote: netip.MustParsePrefix("198.19.0.0/16"), Limit: 1})
	if err := errors.Join(err, s.Close()); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	fmt.Fprintf(os.Stderr, "history: %d of %d connections\n", p.Total, n)
	if p.Total != n {
		return fmt.Errorf("history: got %d connections; want %d", p.Total, n)
	}
	return nil
}
