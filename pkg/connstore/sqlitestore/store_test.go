package sqlitestore_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/connstore/connstoretest"
	"github.com/weirfw/weir/pkg/connstore/sqlitestore"
)

// open opens a store until the test ends.
func open(t *testing.T, path string) *sqlitestore.Store {
	t.Helper()
	s, err := sqlitestore.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func database(t *testing.T) string { return filepath.Join(t.TempDir(), "of history", "history.db") }

func write(t *testing.T, s *sqlitestore.Store, all []conn.Snapshot) {
	t.Helper()
	if err := s.Write(t.Context(), all); err != nil {
		t.Fatal(err)
	}
}

func ask(t *testing.T, s *sqlitestore.Store, q connstore.Query) connstore.Page {
	t.Helper()
	p, err := s.Query(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestConformance(t *testing.T) {
	testutil.NoLeaks(t)
	connstoretest.Conformance(t, func(t *testing.T, all []conn.Snapshot) connstoretest.Ask {
		t.Helper()
		s := open(t, database(t))
		// as it happens: what lives is written first, and again when it ended; not all of them in order
		begun := make([]conn.Snapshot, len(all))
		for i, c := range all {
			c.Ended, c.ReceivedBytes, c.Domain = time.Time{}, 0, ""
			begun[i] = c
		}
		for i := len(begun) - 1; i > 0; i -= 7 {
			begun[i], begun[i-1] = begun[i-1], begun[i]
		}
		write(t, s, begun)
		write(t, s, all)
		return func(q connstore.Query) (connstore.Page, error) { return s.Query(context.Background(), q) }
	})
}

// What was written is there after Close and Open: what had not ended has.
func TestReopen(t *testing.T) {
	path := database(t)
	all := connstoretest.Sample(300, 7)
	s, err := sqlitestore.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s, all)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if all[i].Live() {
			all[i].Ended = all[i].LastSeen
		}
	}
	// Windows has no such modes: Go makes one up
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 && runtime.GOOS != "windows" {
		t.Errorf("got mode %v, %v; want 0600", info.Mode(), err)
	}
	s = open(t, path)
	if s.Last() != 300 || s.Len() != 300 {
		t.Errorf("got %d connections up to %d; want 300", s.Len(), s.Last())
	}
	got := ask(t, s, connstore.Query{Order: connstore.OldestFirst})
	for i := range all {
		if g, w := asJSON(t, got.Connections[i]), asJSON(t, all[i]); g != w {
			t.Fatalf("got %s; want %s", g, w)
		}
	}
	// and values that many have in common are still common
	write(t, s, connstoretest.Sample(300, 7))
	if g := ask(t, s, connstore.Query{GroupBy: connstore.ByRule}); g.TotalGroups != 3 {
		t.Errorf("got %+v; want 3 groups", g.Groups)
	}
	for table, most := range map[string]int{"names": 22, "reasons": 4, "ways": 12, "apps": 14} {
		if n := count(t, path, table); n > most {
			t.Errorf("got %d %s; want %d", n, table, most)
		}
	}
}

func asJSON(t *testing.T, s conn.Snapshot) string {
	t.Helper()
	s.Started, s.Ended, s.LastSeen = s.Started.UTC(), s.Ended.UTC(), s.LastSeen.UTC()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// raw opens the database beside the store.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func count(t *testing.T, path, table string) (n int) {
	t.Helper()
	if err := raw(t, path).QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A database of the first format, with a connection in it, is brought up to date.
func TestOlderFormat(t *testing.T) {
	path := database(t)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(filepath.Join("testdata", "v1.sql"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw(t, path).ExecContext(t.Context(), string(old)); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	p := ask(t, s, connstore.Query{Kind: connstore.OnlyConnections})
	if p.Total != 1 || p.Connections[0].Domain != "old.test" || p.Connections[0].Query != nil || p.Connections[0].Process.Path != "/bin/old" {
		t.Errorf("got %+v; want the connection that is there", p.Connections)
	}
	c := conn.Snapshot{ID: 8, Started: connstoretest.Epoch(), Query: &conn.Query{Type: "A"}}
	write(t, s, []conn.Snapshot{c})
	if p := ask(t, s, connstore.Query{Kind: connstore.OnlyQueries}); p.Total != 1 || p.Connections[0].Query.Type != "A" {
		t.Errorf("got %+v; want the new query", p.Connections)
	}
}

func TestNewerFormat(t *testing.T) {
	path := database(t)
	s, err := sqlitestore.Open(t.Context(), path)
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := raw(t, path).ExecContext(t.Context(), "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlitestore.Open(t.Context(), path); !errors.Is(err, sqlitestore.ErrNewer) {
		t.Errorf("got %v; want ErrNewer", err)
	}
}

func TestNoDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, []byte("I was something else before, and long enough to be read as a header of a database. 0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlitestore.Open(t.Context(), path); !errors.Is(err, sqlitestore.ErrCorrupt) {
		t.Errorf("got %v; want ErrCorrupt", err)
	}
}

// A write that fails changes nothing, and the next one has everything.
func TestWriteAllOrNothing(t *testing.T) {
	path := database(t)
	s := open(t, path)
	all := connstoretest.Sample(50, 3)
	write(t, s, all[:10])
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Write(done, all); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; want Canceled", err)
	}
	if n := count(t, path, "connections"); n != 10 || s.Len() != 10 {
		t.Errorf("got %d rows, %d in memory; want 10", n, s.Len())
	}
	write(t, s, all)
	got := ask(t, s, connstore.Query{Order: connstore.OldestFirst})
	for i := range all {
		if g, w := asJSON(t, got.Connections[i]), asJSON(t, all[i]); g != w {
			t.Fatalf("got %s; want %s", g, w)
		}
	}
}

func TestPruneByAge(t *testing.T) {
	path := database(t)
	s := open(t, path)
	all := connstoretest.Sample(12_000, 5)
	write(t, s, all)
	old := all[9000].Started
	want := 0
	for i := range all {
		if all[i].Started.Before(old) {
			want++
		}
	}
	removed, err := s.Prune(t.Context(), old, 0)
	if err != nil || removed != want || s.Len() != 12_000-want || count(t, path, "connections") != s.Len() {
		t.Errorf("got %d removed, %v, %d left; want %d", removed, err, s.Len(), want)
	}
	p := ask(t, s, connstore.Query{Order: connstore.OldestFirst, Limit: 1})
	if p.Total != s.Len() || p.Connections[0].Started.Before(old) || p.Connections[0].Process == nil && p.Connections[0].ID == 0 {
		t.Errorf("got %+v", p)
	}
	if removed, err := s.Prune(t.Context(), old, 0); removed != 0 || err != nil {
		t.Errorf("again: got %d, %v", removed, err)
	}
	// everything that is left has its values still
	got := ask(t, s, connstore.Query{Limit: 2000})
	for i, c := range got.Connections {
		if g, w := asJSON(t, c), asJSON(t, all[len(all)-1-i]); g != w {
			t.Fatalf("got %s; want %s", g, w)
		}
	}
}

// A row of a time when the clock was wrong does not keep the others.
func TestPruneBehindARowOfTheFuture(t *testing.T) {
	s := open(t, database(t))
	all := connstoretest.Sample(1000, 5)
	all[0].Started = time.Now().AddDate(50, 0, 0)
	old := all[900].Started
	want := 0
	for i := range all {
		if i == 0 || all[i].Started.Before(old) {
			want++
		}
	}
	write(t, s, all)
	if removed, err := s.Prune(t.Context(), old, 0); removed != want || err != nil {
		t.Errorf("got %d removed, %v; want %d", removed, err, want)
	}
}

func TestPruneBySize(t *testing.T) {
	path := database(t)
	s := open(t, path)
	write(t, s, connstoretest.Sample(8000, 5))
	const limit = 512 << 10
	removed, err := s.Prune(t.Context(), time.Time{}, limit)
	if err != nil || removed == 0 || s.Len() == 0 || s.Len() != count(t, path, "connections") {
		t.Errorf("got %d removed, %v, %d left", removed, err, s.Len())
	}
	if _, err := raw(t, path).ExecContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() > limit {
		t.Errorf("got %d bytes, %v; want at most %d", info.Size(), err, limit)
	}
}

// Values that no connection has any more go with the connections, but not those of parents of processes.
func TestPruneValues(t *testing.T) {
	path := database(t)
	s := open(t, path)
	all := connstoretest.Sample(12_000, 5)
	shell := &conn.Process{PID: 9, Path: "/bin/parent"}
	for i := range all {
		all[i].Domain = "early.example"
		if i >= 9_900 {
			all[i].Domain, all[i].Process = "late.example", &conn.Process{PID: 77, Path: "/bin/late", Parent: shell}
		}
	}
	write(t, s, all)
	if _, err := s.Prune(t.Context(), all[10_000].Started, 0); err != nil {
		t.Fatal(err)
	}
	if n := count(t, path, "apps"); n != 2 {
		t.Errorf("got %d apps; want the late one and its parent", n)
	}
	p := ask(t, s, connstore.Query{Domain: "early"})
	if p.Total != 0 || count(t, path, "names WHERE domain = 'early.example'") != 0 {
		t.Errorf("got %d, want the early name gone", p.Total)
	}
	if c := ask(t, s, connstore.Query{Limit: 1}).Connections[0]; c.Process == nil || c.Process.Parent == nil || c.Process.Parent.Path != "/bin/parent" {
		t.Errorf("got %+v; want the late process with its parent", c.Process)
	}
}

func TestBadQuery(t *testing.T) {
	s := open(t, database(t))
	if _, err := s.Query(t.Context(), connstore.Query{Limit: -1}); !errors.Is(err, connstore.ErrQuery) {
		t.Errorf("got %v; want ErrQuery", err)
	}
}
