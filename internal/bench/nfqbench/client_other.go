//go:build !linux

package main

import (
	"errors"
	"fmt"
	"runtime"
)

func client(*options) error {
	return fmt.Errorf("measure connections on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}
