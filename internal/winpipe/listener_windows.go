package winpipe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// acl lets administrators and the system have a pipe, and nobody else: in SDDL, with an owner that other users cannot give, and a
// protected list. GA is everything.
const acl = "O:BAG:BAD:P(A;;GA;;;SY)(A;;GA;;;BA)"

// bufferSize is what the kernel keeps of what was written and not read, in each direction.
const bufferSize = 64 << 10

// listener implements net.Listener.
type listener struct {
	path   string
	sa     *windows.SecurityAttributes
	closed windows.Handle // an event

	mu   sync.Mutex // held by Accept
	next windows.Handle
	once sync.Once
}

// Listen makes the pipe at path, such as `\\.\pipe\name`. The error wraps ErrTaken, or is that of the system.
func Listen(path string) (net.Listener, error) {
	sd, err := windows.SecurityDescriptorFromString(acl)
	if err != nil {
		return nil, fmt.Errorf("winpipe: access list: %w", err)
	}
	sa := &windows.SecurityAttributes{SecurityDescriptor: sd}
	sa.Length = uint32(unsafe.Sizeof(*sa))
	l := &listener{path: path, sa: sa}
	// The flag below says it, too, but not what it was, and not under Wine.
	if h, err := openOnce(path); err == nil || errors.Is(err, windows.ERROR_PIPE_BUSY) {
		if err == nil {
			err = windows.CloseHandle(h)
		}
		return nil, errors.Join(ErrTaken, err)
	}
	// Whoever has the first instance decides who may open the pipe, and an instance of somebody else would get some of the clients.
	if l.next, err = l.instance(windows.FILE_FLAG_FIRST_PIPE_INSTANCE); err != nil {
		if errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_PIPE_BUSY) || errors.Is(err, windows.ERROR_ALREADY_EXISTS) {
			return nil, fmt.Errorf("%w: %w", ErrTaken, err)
		}
		return nil, fmt.Errorf("winpipe: make %s: %w", path, err)
	}
	if l.closed, err = windows.CreateEvent(nil, 1, 0, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("winpipe: make an event: %w", err), windows.CloseHandle(l.next))
	}
	return l, nil
}

func (l *listener) instance(flags uint32) (windows.Handle, error) {
	name, err := windows.UTF16PtrFromString(l.path)
	if err != nil {
		return windows.InvalidHandle, fmt.Errorf("name: %w", err)
	}
	h, err := windows.CreateNamedPipe(name, windows.PIPE_ACCESS_DUPLEX|windows.FILE_FLAG_OVERLAPPED|flags,
		windows.PIPE_TYPE_BYTE|windows.PIPE_READMODE_BYTE|windows.PIPE_REJECT_REMOTE_CLIENTS,
		windows.PIPE_UNLIMITED_INSTANCES, bufferSize, bufferSize, 0, l.sa)
	if err != nil {
		return windows.InvalidHandle, fmt.Errorf("CreateNamedPipe: %w", err)
	}
	return h, nil
}

// Accept implements net.Listener. The error wraps net.ErrClosed after Close.
func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed() {
		return nil, l.opError(net.ErrClosed)
	}
	err := l.await(l.next)
	if l.isClosed() {
		return nil, l.opError(net.ErrClosed) // Close closes what waited
	}
	if err != nil {
		// the client has gone already, or the like: the instance is of no use any more
		if fresh, ferr := l.instance(0); ferr == nil {
			_ = windows.CloseHandle(l.next) // in whatever state it is
			l.next = fresh
		}
		return nil, l.opError(&retry{err})
	}
	accepted := l.next
	if l.next, err = l.instance(0); err != nil {
		l.next = accepted
		return nil, l.opError(errors.Join(err, windows.DisconnectNamedPipe(accepted)))
	}
	return newConn(accepted, l.path), nil
}

// await waits for a client, or for Close.
func (l *listener) await(pipe windows.Handle) error {
	event, err := windows.CreateEvent(nil, 1, 0, nil)
	if err != nil {
		return fmt.Errorf("make an event: %w", err)
	}
	defer windows.CloseHandle(event) //nolint:errcheck // nothing waits for it any more
	o := &windows.Overlapped{HEvent: event}
	err = windows.ConnectNamedPipe(pipe, o)
	switch {
	case err == nil, errors.Is(err, windows.ERROR_PIPE_CONNECTED):
		return nil
	case !errors.Is(err, windows.ERROR_IO_PENDING):
		return fmt.Errorf("ConnectNamedPipe: %w", err)
	}
	_, err = windows.WaitForMultipleObjects([]windows.Handle{event, l.closed}, false, windows.INFINITE)
	if err == nil && l.isClosed() {
		_ = windows.CancelIoEx(pipe, o) // it may have ended by itself
	}
	var n uint32
	return errors.Join(err, windows.GetOverlappedResult(pipe, o, &n, true))
}

func (l *listener) isClosed() bool {
	got, err := windows.WaitForSingleObject(l.closed, 0)
	return err == nil && got == windows.WAIT_OBJECT_0
}

// Close implements net.Listener. Connections go on.
func (l *listener) Close() (err error) {
	l.once.Do(func() {
		err = windows.SetEvent(l.closed)
		l.mu.Lock() // when Accept has ended
		defer l.mu.Unlock()
		// The event stays: who calls Accept from now on looks at it.
		err = errors.Join(err, windows.CloseHandle(l.next))
	})
	return err
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return Addr(l.path) }

func (l *listener) opError(err error) error {
	return &net.OpError{Op: "accept", Net: "pipe", Addr: l.Addr(), Err: err}
}

// retry is an error after which a server accepts again, as net/http does.
type retry struct{ error }

// Timeout and Temporary implement net.Error.
func (*retry) Timeout() bool { return false }

// Temporary says that accepting again is worth it.
func (*retry) Temporary() bool { return true }

func (r *retry) Unwrap() error { return r.error }

// dialEvery is how often a pipe is tried whose instances are all taken: the server makes the next one at once.
const dialEvery = 10 * time.Millisecond

// Dial opens the pipe at path. The error wraps ErrForeign, fs.ErrNotExist if there is none, fs.ErrPermission if we may not, or is ctx's.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	h, err := open(ctx, path)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "pipe", Addr: Addr(path), Err: err}
	}
	if err := checkOwner(h); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), windows.CloseHandle(h))
	}
	return newConn(h, path), nil
}
