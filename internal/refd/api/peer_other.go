//go:build !linux && !windows

package api

import (
	"errors"
	"fmt"
	"net"
	"runtime"
)

func peerCredentials(c net.Conn) peer {
	if _, ok := c.(*net.UnixConn); !ok {
		return peer{err: errNoPeer}
	}
	return peer{err: fmt.Errorf("peer credentials on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)}
}
