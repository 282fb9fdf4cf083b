package refd

import (
	"errors"
	"fmt"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/pkg/intercept"
)

// only makes this the only refd that works with a driver until release is called, or the process ends. A second one would stop the
// driver of the first: neither Windows nor the driver keeps it from that.
func only(service string) (release func(), err error) {
	name, err := windows.UTF16PtrFromString(`Global\weir-` + service)
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", service, err)
	}
	h, err := windows.CreateMutex(nil, false, name)
	if err == nil {
		return func() { _ = windows.CloseHandle(h) }, nil //nolint:errcheck // it is ours, and nothing can be wrong with it
	}
	if errors.Is(err, windows.ERROR_ALREADY_EXISTS) {
		err = errors.Join(err, windows.CloseHandle(h))
	}
	return nil, fmt.Errorf("%w: another refd works with the driver %s: stop it first, or set kext.service: %w", intercept.ErrNotInterceptable, service, err)
}
