package winsvc_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/windows/registry"

	"github.com/weirfw/weir/internal/winerig"
	"github.com/weirfw/weir/internal/winsvc"
)

const name = "WeirSvcTest"

// imagePath is what the service manager will run.
func imagePath(t *testing.T, service string) string {
	t.Helper()
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, `SYSTEM\CurrentControlSet\Services\`+service, registry.QUERY_VALUE)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	path, _, err := k.GetStringValue("ImagePath")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// driverIn copies the fake driver to a directory with spaces, beside files that a careless reader of the path would take.
func driverIn(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(winerig.DriverFile(t, winerig.V2))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	spaced := filepath.Join(dir, "My Program Files")
	if err := os.Mkdir(spaced, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, decoy := range []string{"My", "My.exe", "My.sys", "My Program", "My Program.sys"} {
		if err := os.WriteFile(filepath.Join(dir, decoy), []byte("no driver"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(spaced, "kext.sys")
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func install(t *testing.T, path string) *winsvc.DriverService {
	t.Helper()
	s, err := winsvc.InstallDriver(t.Context(), winsvc.Driver{Name: name, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func start(t *testing.T, s *winsvc.DriverService) {
	t.Helper()
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func mustConnect(t *testing.T) {
	t.Helper()
	d, err := winerig.Connect()
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
}

func TestDriverLife(t *testing.T) {
	path := driverIn(t)
	winerig.Lock(t)
	s := install(t, path)
	if got, want := imagePath(t, name), `\??\`+path; got != want {
		t.Errorf("image path: got %s; want %s", got, want)
	}
	start(t, s)
	mustConnect(t)
	start(t, s) // running already
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if d, err := winerig.Connect(); err == nil {
		d.Close()
		t.Error("the driver runs after Remove")
	}
	if err := s.Remove(); err != nil {
		t.Errorf("second Remove: got %v; want nil", err)
	}
	if err := winsvc.RemoveDriver(t.Context(), name); !errors.Is(err, winsvc.ErrNotInstalled) {
		t.Errorf("RemoveDriver of nothing: got %v; want %v", err, winsvc.ErrNotInstalled)
	}
}

// TestStaleDriver: a process that was killed leaves its service, stopped or running.
func TestStaleDriver(t *testing.T) {
	path := driverIn(t)
	winerig.Lock(t)
	for _, how := range []string{leaveInstalled, leaveRunning} {
		if out, err := exec.CommandContext(t.Context(), os.Args[0], how, path).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", how, err, out)
		}
		fresh := install(t, path)
		start(t, fresh)
		mustConnect(t)
		if err := fresh.Remove(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAbsentDriver(t *testing.T) {
	dir := t.TempDir()
	_, err := winsvc.InstallDriver(t.Context(), winsvc.Driver{Name: name, Path: filepath.Join(dir, "absent.sys")})
	if !errors.Is(err, winsvc.ErrNoDriver) || !strings.Contains(err.Error(), "absent.sys") || !strings.Contains(err.Error(), "configuration") {
		t.Errorf("got %v; want %v with the path and what to do", err, winsvc.ErrNoDriver)
	}
}

func TestBrokenDriver(t *testing.T) {
	winerig.DriverFile(t, winerig.V2) // on a real machine nobody loads broken drivers
	path := filepath.Join(t.TempDir(), "broken.sys")
	if err := os.WriteFile(path, []byte("MZ, and nothing behind"), 0o600); err != nil {
		t.Fatal(err)
	}
	winerig.Lock(t)
	s := install(t, path)
	if err := s.Start(t.Context()); err == nil {
		t.Error("got no error; want one")
	}
}

// What this test binary does instead of testing when its first argument is one of these.
const (
	leaveInstalled = "weir-leave-installed"
	leaveRunning   = "weir-leave-running"
	serve          = "weir-serve"
)

func TestMain(m *testing.M) {
	var err error
	switch {
	case len(os.Args) < 3:
		os.Exit(m.Run())
	case os.Args[1] == serve:
		err = serveNotes(os.Args[2])
	case os.Args[1] == leaveInstalled, os.Args[1] == leaveRunning:
		err = leave(os.Args[2], os.Args[1])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// leave makes a service and ends like a process that was killed.
func leave(path, how string) error {
	s, err := winsvc.InstallDriver(context.Background(), winsvc.Driver{Name: name, Path: path})
	if err == nil && how == leaveRunning {
		err = s.Start(context.Background())
	}
	return err
}

// serveNotes is a service. The file tells the test how far it came: there is no other output.
func serveNotes(file string) error {
	note := func(what string) { _ = os.WriteFile(file, []byte(what), 0o600) }
	return winsvc.Serve(context.Background(), name, func(ctx context.Context, ready func()) error {
		note("started")
		ready()
		<-ctx.Done()
		note("stopped")
		return nil
	}, func(error) uint32 { return 1 })
}

func TestProgramLife(t *testing.T) {
	winerig.DriverFile(t, winerig.V2) // needs an administrator, and leaves traces on a machine of people when it breaks off
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "a b")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := winsvc.Program{
		Name: name, Display: "weir test", Description: "A test of weir.", Path: filepath.Join(dir, "serve.exe"),
		Args: []string{serve, filepath.Join(dir, "note")},
	}
	if err := os.WriteFile(p.Path, content, 0o755); err != nil {
		t.Fatal(err)
	}
	winerig.Lock(t)
	if err := winsvc.Install(p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := winsvc.Uninstall(context.Background(), name); err != nil && !errors.Is(err, winsvc.ErrNotInstalled) {
			t.Error(err)
		}
	})
	if got, want := imagePath(t, name), `"`+p.Path+`" `; !strings.HasPrefix(got, want) {
		t.Errorf("image path: got %s; want %s...", got, want)
	}
	if err := winsvc.Install(p); !errors.Is(err, winsvc.ErrInstalled) {
		t.Errorf("second Install: got %v; want %v", err, winsvc.ErrInstalled)
	}
	for range 2 {
		if err := winsvc.Start(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		wantNote(t, p.Args[1], "started")
		if err := winsvc.Stop(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		wantNote(t, p.Args[1], "stopped")
	}
	if err := winsvc.Uninstall(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"Start": winsvc.Start(t.Context(), name), "Stop": winsvc.Stop(t.Context(), name),
		"Uninstall": winsvc.Uninstall(t.Context(), name),
	} {
		if !errors.Is(err, winsvc.ErrNotInstalled) {
			t.Errorf("%s of nothing: got %v; want %v", what, err, winsvc.ErrNotInstalled)
		}
	}
}

func wantNote(t *testing.T, file, want string) {
	t.Helper()
	var got []byte
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got, _ = os.ReadFile(file); string(got) == want {
			return
		}
	}
	t.Fatalf("the service noted %q; want %q", got, want)
}

func TestIsService(t *testing.T) {
	if is, err := winsvc.IsService(); is || err != nil {
		t.Errorf("got %v, %v; want false", is, err)
	}
}
