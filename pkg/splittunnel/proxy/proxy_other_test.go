//go:build !linux && !windows

package proxy_test

import (
	"errors"
	"testing"

	"github.com/weirfw/weir/pkg/splittunnel/proxy"
)

func TestUnsupported(t *testing.T) {
	if _, err := proxy.New(proxy.Config{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("New: got %v; want %v", err, errors.ErrUnsupported)
	}
	if _, err := proxy.NewEngine(proxy.EngineConfig{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("NewEngine: got %v; want %v", err, errors.ErrUnsupported)
	}
}
