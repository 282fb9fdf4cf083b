package sqlitestore_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/connstore/sqlitestore"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

const patience = time.Minute

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// rig is a recorder that runs.
type rig struct {
	*sqlitestore.Recorder

	live *connstore.Live
	path string
	stop func() error

	mu         sync.Mutex
	conditions []sqlitestore.Condition
}

// record runs a recorder until the test ends or stop is called.
func record(t *testing.T, path string, change func(*sqlitestore.RecorderConfig)) *rig {
	t.Helper()
	testutil.NoLeaks(t)
	r := &rig{live: connstore.NewLive(connstore.Config{}), path: path}
	cfg := sqlitestore.RecorderConfig{Path: path, Live: r.live, Report: func(c sqlitestore.Condition) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.conditions = append(r.conditions, c)
	}}
	if change != nil {
		change(&cfg)
	}
	r.Recorder = sqlitestore.NewRecorder(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- r.Run(ctx, func() { close(ready) }) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	<-ready
	return r
}

// tuple is the n-th one.
func tuple(n int) packet.Tuple {
	return packet.Tuple{
		Local:    netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 24), 1}), uint16(n)),
		Remote:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(n >> 16), byte(n)}), 443),
		Protocol: packet.TCP,
	}
}

// begin makes a live connection that was decided.
func (r *rig) begin(n int, path string) *conn.Conn {
	c, _ := r.live.GetOrAdd(tuple(n), func() *conn.Snapshot { return &conn.Snapshot{Started: time.Now()} })
	c.Update(func(s *conn.Snapshot) {
		s.Process = &conn.Process{PID: 100 + n%7, Path: path}
		s.Decision = verdict.Decision{Verdict: verdict.Accept, Reason: verdict.Reason{Code: "default"}}
	})
	return c
}

// want waits for an answer.
func (r *rig) want(t *testing.T, what string, q connstore.Query, holds func(connstore.Page) bool) {
	t.Helper()
	eventually(t, what, func() bool {
		p, err := r.Query(t.Context(), q)
		return err == nil && holds(p)
	})
}

func TestRecorder(t *testing.T) {
	r := record(t, database(t), func(c *sqlitestore.RecorderConfig) {
		c.Skip = func(s *conn.Snapshot) bool { return s.Process != nil && s.Process.Path == "/bin/secret" }
	})
	r.live.GetOrAdd(tuple(1), func() *conn.Snapshot { return &conn.Snapshot{Started: time.Now()} }) // is never decided
	c := r.begin(2, "/bin/a")
	r.begin(3, "/bin/secret")
	r.want(t, "the decided one", connstore.Query{}, func(p connstore.Page) bool {
		return p.Total == 1 && p.Connections[0].ID == c.State().ID && p.Connections[0].Live()
	})
	c.Update(func(s *conn.Snapshot) { s.Domain = "late.example" })
	r.want(t, "its name", connstore.Query{Domain: "late", Life: connstore.OnlyLive}, func(p connstore.Page) bool { return p.Total == 1 })
	c.AddUsage(5, 6)
	r.live.End(tuple(2), time.Now())
	r.live.End(tuple(3), time.Now())
	r.want(t, "its end", connstore.Query{Life: connstore.OnlyEnded}, func(p connstore.Page) bool { return p.Total == 1 && p.ReceivedBytes == 5 && p.SentBytes == 6 })
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if _, err := r.Query(t.Context(), connstore.Query{}); !errors.Is(err, sqlitestore.ErrUnavailable) {
		t.Errorf("after the end: got %v; want ErrUnavailable", err)
	}
	if len(r.conditions) != 0 {
		t.Errorf("got %+v; want nothing to report", r.conditions)
	}
}

// A DNS query is written when it waits for its answer, and again with that; as the latest of both where they come at once.
func TestRecorderKeepsQueries(t *testing.T) {
	r := record(t, database(t), func(c *sqlitestore.RecorderConfig) {
		c.Skip = func(s *conn.Snapshot) bool { return s.Domain == "secret.test" }
	})
	put := func(id conn.ID, domain, rcode string) conn.ID {
		s := conn.Snapshot{ID: id, Domain: domain, Started: time.Now(), Query: &conn.Query{Type: "A", RCode: rcode}, Decision: verdict.Decision{Verdict: verdict.RerouteToTunnel}}
		if rcode != "" {
			s.Ended = time.Now()
		}
		return r.live.PutQuery(s)
	}
	waits := put(0, "waits.test", "")
	put(0, "secret.test", "NOERROR")
	r.begin(1, "/bin/a")
	r.want(t, "one that waits", connstore.Query{Kind: connstore.OnlyQueries, Life: connstore.OnlyLive}, func(p connstore.Page) bool {
		return p.Total == 1 && p.Connections[0].ID == waits && p.Connections[0].Query.Type == "A"
	})
	put(waits, "waits.test", "NXDOMAIN")
	put(put(0, "soon.test", ""), "soon.test", "NOERROR")
	r.want(t, "answers", connstore.Query{Kind: connstore.OnlyQueries, Life: connstore.OnlyEnded}, func(p connstore.Page) bool {
		return p.Total == 2 && p.Connections[0].Query.RCode == "NOERROR" && p.Connections[1].Query.RCode == "NXDOMAIN" && p.Connections[1].Domain == "waits.test"
	})
	if p, err := r.Query(t.Context(), connstore.Query{}); err != nil || p.Total != 3 {
		t.Errorf("got %d records, %v; want 2 queries and a connection", p.Total, err)
	}
}

// Asleep, it waits longer; who wakes it up finds everything.
func TestSleep(t *testing.T) {
	r := record(t, database(t), nil)
	r.SetSleep(module.Asleep)
	r.begin(1, "/bin/a")
	r.want(t, "it is written asleep", connstore.Query{}, func(p connstore.Page) bool { return p.Total == 1 })
	r.begin(2, "/bin/a")
	r.SetSleep(module.Awake)
	r.want(t, "it is written awake", connstore.Query{}, func(p connstore.Page) bool { return p.Total == 2 })
}

// A stop loses nothing: what is noted is written, and the last figures of what lives.
func TestStopLosesNothing(t *testing.T) {
	const n = 20_000
	r := record(t, database(t), nil)
	for i := range n {
		c := r.begin(i, "/bin/many")
		c.AddUsage(1, 2)
		if i%10 > 0 {
			r.live.End(tuple(i), time.Now())
		}
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r.begin(n+1, "/bin/late") // after the end nobody writes
	s := open(t, r.path)
	p := ask(t, s, connstore.Query{Limit: 1})
	if p.Total != n || p.ReceivedBytes != n || p.SentBytes != 2*n {
		t.Errorf("got %d connections, %d and %d bytes; want %d, %d, %d", p.Total, p.ReceivedBytes, p.SentBytes, n, n, 2*n)
	}
	if p := ask(t, s, connstore.Query{Life: connstore.OnlyLive}); p.Total != 0 {
		t.Errorf("got %d live ones of a run that is over", p.Total)
	}
}

// The connections of the next run have other numbers, also where Run is called again.
func TestRunAgain(t *testing.T) {
	path := database(t)
	r := record(t, path, nil)
	first := r.begin(1, "/bin/a").State().ID
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	next := record(t, path, nil)
	second := next.begin(1, "/bin/b").State().ID
	if second <= first {
		t.Errorf("got number %d after %d", second, first)
	}
	next.want(t, "both", connstore.Query{}, func(p connstore.Page) bool { return p.Total == 2 })
}

// A broken database is moved aside, and somebody is told.
func TestBroken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	if err := os.WriteFile(path, []byte("I was something else before, and long enough to be read as a header of a database. 0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := record(t, path, nil)
	r.begin(1, "/bin/a")
	r.want(t, "the connection", connstore.Query{}, func(p connstore.Page) bool { return p.Total == 1 })
	if c := r.Condition(); c.Err != nil || c.Aside != path+".broken" {
		t.Errorf("got %+v; want the database moved aside", c)
	}
	if b, err := os.ReadFile(path + ".broken"); err != nil || string(b[:5]) != "I was" {
		t.Errorf("got %q, %v; want what was there", b, err)
	}
}

// A database that was broken before is somebody's to look at: the next one does not take its place.
func TestBrokenAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	const broken = "I was something else before, and long enough to be read as a header of a database. 0123456789"
	for name, text := range map[string]string{path: broken, path + ".broken": "older"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := record(t, path, nil)
	eventually(t, "it is moved aside", func() bool { return r.Condition().Aside == path+".broken.2" })
	for name, want := range map[string]string{path + ".broken": "older", path + ".broken.2": broken} {
		if b, err := os.ReadFile(name); err != nil || string(b) != want {
			t.Errorf("%s: got %q, %v; want %q", name, b, err, want)
		}
	}
}

// What could not be written when it ends is told.
func TestStopWithoutADatabase(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := record(t, filepath.Join(dir, "history.db"), nil)
	r.begin(1, "/bin/a")
	r.begin(2, "/bin/a")
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if c := r.Condition(); c.Lost != 2 || c.Err == nil {
		t.Errorf("got %+v; want two lost", c)
	}
}

// Where nothing can be written, as much as there is room for waits, and the rest is counted.
func TestLost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "history.db")
	r := record(t, path, func(c *sqlitestore.RecorderConfig) { c.MaxPending = 3 })
	for i := range 5 {
		r.begin(i, "/bin/a")
	}
	if _, err := r.Query(t.Context(), connstore.Query{}); !errors.Is(err, sqlitestore.ErrUnavailable) {
		t.Errorf("got %v; want ErrUnavailable", err)
	}
	eventually(t, "it is told what is lost", func() bool { c := r.Condition(); return c.Err != nil && c.Lost == 2 })
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	r.want(t, "what had waited", connstore.Query{}, func(p connstore.Page) bool { return p.Total == 3 })
	eventually(t, "all is well", func() bool { return r.Condition().Err == nil })
}
