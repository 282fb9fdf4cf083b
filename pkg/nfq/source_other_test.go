//go:build !linux

package nfq

import (
	"errors"
	"strings"
	"testing"

	"runtime"
)

func TestUnsupported(t *testing.T) {
	_, err := New(Config{})
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), runtime.GOOS+"/"+runtime.GOARCH) {
		t.Errorf("got %v; want ErrUnsupported for %s/%s", err, runtime.GOOS, runtime.GOARCH)
	}
}
