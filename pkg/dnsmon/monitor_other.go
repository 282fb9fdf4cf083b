//go:build !linux && !windows

package dnsmon

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

// Monitor is told by the system's resolver what it answers. There is none on this system.
type Monitor struct{}

// New returns an error that wraps errors.ErrUnsupported on this system.
func New(Config) (*Monitor, error) { return nil, unsupported("listen to the system's resolver") }

// Stats is empty.
func (*Monitor) Stats() Stats { return Stats{} }

// Run returns an error that wraps errors.ErrUnsupported.
func (*Monitor) Run(context.Context, func()) error {
	return unsupported("listen to the system's resolver")
}

func unsupported(op string) error {
	return fmt.Errorf("dnsmon: %s on %s/%s: %w", op, runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}
