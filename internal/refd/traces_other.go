//go:build !linux && !windows

package refd

import (
	"context"

	"github.com/weirfw/weir/internal/refd/config"
)

// FindTraces looks for traces of refds. On systems other than Linux its error wraps errors.ErrUnsupported.
func FindTraces(context.Context, *config.File) (Traces, error) {
	return Traces{}, unsupported("look for packet filter rules")
}
