//go:build !linux

package nfq

import (
	"errors"
	"fmt"
	"runtime"
)

// burstSlots is of no use here.
const burstSlots = 1

// supported returns the error of an operation that only Linux has.
func supported(op string) error {
	return fmt.Errorf("nfq: %s on %s/%s: %w", op, runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}

func openPort(uint16, *Config) (port, error) { return nil, supported("read an NFQUEUE") }
