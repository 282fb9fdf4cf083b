package varlink_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/internal/varlink"
)

// A call goes to a service behind a socket, and its replies come back.
func TestConn(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path) //nolint:noctx // it is closed
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer c.Close()
		b, err := varlink.NewReader(c).Next()
		if err == nil {
			_, err = fmt.Fprintf(c, `{"parameters":{"call":%s},"continues":true}`+"\x00"+`{"error":"x.Over"}`+"\x00", b)
		}
		served <- err
	}()
	c, err := varlink.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(varlink.Call{Method: "x.Do", Parameters: map[string]int{"n": 1}, More: true}); err != nil {
		t.Fatal(err)
	}
	r, err := c.Receive()
	if want := `{"call":{"method":"x.Do","parameters":{"n":1},"more":true}}`; err != nil || string(r.Parameters) != want || !r.Continues {
		t.Errorf("got %s, %v; want %s", r.Parameters, err, want)
	}
	var e *varlink.Error
	if _, err := c.Receive(); !errors.As(err, &e) || e.Name != "x.Over" {
		t.Errorf("got %v; want the error x.Over", err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := c.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v; want EOF", err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if err := c.Send(varlink.Call{Method: "x.Do"}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v; want ErrClosed", err)
	}
	if err := c.Send(varlink.Call{Parameters: func() {}}); err == nil {
		t.Error("a function was encoded")
	}
	if _, err := varlink.Dial(t.Context(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("connected to nobody")
	}
}
