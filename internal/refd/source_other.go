//go:build !linux && !windows

package refd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/refd/metrics"
	"github.com/weirfw/weir/pkg/names"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/splittunnel"
)

// resolverSource is where names would come from that the system's resolver tells.
const resolverSource = names.Systemd

func unsupported(what string) error {
	return fmt.Errorf("%s on %s/%s: %w", what, runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}

func openSource(*config.Loaded, *slog.Logger, func()) (source, error) {
	return nil, unsupported("intercept packets")
}

// Cleanup removes what a refd with this configuration left on the host.
func Cleanup(context.Context, *config.File, *slog.Logger) error {
	return unsupported("clean up packet filter rules")
}

func openEngine(*config.File, source, *slog.Logger, func(packet.Tuple) (splittunnel.Path, bool)) (splittunnel.Engine, error) {
	return nil, unsupported("split tunnel")
}

func sourceFigures(source) metrics.Source { return metrics.Source{} }
