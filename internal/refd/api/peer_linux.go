package api

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

var errNoPeer = errors.New("no peer credentials")

// peerCredentials asks the kernel who opened the connection (unix(7),
// SO_PEERCRED).
func peerCredentials(c net.Conn) peer {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return peer{err: errNoPeer}
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return peer{err: fmt.Errorf("peer credentials: %w", err)}
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, credErr); err != nil {
		return peer{err: fmt.Errorf("peer credentials: %w", err)}
	}
	return peer{uid: cred.Uid, pid: int(cred.Pid)}
}
