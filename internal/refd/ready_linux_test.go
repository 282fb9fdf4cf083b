package refd

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNotify(t *testing.T) {
	if err := Notify(t.Context(), "", "READY=1"); err != nil {
		t.Errorf("nobody to tell: got %v", err)
	}
	if err := Notify(t.Context(), filepath.Join(t.TempDir(), "none"), "READY=1"); err == nil || !strings.Contains(err.Error(), "service manager") {
		t.Errorf("nobody listens: got %v", err)
	}
	// a file, and an abstract name
	for _, socket := range []string{filepath.Join(t.TempDir(), "s"), "@weir-" + t.TempDir()} {
		var lc net.ListenConfig
		c, err := lc.ListenPacket(t.Context(), "unixgram", socket)
		if err != nil {
			t.Fatal(err)
		}
		if err := Notify(t.Context(), socket, "READY=1"); err != nil {
			t.Errorf("%s: %v", socket, err)
		}
		b := make([]byte, 64)
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Error(err)
		}
		n, _, err := c.ReadFrom(b)
		if err != nil || string(b[:n]) != "READY=1" {
			t.Errorf("%s: got %q, %v; want READY=1", socket, b[:n], err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
