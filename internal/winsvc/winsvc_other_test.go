//go:build !windows

package winsvc_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/winsvc"
)

func TestUnsupported(t *testing.T) {
	ctx := t.Context()
	_, err := winsvc.InstallDriver(ctx, winsvc.Driver{})
	_, installed := winsvc.Installed("x")
	for what, err := range map[string]error{
		"InstallDriver": err,
		"driver Start":  new(winsvc.DriverService).Start(ctx),
		"driver Remove": new(winsvc.DriverService).Remove(),
		"RemoveDriver":  winsvc.RemoveDriver(ctx, "x"),
		"Installed":     installed,
		"ProtectFolder": winsvc.ProtectFolder("x"),
		"Install":       winsvc.Install(winsvc.Program{}),
		"Uninstall":     winsvc.Uninstall(ctx, "x"),
		"Start":         winsvc.Start(ctx, "x"),
		"Stop":          winsvc.Stop(ctx, "x"),
		"Serve":         winsvc.Serve(ctx, "x", nil, nil),
	} {
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), runtime.GOOS+"/"+runtime.GOARCH) {
			t.Errorf("%s: got %v; want unsupported on this system", what, err)
		}
	}
	if is, err := winsvc.IsService(); is || err != nil {
		t.Errorf("IsService: got %v, %v; want false", is, err)
	}
}
