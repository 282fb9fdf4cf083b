package winpipe_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/internal/winpipe"
)

func pipeName(t *testing.T) string {
	return fmt.Sprintf(`\\.\pipe\weir-%d-%s`, os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"))
}

// listen serves each client by echoing what it sends.
func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	testutil.NoLeaks(t)
	l, err := winpipe.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // a client that is gone already
			}
			all.Go(func() {
				_, _ = io.Copy(c, c) // until the client goes
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Error(err)
		}
		all.Wait()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: got %v; want %v", err, net.ErrClosed)
		}
	})
	return l
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := winpipe.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // most often it is
	return c
}

func TestEcho(t *testing.T) {
	path := pipeName(t)
	listen(t, path)
	var clients sync.WaitGroup
	for n := range 8 {
		c := dial(t, path)
		clients.Go(func() {
			sent := bytes.Repeat([]byte{byte(n)}, 300_000) // more than the buffers hold
			go c.Write(sent)                               //nolint:errcheck // the reader misses what was not written
			got := make([]byte, len(sent))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("client %d: got something else, %v", n, err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	clients.Wait()
}

// A read that waits ends at its deadline, as net/http needs it.
func TestDeadline(t *testing.T) {
	path := pipeName(t)
	listen(t, path)
	c := dial(t, path)
	ended := make(chan error)
	go func() {
		_, err := c.Read(make([]byte, 1))
		ended <- err
	}()
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v; want %v", err, os.ErrDeadlineExceeded)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Errorf("after the deadline: %v", err)
	}
}

func TestNames(t *testing.T) {
	path := pipeName(t)
	if _, err := winpipe.Dial(t.Context(), path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nobody listens: got %v; want %v", err, fs.ErrNotExist)
	}
	listen(t, path)
	if _, err := winpipe.Listen(path); !errors.Is(err, winpipe.ErrTaken) {
		t.Errorf("second listener: got %v; want %v", err, winpipe.ErrTaken)
	}
	dial(t, path)
}

// Only administrators and the system may open the pipe; the server knows who did.
func TestAccess(t *testing.T) {
	path := pipeName(t)
	l, err := winpipe.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := dial(t, path).(*winpipe.Conn)
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if pid, err := s.(*winpipe.Conn).ClientPID(); err != nil || pid != os.Getpid() {
		t.Errorf("client: got %d, %v; want ourselves, %d", pid, err, os.Getpid())
	}
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var sd *windows.SECURITY_DESCRIPTOR
	if cerr := raw.Control(func(h uintptr) {
		sd, err = windows.GetSecurityInfo(windows.Handle(h), windows.SE_KERNEL_OBJECT, windows.OWNER_SECURITY_INFORMATION|windows.DACL_SECURITY_INFORMATION)
	}); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	acl, _, err := sd.DACL()
	if err != nil || acl.AceCount != 2 {
		t.Fatalf("got %v, %v; want two entries", sd, err)
	}
	for n, want := range []string{"S-1-5-18", "S-1-5-32-544"} { // the system, administrators
		var ace *windows.ACCESS_ALLOWED_ACE
		if err := windows.GetAce(acl, uint32(n), &ace); err != nil {
			t.Fatal(err)
		}
		if got := (*windows.SID)(unsafe.Pointer(&ace.SidStart)).String(); got != want {
			t.Errorf("entry %d is %s's; want %s", n, got, want)
		}
	}
}

// A pipe that another program made may be for everybody: we do not talk to it.
func TestForeignPipe(t *testing.T) {
	path := pipeName(t)
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		t.Fatal(err)
	}
	sd, err := windows.SecurityDescriptorFromString("O:WDG:WDD:(A;;GA;;;WD)")
	if err != nil {
		t.Fatal(err)
	}
	sa := &windows.SecurityAttributes{SecurityDescriptor: sd}
	sa.Length = uint32(unsafe.Sizeof(*sa))
	h, err := windows.CreateNamedPipe(name, windows.PIPE_ACCESS_DUPLEX, windows.PIPE_TYPE_BYTE, 1, 512, 512, 0, sa)
	if err != nil {
		t.Fatal(err)
	}
	defer windows.CloseHandle(h)
	if _, err := winpipe.Dial(t.Context(), path); !errors.Is(err, winpipe.ErrForeign) {
		t.Errorf("got %v; want %v", err, winpipe.ErrForeign)
	}
}
