//go:build !linux

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
)

// originalDestination is known on Linux only. The error wraps errors.ErrUnsupported.
func originalDestination(*net.TCPConn) (netip.AddrPort, error) {
	return netip.AddrPort{}, fmt.Errorf("original destination on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}
