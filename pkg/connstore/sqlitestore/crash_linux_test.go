package sqlitestore_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/connstore/sqlitestore"
)

// Variables of the processes that the tests below start, and of scripts/bench-history.sh.
const (
	crashVar = "WEIR_HISTORY_CRASH"
	diskVar  = "WEIR_HISTORY_DISK"
	killsVar = "WEIR_HISTORY_KILLS"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(crashVar); path != "" {
		if err := writeUntilKilled(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeUntilKilled makes connections, 2,000 a second and more, and says which of them are in the database.
func writeUntilKilled(path string) error {
	r := &rig{live: connstore.NewLive(connstore.Config{})}
	r.Recorder = sqlitestore.NewRecorder(sqlitestore.RecorderConfig{Path: path, Live: r.live})
	ctx := context.Background()
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		for n := 0; ; {
			<-tick.C
			for range 12 {
				r.begin(n, fmt.Sprintf("/bin/app%d", n%5))
				r.live.End(tuple(n), time.Now())
				n++
			}
		}
	}()
	go func() {
		for {
			p, err := r.Query(ctx, connstore.Query{Limit: 1})
			if err == nil && p.Total > 0 {
				fmt.Println(p.Connections[0].ID, p.Total)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return r.Run(ctx, func() {})
}

// A process is killed while it writes, again and again: what it saw in the database stays there, and nothing is broken.
func TestKill(t *testing.T) {
	kills := 3
	if n, err := strconv.Atoi(os.Getenv(killsVar)); err == nil {
		kills = n
	}
	path := filepath.Join(t.TempDir(), "history.db")
	for n := range kills {
		last, total := killWriter(t, path, 25+n*7%40)
		s := open(t, path)
		if s.Last() < last || s.Len() < total {
			t.Fatalf("kill %d: got %d connections up to %d; want %d up to %d", n, s.Len(), s.Last(), total, last)
		}
		var verdict string
		if err := raw(t, path).QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
			t.Fatalf("kill %d: %s, %v", n, verdict, err)
		}
		if int(s.Last()) != s.Len() { // none was left out, as they end in order
			t.Errorf("kill %d: got %d connections up to %d", n, s.Len(), s.Last())
		}
		p := ask(t, s, connstore.Query{Limit: 100})
		for _, c := range p.Connections {
			if c.Process == nil || !strings.HasPrefix(c.Process.Path, "/bin/app") || c.Decision.Reason.Code != "default" {
				t.Fatalf("kill %d: half a connection: %+v", n, c)
			}
		}
	}
}

// killWriter starts a writer and kills it after it has told so many times what is in the database.
func killWriter(t *testing.T, path string, words int) (last conn.ID, total int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), crashVar+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for range words {
		if !lines.Scan() {
			t.Fatalf("the writer ended: %v", cmd.Wait())
		}
		if _, err := fmt.Sscan(lines.Text(), &last, &total); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // what it said before it died
		if n, err := fmt.Sscan(lines.Text(), &last, &total); n == 2 && err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the writer was not killed")
	}
	return last, total
}

// A disk that is full, and one that is read-only, are states: nothing waits for it, and when it is over, what waited is written.
func TestIntegrationDisk(t *testing.T) {
	if dir := os.Getenv(diskVar); dir != "" {
		testDisk(t, dir)
		return
	}
	testutil.RequireRoot(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestIntegrationDisk$", "-test.v")
	cmd.Env = append(os.Environ(), diskVar+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func testDisk(t *testing.T, dir string) {
	if err := syscall.Mount("weir", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	r := record(t, filepath.Join(dir, "history.db"), nil)
	defer func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	}()
	r.begin(0, "/bin/a")
	r.want(t, "the first", connstore.Query{}, func(p connstore.Page) bool { return p.Total == 1 })

	filler := filepath.Join(dir, "filler")
	fill(t, filler)
	n := 1
	for ; n < 5000; n++ {
		r.begin(n, "/bin/a")
	}
	eventually(t, "the disk is full", func() bool { return isErr(r, sqlitestore.ErrFull) })
	if p, err := r.Query(t.Context(), connstore.Query{}); err != nil || p.Total == 0 {
		t.Errorf("on a full disk: got %d, %v; want what was written before", p.Total, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	r.want(t, "what had waited", connstore.Query{Limit: 1}, func(p connstore.Page) bool { return p.Total == n })
	eventually(t, "all is well", func() bool { return r.Condition() == sqlitestore.Condition{} })
}

func isErr(r *rig, want error) bool {
	err := r.Condition().Err
	return err != nil && strings.Contains(err.Error(), want.Error())
}

// fill takes all the room that is left on a disk.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // it is full
	for block := make([]byte, 4096); ; {
		if _, err := f.Write(block); err != nil {
			return
		}
	}
}

// A disk that is read-only from the start on.
func TestIntegrationReadOnlyDisk(t *testing.T) {
	if dir := os.Getenv(diskVar); dir != "" {
		testReadOnlyDisk(t, dir)
		return
	}
	testutil.RequireRoot(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestIntegrationReadOnlyDisk$", "-test.v")
	cmd.Env = append(os.Environ(), diskVar+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func testReadOnlyDisk(t *testing.T, dir string) {
	mount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("weir", dir, "tmpfs", flags, "size=8m"); err != nil {
			t.Fatal(err)
		}
	}
	mount(0)
	path := filepath.Join(dir, "history.db")
	s, err := sqlitestore.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	mount(syscall.MS_REMOUNT | syscall.MS_RDONLY)
	r := record(t, path, nil)
	r.begin(1, "/bin/a")
	eventually(t, "it is read-only", func() bool { return isErr(r, sqlitestore.ErrReadOnly) })
	mount(syscall.MS_REMOUNT)
	r.want(t, "what had waited", connstore.Query{}, func(p connstore.Page) bool { return p.Total == 1 })
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
		t.Error(err)
	}
}
