package kextdev_test

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/internal/kextdev"
	"github.com/weirfw/weir/internal/testutil"
)

// pipe is a named pipe that stands in for a driver: both are opened by CreateFile, and a read waits for what the other side
// writes. The other side is synchronous; hangUp closes it, once: the number of a closed handle may already be another's.
func pipe(t *testing.T) (d *kextdev.Device, other windows.Handle, hangUp func()) {
	t.Helper()
	path := fmt.Sprintf(`\\.\pipe\weir-kextdev-%d-%d`, os.Getpid(), time.Now().UnixNano())
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		t.Fatal(err)
	}
	other, err = windows.CreateNamedPipe(name, windows.PIPE_ACCESS_DUPLEX, windows.PIPE_TYPE_MESSAGE|windows.PIPE_READMODE_MESSAGE,
		1, 4096, 4096, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	hangUp = sync.OnceFunc(func() {
		if err := windows.CloseHandle(other); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(hangUp)
	d, err = kextdev.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d, other, hangUp
}

// A write goes through while a read waits, and the read gets what comes.
func TestReadAndWriteAtOnce(t *testing.T) {
	testutil.NoLeaks(t)
	d, other, _ := pipe(t)
	read := make(chan string, 1)
	go func() {
		b := make([]byte, 16)
		n, err := d.Read(b)
		read <- fmt.Sprint(string(b[:n]), err)
	}()
	for range 100 {
		if n, err := d.Write([]byte("command")); n != 7 || err != nil {
			t.Fatalf("got %d, %v; want 7", n, err)
		}
		b, n := make([]byte, 16), uint32(0)
		if err := windows.ReadFile(other, b, &n, nil); err != nil || string(b[:n]) != "command" {
			t.Fatalf("the other side got %q, %v", b[:n], err)
		}
	}
	var n uint32
	if err := windows.WriteFile(other, []byte("info"), &n, nil); err != nil {
		t.Fatal(err)
	}
	if got := <-read; got != "info<nil>" {
		t.Errorf("got %q; want info", got)
	}
}

// Close ends every call and can be called by many.
func TestCloseEndsCalls(t *testing.T) {
	testutil.NoLeaks(t)
	for range 20 {
		d, _, _ := pipe(t)
		errs := make(chan error, 8)
		for range cap(errs) {
			go func() {
				_, err := d.Read(make([]byte, 16))
				errs <- err
			}()
		}
		var closers sync.WaitGroup
		for range 3 {
			closers.Go(func() {
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, os.ErrClosed) {
				t.Errorf("got %v; want ErrClosed", err)
			}
		}
		closers.Wait()
		if _, err := d.Write([]byte{1}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("got %v; want ErrClosed", err)
		}
	}
}

func TestErrors(t *testing.T) {
	if _, err := kextdev.Open(`\\.\weir-no-such-device`); !errors.Is(err, windows.ERROR_FILE_NOT_FOUND) {
		t.Errorf("got %v; want ERROR_FILE_NOT_FOUND", err)
	}
	if _, err := kextdev.Open("a\x00b"); err == nil {
		t.Error("got no error for a name with a zero")
	}
	d, _, hangUp := pipe(t)
	if _, err := d.Control(0x9c40e000, nil, make([]byte, 4)); err == nil {
		t.Error("got no error for a control code that a pipe does not know")
	}
	hangUp()
	if _, err := d.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v; want what the system says about a broken pipe", err)
	}
}
