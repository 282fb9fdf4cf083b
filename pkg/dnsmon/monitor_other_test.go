//go:build !linux && !windows

package dnsmon_test

import (
	"errors"
	"testing"

	"github.com/weirfw/weir/pkg/dnsmon"
)

func TestUnsupported(t *testing.T) {
	if _, err := dnsmon.New(dnsmon.Config{Handle: func(dnsmon.Answer) {}}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("New: got %v; want ErrUnsupported", err)
	}
	var m dnsmon.Monitor
	if err := m.Run(t.Context(), nil); !errors.Is(err, errors.ErrUnsupported) || m.Stats() != (dnsmon.Stats{}) {
		t.Errorf("Run: got %v; want ErrUnsupported", err)
	}
}
