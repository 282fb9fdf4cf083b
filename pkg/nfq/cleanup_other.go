//go:build !linux

package nfq

import "context"

// Cleanup removes everything of ours from the host after a crash. It returns an error that wraps errors.ErrUnsupported: this
// system has no NFQUEUE.
func Cleanup(context.Context, HostConfig) error { return supported("remove rules") }
