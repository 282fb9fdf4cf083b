package winpipe_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/winpipe"
)

// TestReadsAreAborted: net/http reads ahead while it handles a request, and aborts that by a deadline. The next read waits again.
func TestReadsAreAborted(t *testing.T) {
	path := fmt.Sprintf(`\\.\pipe\weir-abort-test-%d`, os.Getpid())
	ln, err := winpipe.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := winpipe.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := make([]byte, 8)
	for n := range 20 {
		done := make(chan error, 1)
		go func() {
			_, err := s.Read(make([]byte, 1))
			done <- err
		}()
		select {
		case err := <-done:
			t.Fatalf("%d: a read ended by itself: %v", n, err)
		case <-time.After(20 * time.Millisecond):
		}
		if err := s.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		err := <-done
		if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%d: aborted: got %v; want %v as a net.Error", n, err, os.ErrDeadlineExceeded)
		}
		if direct, ok := err.(net.Error); !ok { //nolint:errorlint // as net/http looks at it
			t.Fatalf("got %T %v", direct, err)
		}
		if err := s.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		if m, err := c.Read(b); err != nil || string(b[:m]) != "answer" {
			t.Fatalf("%d: got %q, %v; want answer", n, b[:m], err)
		}
		if _, err := c.Write([]byte("ask")); err != nil {
			t.Fatal(err)
		}
		if m, err := s.Read(b); err != nil || string(b[:m]) != "ask" {
			t.Fatalf("%d: got %q, %v; want ask", n, b[:m], err)
		}
	}
}
