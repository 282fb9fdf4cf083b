//go:build !windows

package etw_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/etw"
)

func TestUnsupported(t *testing.T) {
	_, err := etw.New(etw.Config{Session: "x", Provider: etw.DNSClient, Properties: []string{"x"}, Event: func(etw.Event) {}})
	r := new(etw.Reader)
	for what, err := range map[string]error{"New": err, "Run": r.Run(t.Context(), nil), "Flush": r.Flush(t.Context())} {
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), runtime.GOOS+"/"+runtime.GOARCH) {
			t.Errorf("%s: got %v; want unsupported on this system", what, err)
		}
	}
}
