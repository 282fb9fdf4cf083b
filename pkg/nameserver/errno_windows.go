package nameserver

import "golang.org/x/sys/windows"

// Errors of the network. Those of package syscall are inventions that Windows never answers.
const (
	errRefused         = windows.WSAECONNREFUSED
	errNetUnreachable  = windows.WSAENETUNREACH
	errHostUnreachable = windows.WSAEHOSTUNREACH
	errInUse           = windows.WSAEADDRINUSE
	errNoAddress       = windows.WSAEADDRNOTAVAIL
	errNoFamily        = windows.WSAEAFNOSUPPORT
)
