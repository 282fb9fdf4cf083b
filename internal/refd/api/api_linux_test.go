package api_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/verdict"
)

// fake is a Backend that notes what it is asked.
type fake struct {
	api.Backend // what no test asks for

	query   connstore.Query
	paused  time.Duration
	exited  string
	failing error
}

func (f *fake) Status(context.Context) (api.Status, error) {
	return api.Status{Version: "v1", PID: 7, Mode: "observe"}, f.failing
}

func (f *fake) Connections(_ context.Context, q connstore.Query) (connstore.Page, error) {
	f.query = q
	return connstore.Page{Sums: connstore.Sums{Total: 3}}, nil
}

func (f *fake) Pause(_ context.Context, d time.Duration) error {
	f.paused = d
	return f.failing
}

func (f *fake) Exit(_ context.Context, how string) error {
	f.exited = how
	return nil
}

// serve runs a server until the end of the test.
func serve(t *testing.T, b api.Backend) (socket string) {
	t.Helper()
	return serveConfig(t, api.Config{Backend: b})
}

func serveConfig(t *testing.T, cfg api.Config) (socket string) {
	t.Helper()
	testutil.NoLeaks(t)
	dir, err := os.MkdirTemp("", "weir") //nolint:usetesting // a short path (unix(7)), where another user can get
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	socket = filepath.Join(dir, "s", "refd.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		cfg.Socket, cfg.Logger = socket, slog.New(slog.DiscardHandler)
		done <- api.Serve(ctx, cfg, func() { close(ready) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("Serve: %v", err)
	}
	return socket
}

// plain is a server on a socket alone.
func plain(socket string) api.Config {
	return api.Config{Socket: socket, Backend: &fake{}, Logger: slog.New(slog.DiscardHandler)}
}

func client(t *testing.T, socket string) *api.Client {
	t.Helper()
	c := api.NewClient(socket)
	t.Cleanup(c.Close)
	return c
}

func TestCalls(t *testing.T) {
	f := &fake{}
	c := client(t, serve(t, f))
	s, err := c.Status(t.Context())
	if err != nil || s.Version != "v1" || s.PID != 7 {
		t.Errorf("Status: got %+v, %v", s, err)
	}
	q := connstore.Query{App: "curl", Verdicts: []verdict.Verdict{verdict.Block}, Limit: 5}
	p, err := c.Connections(t.Context(), q)
	if err != nil || p.Total != 3 {
		t.Errorf("Connections: got %+v, %v", p, err)
	}
	if f.query.App != "curl" || len(f.query.Verdicts) != 1 || f.query.Verdicts[0] != verdict.Block || f.query.Limit != 5 {
		t.Errorf("the query arrived as %+v", f.query)
	}
	if err := c.Pause(t.Context(), 90*time.Second); err != nil || f.paused != 90*time.Second {
		t.Errorf("Pause: got %v, %v", f.paused, err)
	}
	if err := c.Do(t.Context(), "restart"); err != nil || f.exited != "restart" {
		t.Errorf("restart: got %q, %v", f.exited, err)
	}
}

func TestErrorsOfTheBackend(t *testing.T) {
	f := &fake{failing: fmt.Errorf("%w: pause for 3s: use more", api.ErrRefused)}
	c := client(t, serve(t, f))
	if err := c.Pause(t.Context(), time.Second); !errors.Is(err, api.ErrRefused) || !strings.Contains(err.Error(), "use more") {
		t.Errorf("Pause: got %v; want ErrRefused with the text", err)
	}
	if err := c.Do(t.Context(), "no-such-call"); err == nil || !strings.Contains(err.Error(), "no-such-call") {
		t.Errorf("unknown route: got %v", err)
	}
}

func TestNobodyListens(t *testing.T) {
	c := client(t, filepath.Join(t.TempDir(), "none.sock"))
	if _, err := c.Status(t.Context()); !errors.Is(err, api.ErrNotRunning) || !strings.Contains(err.Error(), "refd run") {
		t.Errorf("got %v; want ErrNotRunning with a remedy", err)
	}
}

func TestStaleSocketIsReplacedAndALiveOneIsNot(t *testing.T) {
	socket := serve(t, &fake{})
	err := api.Serve(t.Context(), plain(socket), func() { t.Error("ready") })
	if err == nil || !strings.Contains(err.Error(), "another refd") {
		t.Errorf("second server: got %v", err)
	}
	if _, err := client(t, socket).Status(t.Context()); err != nil {
		t.Errorf("the first one no longer answers: %v", err)
	}

	stale := filepath.Join(filepath.Dir(socket), "stale.sock")
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := api.Serve(ctx, plain(stale), cancel); err != nil {
		t.Errorf("on a stale socket: %v", err)
	}
}

// What is in the way and is no socket of a dead refd stays, and nobody serves.
func TestNothingElseIsReplaced(t *testing.T) {
	testutil.NoLeaks(t)
	dir := t.TempDir()
	file, folder, link, other := filepath.Join(dir, "file"), filepath.Join(dir, "folder"), filepath.Join(dir, "link"), filepath.Join(dir, "other")
	var lc net.ListenConfig
	c, err := lc.ListenPacket(t.Context(), "unixgram", other)
	if err = errors.Join(err, os.WriteFile(file, []byte("dear"), 0o600), os.Mkdir(folder, 0o700), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file: "not a socket: choose another api.socket", folder: "not a socket", link: "not a socket",
		other: "somebody else's: choose another api.socket", filepath.Join(file, "s"): "make folder",
	} {
		err := api.Serve(t.Context(), plain(path), func() { t.Errorf("serves at %s", path) })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("at %s: got %v; want %q", path, err, want)
		}
		if _, err := os.Lstat(path); err != nil && path != filepath.Join(file, "s") {
			t.Errorf("at %s: %v; want it to stay", path, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "dear" {
		t.Errorf("the file has %q, %v", b, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestBadRequests(t *testing.T) {
	socket := serve(t, &fake{})
	tests := []struct {
		name, method, path, body string
		status                   int
	}{
		{"no JSON", "POST", "/api/v1/pause", "x", http.StatusBadRequest},
		{"unknown field", "POST", "/api/v1/pause", `{"secs": 3}`, http.StatusBadRequest},
		{"wrong type", "POST", "/api/v1/pause", `{"seconds": "3"}`, http.StatusBadRequest},
		{"something after", "POST", "/api/v1/pause", `{"seconds": 3} {}`, http.StatusBadRequest},
		{"too big", "POST", "/api/v1/pause", `{"seconds": ` + strings.Repeat(" ", 2<<20) + `3}`, http.StatusRequestEntityTooLarge},
		{"wrong method", "GET", "/api/v1/pause", "", http.StatusNotFound},
		{"unknown path", "GET", "/etc/passwd", "", http.StatusNotFound},
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	h := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://refd"+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := h.Do(req)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		body, err := io.ReadAll(res.Body)
		if err = errors.Join(err, res.Body.Close()); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if res.StatusCode != tt.status || !bytes.Contains(body, []byte(`"error"`)) {
			t.Errorf("%s: got %d %s; want %d with an error", tt.name, res.StatusCode, body, tt.status)
		}
	}
}

// asNobody is set in the process that TestIntegrationOtherUsers starts.
const asNobody = "WEIR_API_SOCKET"

func TestMain(m *testing.M) {
	if socket := os.Getenv(asNobody); socket != "" {
		c := api.NewClient(socket)
		_, err := c.Status(context.Background())
		fmt.Println(err)
		if !errors.Is(err, fs.ErrPermission) {
			os.Exit(1)
		}
		return
	}
	if dir := os.Getenv(asService); dir != "" {
		serveAsService(dir)
		return
	}
	os.Exit(m.Run())
}

func TestIntegrationOtherUsers(t *testing.T) {
	testutil.RequireRoot(t)
	socket := serve(t, &fake{})
	try := func() string {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
		cmd.Env = append(os.Environ(), asNobody+"="+socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return string(out)
	}
	info, err := os.Stat(filepath.Dir(socket))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o700 {
		t.Errorf("the folder was made with mode %o; want 700", got)
	}
	for _, dir := range []string{filepath.Dir(filepath.Dir(socket)), filepath.Dir(socket)} {
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // for the other user to get to the socket
			t.Fatal(err)
		}
	}
	if out := try(); !strings.Contains(out, "use sudo") {
		t.Errorf("another user may open the socket: %s", out)
	}
	// the peer's credentials protect it, too
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	if out := try(); !strings.Contains(out, "only root may talk to refd") {
		t.Errorf("another user is answered: %s", out)
	}
}
