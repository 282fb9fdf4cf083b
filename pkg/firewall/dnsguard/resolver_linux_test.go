package dnsguard_test

import (
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall/dnsguard"
)

// run runs a program until the end of the test, and returns its process id.
func run(t *testing.T, path string, args ...string) int {
	t.Helper()
	c := exec.CommandContext(t.Context(), path, args...)
	in, err := c.StdinPipe() // it ends with that
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // nothing was written
		_ = c.Wait()   // ended by the end of its input
	})
	return c.Process.Pid
}

// A resolver is known by its unit, or by its program being root's; a path alone says nothing.
func TestSystemResolver(t *testing.T) {
	testutil.RequireRoot(t)
	dir := t.TempDir()
	install := func(name string, mode os.FileMode, uid int) string {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		from, err := os.Open("/bin/cat")
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		f, err := os.OpenFile(at, os.O_CREATE|os.O_WRONLY, mode)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(f, from); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(at, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(at, uid, uid); err != nil {
			t.Fatal(err)
		}
		return at
	}
	account := func(name string) uint32 {
		u, err := user.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(uid)
	}
	own, web := account("systemd-resolve"), account("www-data")
	resolved := install("good/systemd-resolved", 0o755, 0)
	good := install("good/unbound", 0o755, 0)
	writable := install("writable/unbound", 0o777, 0)
	others := install("others/unbound", 0o755, 1234)
	otherName := install("good/other", 0o755, 0)
	pid, resolvedPID := run(t, good), run(t, resolved)
	for name, tt := range map[string]struct {
		p    conn.Process
		want bool
	}{
		"root's program":     {conn.Process{PID: pid, Path: good}, true},
		"as its own account": {conn.Process{PID: resolvedPID, Path: resolved, UID: own}, true},
		// whoever may run code as a web server can also have it run root's resolver with a library of his own
		"as another system account":   {conn.Process{PID: pid, Path: good, UID: web}, false},
		"as another resolver's":       {conn.Process{PID: pid, Path: good, UID: own}, false},
		"as an account without entry": {conn.Process{PID: pid, Path: good, UID: 54321}, false},
		"as a person":                 {conn.Process{PID: pid, Path: good, UID: 1000}, false},
		"with another name":           {conn.Process{PID: run(t, otherName), Path: otherName}, false},
		"that anybody can change":     {conn.Process{PID: run(t, writable), Path: writable}, false},
		"that somebody owns":          {conn.Process{PID: run(t, others), Path: others}, false},
		"only said to be there":       {conn.Process{PID: run(t, otherName), Path: good}, false},
		"not there":                   {conn.Process{PID: pid, Path: filepath.Join(dir, "unbound")}, false},
		"gone":                        {conn.Process{PID: 1 << 30, Path: good}, false},
		"its unit":                    {conn.Process{PID: 1 << 30, Cgroup: "/system.slice/systemd-resolved.service"}, true},
		"another unit":                {conn.Process{PID: 1 << 30, Cgroup: "/system.slice/other.service"}, false},
		"a person's unit":             {conn.Process{PID: 1 << 30, Cgroup: "/user.slice/user-1000.slice/user@1000.service/systemd-resolved.service"}, false},
		"a unit below":                {conn.Process{PID: 1 << 30, Cgroup: "/system.slice/other.service/systemd-resolved.service"}, false},
		"a scope":                     {conn.Process{PID: 1 << 30, Cgroup: "/system.slice/systemd-resolved.scope"}, false},
		"nobody":                      {conn.Process{Path: good}, false},
	} {
		if got := dnsguard.SystemResolver(&tt.p); got != tt.want {
			t.Errorf("%s: got %v; want %v", name, got, tt.want)
		}
	}
	if dnsguard.SystemResolver(nil) {
		t.Error("an unknown process is taken for the resolver")
	}
}
