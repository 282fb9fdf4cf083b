//go:build !windows

package etw

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

// Reader reads events; on this system there are none.
type Reader struct{}

// New checks the configuration; then it returns an error that wraps errors.ErrUnsupported.
func New(cfg Config) (*Reader, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return nil, unsupported("read events")
}

// Run returns an error that wraps errors.ErrUnsupported.
func (*Reader) Run(context.Context, func()) error { return unsupported("read events") }

// Flush returns an error that wraps errors.ErrUnsupported.
func (*Reader) Flush(context.Context) error { return unsupported("flush events") }

func unsupported(op string) error {
	return fmt.Errorf("etw: %s on %s/%s: %w", op, runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}
