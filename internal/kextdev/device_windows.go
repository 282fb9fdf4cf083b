package kextdev

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/windows"
)

// cancelEvery is how often Close cancels what is still on its way: a call that has begun but did not reach the driver yet
// when Close cancelled is not cancelled by that.
const cancelEvery = 10 * time.Millisecond

// Device is an opened device. All methods may be called at the same time.
type Device struct {
	handle windows.Handle

	mu     sync.Mutex // guards what follows
	closed bool
	calls  int           // on their way
	idle   []*call       // to be used again
	ended  chan struct{} // closed when the last call ended after Close
	err    error         // of Close
	done   chan struct{} // closed when Close is done
}

// call is one overlapped operation. It is on the heap and so is what it points to, because the driver writes into it after the
// system call returned: a stack may move.
type call struct {
	device     *Device
	overlapped windows.Overlapped
	count      uint32
	in, out    []byte
}

// Supported says why this system has no drivers of this kind: nil here.
func Supported() error { return nil }

// Open opens the device for ourselves alone, such as `\\.\Name`. The error says what is wrong: windows.ERROR_FILE_NOT_FOUND
// without the driver, ERROR_ACCESS_DENIED without the right or while another program has it.
func Open(path string) (*Device, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, fmt.Errorf("device name %q: %w", path, err)
	}
	h, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.OPEN_EXISTING,
		windows.FILE_ATTRIBUTE_NORMAL|windows.FILE_FLAG_OVERLAPPED, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &Device{handle: h, ended: make(chan struct{}), done: make(chan struct{})}, nil
}

// Read waits for what the driver sends. The error wraps os.ErrClosed after Close.
func (d *Device) Read(b []byte) (int, error) {
	return d.do(nil, b, func(c *call) error {
		return windows.ReadFile(d.handle, c.out, &c.count, &c.overlapped)
	})
}

// Write gives the driver b as one write. The error wraps os.ErrClosed after Close.
func (d *Device) Write(b []byte) (int, error) {
	return d.do(b, nil, func(c *call) error {
		return windows.WriteFile(d.handle, c.in, &c.count, &c.overlapped)
	})
}

// Control is DeviceIoControl. It returns how much of out the driver filled. The error wraps os.ErrClosed after Close.
func (d *Device) Control(code uint32, in, out []byte) (int, error) {
	return d.do(in, out, func(c *call) error {
		return windows.DeviceIoControl(d.handle, code, first(c.in), uint32(len(c.in)), first(c.out), uint32(len(c.out)), &c.count, &c.overlapped)
	})
}

func first(b []byte) *byte {
	if len(b) == 0 {
		return nil
	}
	return &b[0]
}

// do runs one operation to its end.
func (d *Device) do(in, out []byte, begin func(*call) error) (int, error) {
	c, err := d.start(in, out, begin)
	if err != nil {
		return 0, err
	}
	return c.finish()
}

// start begins an operation, which finish waits for.
func (d *Device) start(in, out []byte, begin func(*call) error) (*call, error) {
	c, err := d.take()
	if err != nil {
		return nil, err
	}
	c.in, c.out = in, out
	if err = begin(c); err != nil && !errors.Is(err, windows.ERROR_IO_PENDING) {
		d.put(c)
		return nil, d.explain(err)
	}
	return c, nil
}

// finish waits until an operation has ended. It is called once.
func (c *call) finish() (int, error) {
	d := c.device
	defer d.put(c)
	if err := windows.GetOverlappedResult(d.handle, &c.overlapped, &c.count, true); err != nil {
		return 0, d.explain(err)
	}
	return int(c.count), nil
}

// StartWrite is Write, but does not wait for its end: Wait does, which is called once. b stays as it is until then. Writes reach the
// driver in the order in which they are started.
func (d *Device) StartWrite(b []byte) (interface{ Wait() error }, error) {
	c, err := d.start(b, nil, func(c *call) error {
		return windows.WriteFile(d.handle, c.in, &c.count, &c.overlapped)
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Wait is for who called StartWrite.
func (c *call) Wait() error {
	_, err := c.finish()
	return err
}

// explain says os.ErrClosed for what Close ended.
func (d *Device) explain(err error) error {
	if errors.Is(err, windows.ERROR_OPERATION_ABORTED) && d.isClosed() {
		return os.ErrClosed
	}
	return fmt.Errorf("device: %w", err)
}

// take returns a call to use.
func (d *Device) take() (*call, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, os.ErrClosed
	}
	if n := len(d.idle); n > 0 {
		c := d.idle[n-1]
		d.idle = d.idle[:n-1]
		d.calls++
		return c, nil
	}
	event, err := windows.CreateEvent(nil, 1, 0, nil)
	if err != nil {
		return nil, fmt.Errorf("create event: %w", err)
	}
	d.calls++
	return &call{device: d, overlapped: windows.Overlapped{HEvent: event}}, nil
}

// put takes back a call that ended.
func (d *Device) put(c *call) {
	*c = call{device: d, overlapped: windows.Overlapped{HEvent: c.overlapped.HEvent}}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle = append(d.idle, c)
	if d.calls--; d.calls == 0 && d.closed {
		close(d.ended)
	}
}

func (d *Device) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

// Close cancels all calls, waits for them to end, and closes the device. Further calls of Close wait for the first and return
// the same.
func (d *Device) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		<-d.done
		return d.err
	}
	d.closed = true
	if d.calls == 0 {
		close(d.ended)
	}
	d.mu.Unlock()
	d.cancel()
	errs := []error{os.NewSyscallError("CloseHandle", windows.CloseHandle(d.handle))}
	for _, c := range d.idle { // nobody takes any more
		errs = append(errs, os.NewSyscallError("CloseHandle", windows.CloseHandle(c.overlapped.HEvent)))
	}
	d.err = errors.Join(errs...)
	close(d.done)
	return d.err
}

// cancel returns when no call is on its way.
func (d *Device) cancel() {
	tick := time.NewTicker(cancelEvery)
	defer tick.Stop()
	for {
		_ = windows.CancelIoEx(d.handle, nil) // ERROR_NOT_FOUND if nothing is pending
		select {
		case <-d.ended:
			return
		case <-tick.C:
		}
	}
}
