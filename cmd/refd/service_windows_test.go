package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/windows/registry"

	"github.com/weirfw/weir/internal/winerig"
	"github.com/weirfw/weir/internal/winsvc"
)

// TestServiceCommands installs this test binary; it is not started.
func TestServiceCommands(t *testing.T) {
	winerig.DriverFile(t, winerig.V2) // the Wine rig: a real machine may have a refd
	do := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := run(t.Context(), args, &out, &out)
		return out.String(), err
	}
	for _, what := range []string{"start", "stop", "uninstall"} {
		if _, err := do("service", what); !errors.Is(err, winsvc.ErrNotInstalled) {
			t.Errorf("%s of nothing: got %v; want %v", what, err, winsvc.ErrNotInstalled)
		}
	}
	if out, err := do("--config", `C:\nowhere of mine\refd.yaml`, "service", "install"); err == nil || !strings.Contains(err.Error(), "Program Files") {
		t.Fatalf("install with a configuration in a folder that anybody may make: got %q, %v; want it refused, with the remedy", out, err)
	}
	if err := os.MkdirAll(`C:\some where`, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(`C:\some where`) }) // empty
	out, err := do("--config", `C:\some where\refd.yaml`, "service", "install")
	if err != nil || !strings.Contains(out, "installed") {
		t.Fatalf("install: got %q, %v; want it to be installed", out, err)
	}
	t.Cleanup(func() { _ = winsvc.Uninstall(context.Background(), serviceName) }) // most often it has been
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, `SYSTEM\CurrentControlSet\Services\`+serviceName, registry.QUERY_VALUE)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	image, _, err := k.GetStringValue("ImagePath")
	if err != nil || !strings.HasPrefix(image, `"`) || !strings.HasSuffix(image, `.exe" --config "C:\some where\refd.yaml" run`) {
		t.Errorf("image path: got %s, %v; want the quoted program, --config and run", image, err)
	}
	if _, err := do("service", "install"); !errors.Is(err, winsvc.ErrInstalled) {
		t.Errorf("second install: got %v; want %v", err, winsvc.ErrInstalled)
	}
	for _, what := range []string{"stop", "uninstall"} {
		if _, err := do("service", what); err != nil {
			t.Errorf("%s: got %v; want nil", what, err)
		}
	}
}

// TestService: the service manager starts the real refd.exe, which then intercepts, and stops it, after which the driver is gone.
func TestService(t *testing.T) {
	r := newRefd(t, winerig.V2, fmt.Sprintf(rulesOfTest, "allow"))
	do := func(what, want string) {
		t.Helper()
		if out, err := r.refd("service", what); err != nil || !strings.Contains(out, want) {
			log, _ := os.ReadFile(logPath()) // there may be none
			t.Fatalf("service %s: got %v: %s; want %s\n%s", what, err, out, want, log)
		}
	}
	do("install", "installed")
	t.Cleanup(func() { _ = winsvc.Uninstall(context.Background(), serviceName) }) // most often it has been
	for range 2 {
		do("start", "running")
		if s, err := r.client.Status(t.Context()); err != nil || driverVersion(s) != "2.1.1.0" || s.Mode != "enforce" {
			t.Errorf("got driver %q, mode %s, %v; want 2.1.1.0, enforce: it runs when it intercepts", driverVersion(s), s.Mode, err)
		}
		d, err := winerig.Connect()
		if err != nil {
			t.Fatal(err)
		}
		r.ask(d, packetsOfTest())
		if err := d.Close(); err != nil { // or it could not be unloaded
			t.Error(err)
		}
		do("stop", "stopped")
		r.wantInstalled(false)
	}
	do("uninstall", "removed")
	if got, err := winsvc.Installed(serviceName); got || err != nil {
		t.Errorf("refd's service is installed: got %v, %v; want false", got, err)
	}
}
