//go:build !linux && !darwin && !windows

package ivpn

import (
	"errors"
	"fmt"
	"runtime"
)

func systemFolder() (string, error) {
	return "", fmt.Errorf("ivpn: look for IVPN's folder on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}
