//go:build !linux

package api

import (
	"errors"
	"fmt"
	"net"
	"runtime"
)

func peerCredentials(*net.UnixConn) peer {
	return peer{err: fmt.Errorf("peer credentials on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)}
}
