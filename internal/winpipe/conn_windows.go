package winpipe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

// Addr is the path of a pipe.
type Addr string

// Network implements net.Addr.
func (Addr) Network() string { return "pipe" }

// String implements net.Addr.
func (a Addr) String() string { return string(a) }

// Conn is one end of a pipe. It implements net.Conn; os.File does the work, and knows deadlines.
type Conn struct {
	*os.File
	handle windows.Handle
	addr   Addr
}

var _ net.Conn = (*Conn)(nil)

func newConn(h windows.Handle, path string) *Conn {
	return &Conn{File: os.NewFile(uintptr(h), path), handle: h, addr: Addr(path)}
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.File.Read(b)
	return n, c.opError("read", err)
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.File.Write(b)
	return n, c.opError("write", err)
}

// opError makes the error of a file one of a connection: net/http aborts what it reads ahead by a deadline, and takes any error but a
// net.Error for the end of the connection and of the request that it is serving.
func (c *Conn) opError(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if inner := (*fs.PathError)(nil); errors.As(err, &inner) {
		err = inner.Err
	}
	if errors.Is(err, os.ErrClosed) {
		err = net.ErrClosed
	}
	return &net.OpError{Op: op, Net: c.addr.Network(), Addr: c.addr, Err: err}
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.addr }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.addr }

// ClientPID returns the process at the other end. It is for the server's side.
func (c *Conn) ClientPID() (int, error) {
	var pid uint32
	if err := windows.GetNamedPipeClientProcessId(c.handle, &pid); err != nil {
		return 0, fmt.Errorf("winpipe: whose client: %w", err)
	}
	return int(pid), nil
}

// open opens a pipe, when an instance is free.
func open(ctx context.Context, path string) (windows.Handle, error) {
	for {
		h, err := openOnce(path)
		if !errors.Is(err, windows.ERROR_PIPE_BUSY) {
			return h, err
		}
		select {
		case <-ctx.Done():
			return windows.InvalidHandle, ctx.Err() //nolint:wrapcheck // Dial says what was tried
		case <-time.After(dialEvery):
		}
	}
}

// openOnce opens a pipe. The server may not act as us.
func openOnce(path string) (windows.Handle, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return windows.InvalidHandle, fmt.Errorf("name: %w", err)
	}
	return windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.OPEN_EXISTING, //nolint:wrapcheck // the callers do
		windows.FILE_FLAG_OVERLAPPED|windows.SECURITY_SQOS_PRESENT|windows.SECURITY_ANONYMOUS, 0)
}

// checkOwner returns ErrForeign for a pipe that another user made.
func checkOwner(h windows.Handle) error {
	sd, err := windows.GetSecurityInfo(h, windows.SE_KERNEL_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("winpipe: whose pipe: %w", err)
	}
	owner, _, err := sd.Owner()
	if err != nil {
		return fmt.Errorf("winpipe: whose pipe: %w", err)
	}
	if !owner.IsWellKnown(windows.WinBuiltinAdministratorsSid) && !owner.IsWellKnown(windows.WinLocalSystemSid) {
		return fmt.Errorf("%w but to %v", ErrForeign, owner)
	}
	return nil
}
