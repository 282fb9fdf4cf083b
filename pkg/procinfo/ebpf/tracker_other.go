//go:build !linux || !(amd64 || arm64 || 386)

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
)

// Tracker exists on Linux only.
type Tracker struct{}

func unsupported(op string) error {
	return fmt.Errorf("ebpf: %s on %s/%s: %w", op, runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}

// New returns an error that wraps errors.ErrUnsupported.
func New(Config) (*Tracker, error) { return nil, unsupported("new") }

// Close returns nil: there is nothing to close.
func (*Tracker) Close() error { return nil }

// Run returns an error that wraps errors.ErrUnsupported.
func (*Tracker) Run(context.Context, func(), Reports) error { return unsupported("run") }

// Owner returns an error that wraps errors.ErrUnsupported.
func (*Tracker) Owner(context.Context, *packet.Info, packet.Direction) (procinfo.Owner, error) {
	return procinfo.Owner{}, unsupported("owner")
}

// OwnerQuick returns an error that wraps errors.ErrUnsupported.
func (*Tracker) OwnerQuick(*packet.Info, packet.Direction) (procinfo.Owner, error) {
	return procinfo.Owner{}, unsupported("owner")
}

// Forwarded returns an error that wraps errors.ErrUnsupported.
func (*Tracker) Forwarded(context.Context, *packet.Info) (procinfo.Owner, error) {
	return procinfo.Owner{}, unsupported("forwarded")
}

// DescribeBy does nothing.
func (*Tracker) DescribeBy(func(pid int) (*conn.Process, error)) {}

// Method returns procinfo.MethodEBPF.
func (*Tracker) Method() procinfo.Method { return procinfo.MethodEBPF }

// Status returns an empty one.
func (*Tracker) Status() Status { return Status{} }

// Stats returns an empty one.
func (*Tracker) Stats() Stats { return Stats{} }
