//go:build !linux

package testutil

import (
	"errors"
	"fmt"
	"runtime"
)

func unsupported(op string) error {
	return fmt.Errorf("testutil: %s on %s: %w", op, runtime.GOOS, errors.ErrUnsupported)
}

func probeCommand(name string, _ ...string) ([]byte, error) { return nil, unsupported(name) }

func probeNFQUEUE() error { return unsupported("NFQUEUE") }
