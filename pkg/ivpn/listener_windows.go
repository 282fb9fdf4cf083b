package ivpn

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/windows"
)

const (
	// ownerPIDListener is TCP_TABLE_OWNER_PID_LISTENER (iprtrmib.h).
	ownerPIDListener = 3
	// maxTable is what no machine needs, in bytes.
	maxTable = 16 << 20
	// lastSystemPID is the process "System", which listens for drivers and for whoever asked them to (HTTP.sys). It is nobody's daemon.
	lastSystemPID = 4
)

// trustListener returns an error unless whoever takes connections at that port
// of 127.0.0.1 is an administrator. After a crash of the daemon port.txt stays,
// and anybody may listen at its port.
func trustListener(port uint16) error {
	pids, err := listenersAt(port)
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("%w: nobody is known to listen at port %d", ErrUntrusted, port)
	}
	var opened []windows.Handle
	defer func() {
		for _, h := range opened {
			_ = windows.CloseHandle(h) // it was only asked
		}
	}()
	for _, pid := range pids {
		h, err := openProcess(pid)
		if err != nil {
			return fmt.Errorf("%w: port %d: %w", ErrUntrusted, port, err)
		}
		opened = append(opened, h)
		if err := trustProcess(h); err != nil {
			return fmt.Errorf("%w: port %d belongs to process %d: %w", ErrUntrusted, port, pid, err)
		}
	}
	// The number of a process is not used again while it is open: if they listen now, they are who was looked at.
	again, err := listenersAt(port)
	if err != nil {
		return err
	}
	if !slices.Equal(again, pids) {
		return fmt.Errorf("%w: port %d changed hands just now", ErrUntrusted, port)
	}
	return nil
}

// listenersAt returns the processes that get connections to a port of 127.0.0.1, in ascending order.
func listenersAt(port uint16) ([]uint32, error) {
	var list []tableListener
	for family, layout := range map[uintptr]tableLayout{windows.AF_INET: tableIPv4, windows.AF_INET6: tableIPv6} {
		table, err := tcpTable(family)
		if err != nil {
			return nil, fmt.Errorf("look for the daemon's socket: %w", err)
		}
		list = append(list, layout.listeners(table, port)...)
	}
	return answering(list), nil
}

// tcpTable returns the listening sockets of a family, as Windows lists them; none if it has no such family.
func tcpTable(family uintptr) ([]byte, error) {
	get := windows.NewLazySystemDLL("iphlpapi.dll").NewProc("GetExtendedTcpTable")
	if err := get.Find(); err != nil {
		return nil, err //nolint:wrapcheck // listenersAt does
	}
	size := uint32(16 << 10)
	for {
		buf := make([]uint32, size/4+1) // aligned for what is in it
		size = uint32(4 * len(buf))
		//nolint:errcheck // it returns its error; the thread's last one means nothing
		e, _, _ := get.Call(uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0, family, ownerPIDListener, 0)
		switch err := windows.Errno(e); {
		case e == 0:
			return unsafe.Slice((*byte)(unsafe.Pointer(&buf[0])), 4*len(buf)), nil
		case errors.Is(err, windows.ERROR_NOT_SUPPORTED):
			return nil, nil
		case !errors.Is(err, windows.ERROR_INSUFFICIENT_BUFFER) || size > maxTable:
			return nil, fmt.Errorf("GetExtendedTcpTable: %w", err)
		}
	}
}

// openProcess opens a process for questions.
func openProcess(pid uint32) (windows.Handle, error) {
	if pid <= lastSystemPID {
		return 0, fmt.Errorf("process %d is the system, and not the daemon", pid)
	}
	h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, pid)
	if err != nil {
		return 0, fmt.Errorf("open process %d: %w", pid, err)
	}
	return h, nil
}

// trustProcess returns an error unless a process has the rights of an administrator.
func trustProcess(process windows.Handle) error {
	var token windows.Token
	if err := windows.OpenProcessToken(process, windows.TOKEN_QUERY, &token); err != nil {
		return fmt.Errorf("open its token: %w", err)
	}
	defer token.Close() //nolint:errcheck // only asked
	user, err := token.GetTokenUser()
	if err != nil {
		return fmt.Errorf("read its user: %w", err)
	}
	return trustUser(user.User.Sid, token.IsElevated() || !windows.GetCurrentProcessToken().IsElevated())
}

// trustUser returns an error unless what this user runs may be the daemon. enough is whether it has as many rights as we have: an
// administrator's programs have few of them until they are asked for.
func trustUser(user *windows.SID, enough bool) error { //nolint:revive // it is what is known of the process
	switch {
	case !administrator(user):
		return fmt.Errorf("it is run by %s; want an administrator", user)
	case !enough:
		return fmt.Errorf("it is run by %s without the rights of an administrator", user)
	}
	return nil
}
