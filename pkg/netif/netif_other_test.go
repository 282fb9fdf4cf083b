//go:build !linux && !windows

package netif_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/weirfw/weir/pkg/netif"
)

func TestUnsupported(t *testing.T) {
	check := func(op string, err error) {
		t.Helper()
		where := runtime.GOOS + "/" + runtime.GOARCH
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), where) {
			t.Errorf("%s: got %v; want an error that wraps %v and names %s", op, err, errors.ErrUnsupported, where)
		}
	}
	_, err := netif.Read(t.Context())
	check("Read", err)
	w, err := netif.New(netif.Config{})
	check("New", err)
	if w != nil {
		t.Errorf("New: got %v; want nil", w)
	}
}
