//go:build !windows

package nameserver

import "syscall"

// Errors of the network.
const (
	errRefused         = syscall.ECONNREFUSED
	errNetUnreachable  = syscall.ENETUNREACH
	errHostUnreachable = syscall.EHOSTUNREACH
	errInUse           = syscall.EADDRINUSE
	errNoAddress       = syscall.EADDRNOTAVAIL
	errNoFamily        = syscall.EAFNOSUPPORT
)
