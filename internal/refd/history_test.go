package refd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/connstore/sqlitestore"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// stopsVar has TestHistoryStop stop so many times.
const stopsVar = "WEIR_HISTORY_STOPS"

// historyDaemon has nothing but a history.
func historyDaemon(t *testing.T, path string) *Daemon {
	t.Helper()
	cfg := config.Default()
	cfg.Recording.Path = path
	d := &Daemon{log: slog.New(slog.DiscardHandler), cfg: &config.Loaded{File: cfg}, store: connstore.NewLive(connstore.Config{})}
	if err := d.buildHistory(); err != nil {
		t.Fatal(err)
	}
	return d
}

// begin makes a connection that was decided.
func begin(d *Daemon, n int) packet.Tuple {
	k := packet.Tuple{
		Local:    netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 16), 1}), uint16(n)),
		Remote:   netip.MustParseAddrPort("192.0.2.1:443"),
		Protocol: packet.TCP,
	}
	c, _ := d.store.GetOrAdd(k, func() *conn.Snapshot { return &conn.Snapshot{Started: time.Now()} })
	c.Update(func(s *conn.Snapshot) { s.Decision.Verdict = verdict.Accept })
	c.AddUsage(1, 0)
	return k
}

// A clean stop under 2,000 connections a second and more, again and again: no row is lost, and nothing is written after the end.
func TestHistoryStop(t *testing.T) {
	testutil.NoLeaks(t)
	stops := 5
	if n, err := strconv.Atoi(os.Getenv(stopsVar)); err == nil {
		stops = n
	}
	path := filepath.Join(t.TempDir(), "history.db")
	all := 0
	for range stops {
		d := historyDaemon(t, path)
		var n atomic.Int64
		packets, err := module.NewService(module.ServiceConfig{Name: "packets", Run: func(ctx context.Context, ready func()) error {
			ready()
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				for range 15 {
					if k := begin(d, int(n.Add(1))); n.Load()%3 > 0 {
						d.store.End(k, time.Now())
					}
				}
				select {
				case <-ctx.Done():
					return nil
				case <-tick.C:
				}
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		group, err := module.NewGroup(module.GroupConfig{Name: "refd"}, d.history.module, packets)
		if err != nil {
			t.Fatal(err)
		}
		if err := group.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for n.Load() < 700 {
			time.Sleep(time.Millisecond)
		}
		if err := group.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		all += int(n.Load())
		begin(d, 1<<20) // comes too late
		wantRows(t, path, all)
	}
}

func wantRows(t *testing.T, path string, want int) {
	t.Helper()
	s, err := sqlitestore.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Query(t.Context(), connstore.Query{Limit: 1})
	if err = errors.Join(err, s.Close()); err != nil || p.Total != want || int(p.ReceivedBytes) != want {
		t.Fatalf("got %d rows with %d bytes, %v; want %d", p.Total, p.ReceivedBytes, err, want)
	}
}

// What is wrong with the history is a state, which goes; and what can be asked says what to do.
func TestHistoryStates(t *testing.T) {
	d := historyDaemon(t, filepath.Join(t.TempDir(), "h.db"))
	for err, want := range map[error]string{
		sqlitestore.ErrFull: "the disk is full", sqlitestore.ErrReadOnly: "read-only", sqlitestore.ErrNewer: "newer", errors.New("odd"): "odd",
	} {
		d.historyCondition(sqlitestore.Condition{Err: fmt.Errorf("write: %w", err)})
		states := d.history.module.States().All()
		if len(states) != 1 || states[0].Severity != module.Warning || !strings.Contains(states[0].Message, want) || !strings.Contains(states[0].Message, "the firewall goes on") {
			t.Errorf("%v: got %+v; want a warning about it", err, states)
		}
	}
	d.historyCondition(sqlitestore.Condition{Lost: 7, Aside: "/x.broken"})
	if states := d.history.module.States().All(); len(states) != 2 || states[0].Severity != module.Hint {
		t.Errorf("got %+v; want what was lost, and where the broken one is", states)
	}
	d.historyCondition(sqlitestore.Condition{})
	if states := d.history.module.States().All(); len(states) != 0 {
		t.Errorf("got %+v; want none", states)
	}
	if _, err := (backend{d}).History(t.Context(), connstore.Query{}); !errors.Is(err, api.ErrRefused) {
		t.Errorf("not open: got %v; want ErrRefused", err)
	}
	if _, err := (backend{&Daemon{}}).History(t.Context(), connstore.Query{}); !errors.Is(err, api.ErrRefused) || !strings.Contains(err.Error(), "history.path") {
		t.Errorf("no history: got %v; want what to do", err)
	}
}
