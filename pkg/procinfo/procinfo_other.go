//go:build !linux && !windows

package procinfo

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
)

// Finder finds the processes of connections; on this system there is none.
type Finder struct{}

// New returns an error that wraps errors.ErrUnsupported.
func New(Config) (*Finder, error) { return nil, unsupported("new finder") }

// Close implements the Finder of Linux.
func (*Finder) Close() error { return unsupported("close finder") }

// Find implements the Finder of Linux.
func (*Finder) Find(context.Context, *packet.Info, packet.Direction) (*conn.Process, error) {
	return nil, unsupported("find process")
}

// Holder implements the Finder of Linux.
func (*Finder) Holder(context.Context, *packet.Info, packet.Direction) (*conn.Process, error) {
	return nil, unsupported("find holder")
}

// FindQuick implements the Finder of Linux: it never knows.
func (*Finder) FindQuick(*packet.Info, packet.Direction) (*conn.Process, bool) { return nil, false }

// Process implements the Finder of Linux.
func (*Finder) Process(int) (*conn.Process, error) { return nil, unsupported("describe process") }

// Stats implements the Finder of Linux.
func (*Finder) Stats() Stats { return Stats{} }

func unsupported(operation string) error {
	return fmt.Errorf("procinfo: %s on %s/%s: %w", operation, runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}
