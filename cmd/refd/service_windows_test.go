package main

import (
	"bytes"
	"context"
	"errors"
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
