//go:build !windows

package kextdev_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/kextdev"
)

func TestUnsupported(t *testing.T) {
	var d kextdev.Device
	_, opened := kextdev.Open(`\\.\x`)
	_, read := d.Read(nil)
	_, written := d.Write(nil)
	_, controlled := d.Control(0, nil, nil)
	for name, err := range map[string]error{
		"Supported": kextdev.Supported(), "Open": opened, "Read": read, "Write": written, "Control": controlled, "Close": d.Close(),
	} {
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), runtime.GOOS+"/"+runtime.GOARCH) {
			t.Errorf("%s: got %v; want ErrUnsupported for this system", name, err)
		}
	}
}
