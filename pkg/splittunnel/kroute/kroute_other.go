//go:build !linux

package kroute

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

func supported() error {
	return fmt.Errorf("kroute: routing by packet mark on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// run is never reached: New makes no Engine here.
func (e *Engine) run(context.Context, func()) error { return supported() }

// Cleanup removes what an Engine with this configuration left. On systems other than Linux the error wraps
// errors.ErrUnsupported.
func Cleanup(context.Context, Config) error { return supported() }
