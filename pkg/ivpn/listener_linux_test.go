package ivpn_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/ivpn"
)

// A daemon that crashed leaves port.txt behind. Who listens at its port then, and is not root, is told nothing.
func TestIntegrationImpostor(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.RequireRoot(t)
	testutil.RequireTool(t, "setpriv", "socat")
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	var got bytes.Buffer
	impostor := exec.CommandContext(t.Context(), "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups",
		"socat", "-u", fmt.Sprintf("TCP4-LISTEN:%d,bind=127.0.0.1", port), "-")
	impostor.Stdout = &got
	if err := impostor.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the impostor listens", func() bool {
		sockets, err := os.ReadFile("/proc/net/tcp")
		return err == nil && strings.Contains(string(sockets), fmt.Sprintf(" 0100007F:%04X 00000000:0000 0A", port))
	})
	f := folder(t)
	write(t, filepath.Join(f, "port.txt"), fmt.Sprintf("%d:1", port))
	c, e, stop := client(t, ivpn.ClientConfig{Folder: f})
	if err := last[ivpn.Disconnected](e).Err; c.Connected() || !errors.Is(err, ivpn.ErrUntrusted) {
		t.Errorf("got %v; want ErrUntrusted", err)
	}
	stop()
	if err := impostor.Wait(); err != nil || got.Len() != 0 {
		t.Errorf("the impostor got %q, %v; want nothing", got.String(), err)
	}
}

// Whoever listens at the daemon's port for IPv6 only is not who is talked to, and keeps nobody from talking to the daemon.
func TestIntegrationListenerBeside(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.RequireRoot(t)
	testutil.RequireTool(t, "setpriv", "socat")
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	other := exec.CommandContext(t.Context(), "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups",
		"socat", "-u", fmt.Sprintf("TCP6-LISTEN:%d,ipv6only=1", port), "-")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait() // it was killed
	}()
	eventually(t, "the other one listens", func() bool {
		sockets, err := os.ReadFile("/proc/net/tcp6")
		return err == nil && strings.Contains(string(sockets), fmt.Sprintf(":%04X 00000000000000000000000000000000:0000 0A", port))
	})
	f := folder(t)
	write(t, filepath.Join(f, "port.txt"), fmt.Sprintf("%d:1", port))
	told := make(chan string, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			told <- err.Error()
			return
		}
		defer c.Close()
		line, err := bufio.NewReader(c).ReadString('\n')
		told <- fmt.Sprint(line, err)
	}()
	_, _, stop := client(t, ivpn.ClientConfig{Folder: f})
	defer stop()
	if got := <-told; !strings.Contains(got, "Hello") {
		t.Errorf("got %q; want the daemon greeted", got)
	}
}
