//go:build !windows

package kextdev

import (
	"errors"
	"fmt"
	"runtime"
)

// Device is an opened device; there is none on this system.
type Device struct{}

func unsupported(op string) error {
	return fmt.Errorf("kextdev: %s on %s/%s: %w", op, runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}

// Supported returns an error that wraps errors.ErrUnsupported.
func Supported() error { return unsupported("open a driver's device") }

// Open returns an error that wraps errors.ErrUnsupported.
func Open(path string) (*Device, error) { return nil, unsupported("open the driver's device " + path) }

// Read returns an error that wraps errors.ErrUnsupported.
func (*Device) Read([]byte) (int, error) { return 0, unsupported("read from a driver") }

// Write returns an error that wraps errors.ErrUnsupported.
func (*Device) Write([]byte) (int, error) { return 0, unsupported("write to a driver") }

// StartWrite returns an error that wraps errors.ErrUnsupported.
func (*Device) StartWrite([]byte) (interface{ Wait() error }, error) {
	return nil, unsupported("write to a driver")
}

// Control returns an error that wraps errors.ErrUnsupported.
func (*Device) Control(uint32, []byte, []byte) (int, error) {
	return 0, unsupported("control a driver")
}

// Close returns an error that wraps errors.ErrUnsupported.
func (*Device) Close() error { return unsupported("close a driver's device") }
