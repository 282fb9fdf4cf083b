package ivpntest

import (
	"fmt"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Known makes Wine know whose a listening socket is: to it, a socket belongs to nobody until its process has asked for what can be read
// of it. On Windows it changes nothing.
func Known(l net.Listener) error {
	c, ok := l.(syscall.Conn)
	if !ok {
		return fmt.Errorf("ivpntest: %T is no socket", l)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("ivpntest: reach the socket: %w", err)
	}
	const fionread = 0x4004667f // winsock2.h
	err = raw.Control(func(s uintptr) {
		var n, got uint32
		// a listening socket has nothing to read, and says so by an error
		_ = windows.WSAIoctl(windows.Handle(s), fionread, nil, 0, (*byte)(unsafe.Pointer(&n)), uint32(unsafe.Sizeof(n)), &got, nil, 0) //nolint:errcheck // as said
	})
	if err != nil {
		return fmt.Errorf("ivpntest: reach the socket: %w", err)
	}
	return nil
}
