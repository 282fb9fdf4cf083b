//go:build !windows

package winsvc

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

func unsupported(op string) error {
	return fmt.Errorf("winsvc: %s on %s/%s: %w", op, runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}

// DriverService is the service of a driver; on this system there is none.
type DriverService struct{}

// InstallDriver returns an error that wraps errors.ErrUnsupported.
func InstallDriver(context.Context, Driver) (*DriverService, error) {
	return nil, unsupported("install a driver")
}

// Start returns an error that wraps errors.ErrUnsupported.
func (*DriverService) Start(context.Context) error { return unsupported("start a driver") }

// Remove returns an error that wraps errors.ErrUnsupported.
func (*DriverService) Remove() error { return unsupported("remove a driver") }

// RemoveDriver returns an error that wraps errors.ErrUnsupported.
func RemoveDriver(context.Context, string) error { return unsupported("remove a driver") }

// Installed returns an error that wraps errors.ErrUnsupported.
func Installed(string) (bool, error) { return false, unsupported("look for a service") }

// ProtectFolder returns an error that wraps errors.ErrUnsupported.
func ProtectFolder(string, ...string) error { return unsupported("protect a folder") }

// CheckTrusted returns an error that wraps errors.ErrUnsupported.
func CheckTrusted(...string) error { return unsupported("check who may change a file") }

// Install returns an error that wraps errors.ErrUnsupported.
func Install(Program) error { return unsupported("install a service") }

// Uninstall returns an error that wraps errors.ErrUnsupported.
func Uninstall(context.Context, string) error { return unsupported("uninstall a service") }

// Start returns an error that wraps errors.ErrUnsupported.
func Start(context.Context, string) error { return unsupported("start a service") }

// Stop returns an error that wraps errors.ErrUnsupported.
func Stop(context.Context, string) error { return unsupported("stop a service") }

// IsService reports whether the service manager started this process: here it did not.
func IsService() (bool, error) { return false, nil }

// Serve returns an error that wraps errors.ErrUnsupported.
func Serve(context.Context, string, func(context.Context, func()) error, func(error) uint32) error {
	return unsupported("serve")
}
