//go:build !linux && !windows

package procinfo

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/weirfw/weir/pkg/packet"
)

func TestUnsupported(t *testing.T) {
	f, err := New(Config{})
	check(t, err)
	if f != nil {
		t.Errorf("got %v; want no finder", f)
	}
	f = &Finder{}
	_, err = f.Find(context.Background(), &packet.Info{}, packet.Outbound)
	check(t, err)
	_, err = f.Process(1)
	check(t, err)
	check(t, f.Close())
}

func check(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), runtime.GOOS+"/"+runtime.GOARCH) {
		t.Errorf("got %v; want unsupported on %s/%s", err, runtime.GOOS, runtime.GOARCH)
	}
}
