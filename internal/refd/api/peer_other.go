//go:build !linux

package api

import (
	"errors"
	"fmt"
	"net"
	"runtime"
)

var errNoPeer = fmt.Errorf("peer credentials on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)

func peerCredentials(net.Conn) peer { return peer{err: errNoPeer} }
