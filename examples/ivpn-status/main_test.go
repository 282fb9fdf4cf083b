package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/ivpntest"
	"github.com/weirfw/weir/internal/testutil"
)

// lines is an output that stops the program when a line has come.
type lines struct {
	strings.Builder
	last string
	stop func()
}

// Write implements io.Writer; the client prints one line at a time.
func (l *lines) Write(b []byte) (int, error) {
	if strings.HasPrefix(string(b), l.last) {
		defer l.stop()
	}
	return l.Builder.Write(b)
}

func TestStatus(t *testing.T) {
	testutil.NoLeaks(t)
	folder := filepath.Join(t.TempDir(), "ivpn")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := ivpntest.Start(ivpntest.Config{Folder: folder, ServiceBinary: "/opt/ivpn/ivpn-service"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Stop()
	d.Starting("192.0.2.1", 2049, 17)
	d.Connected(map[string]any{"VpnType": ivpntest.WireGuard, "ClientIP": "10.1.2.3", "ClientIPv6": "fd00::3"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &lines{last: "VPN connected", stop: cancel}
	if err := run(ctx, []string{"-folder", folder}, out); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`the daemon listens at port %d
connected to version 3.16.0, /opt/ivpn/ivpn-service
VPN endpoint udp 192.0.2.1:2049
VPN connected by WireGuard, addresses 10.1.2.3 and fd00::3
disconnected
`, d.Port())
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestUsage(t *testing.T) {
	if err := run(t.Context(), []string{"-nonsense"}, &strings.Builder{}); err == nil || !strings.Contains(err.Error(), "usage") {
		t.Errorf("got %v; want the usage", err)
	}
}
