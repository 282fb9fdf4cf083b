//go:build !linux && !windows

package netif

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

func unsupported(op string) error {
	return fmt.Errorf("netif: %s on %s/%s: %w", op, runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}

// Read returns an error that wraps errors.ErrUnsupported: interfaces are read on Linux and Windows.
func Read(_ context.Context) (*Snapshot, error) { return nil, unsupported("read interfaces") }

func openMonitor() (monitor, error) { return nil, unsupported("watch interfaces") }
