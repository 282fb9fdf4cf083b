package ivpn

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/internal/ivpntest"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/internal/winerig"
)

func listen(t *testing.T, network, addr string) (net.Listener, uint16) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := ivpntest.Known(l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // some were closed by their test
	return l, uint16(l.Addr().(*net.TCPAddr).Port)
}

// The system tells whose sockets are those that a connection to 127.0.0.1 reaches.
func TestWhoListens(t *testing.T) {
	testutil.NoLeaks(t)
	checkListeners(t, []listenCase{{"tcp4", "127.0.0.1:0", true}, {"tcp4", "0.0.0.0:0", true}, {"tcp6", "[::1]:0", false}})
}

// A socket of IPv6 that takes IPv4, too, as Go makes it.
func TestWhoListensForBoth(t *testing.T) {
	winerig.SkipUnderWine(t, "the table of IPv6 sockets has no owners")
	testutil.NoLeaks(t)
	checkListeners(t, []listenCase{{"tcp", "[::]:0", true}})
}

// listenCase is where somebody listens, and whether that gets connections to 127.0.0.1.
type listenCase struct {
	network, addr string
	want          bool
}

func checkListeners(t *testing.T, cases []listenCase) {
	t.Helper()
	own := uint32(os.Getpid())
	for _, tt := range cases {
		l, port := listen(t, tt.network, tt.addr)
		pids, err := listenersAt(port)
		if got := slices.Equal(pids, []uint32{own}); got != tt.want || err != nil {
			t.Errorf("%s: got %v, %v; want process %d: %v", tt.addr, pids, err, own, tt.want)
		}
		if err := trustListener(port); (err == nil) != tt.want || err != nil && !errors.Is(err, ErrUntrusted) {
			t.Errorf("%s: got %v; want it trusted: %v", tt.addr, err, tt.want)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := trustListener(port); !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "nobody") {
			t.Errorf("%s, closed: got %v; want ErrUntrusted", tt.addr, err)
		}
	}
}

// The process of a socket is told, also where it is another one.
func TestListenerOfAnotherProcess(t *testing.T) {
	if text := os.Getenv("WEIR_TEST_LISTEN"); text != "" {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp4", text)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := ivpntest.Known(l); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString(l.Addr().String() + "\n")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until its end
		return
	}
	testutil.NoLeaks(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestListenerOfAnotherProcess$")
	cmd.Env = append(os.Environ(), "WEIR_TEST_LISTEN=127.0.0.1:0")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := net.ResolveTCPAddr("tcp4", strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	pids, err := listenersAt(uint16(addr.Port))
	if err != nil || !slices.Equal(pids, []uint32{uint32(cmd.Process.Pid)}) {
		t.Errorf("got %v, %v; want process %d", pids, err, cmd.Process.Pid)
	}
	if err := trustListener(uint16(addr.Port)); err != nil {
		t.Errorf("a program of this user's: got %v; want it trusted", err)
	}
	_ = in.Close() // it ends
	_, _ = out.Read(line)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// Who is no administrator, or is one without the rights, is not the daemon.
func TestTrustUser(t *testing.T) {
	own, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		sid    string
		enough bool
		why    string // "" if trusted
	}{
		{"S-1-5-18", true, ""},
		{own.User.Sid.String(), true, ""},
		{own.User.Sid.String(), false, "without the rights"},
		{"S-1-5-19", true, "want an administrator"}, // LocalService
		{"S-1-5-21-1-2-3-1001", true, "want an administrator"},
	} {
		sid, err := windows.StringToSid(tt.sid)
		if err != nil {
			t.Fatal(err)
		}
		err = trustUser(sid, tt.enough)
		if (err == nil) != (tt.why == "") || err != nil && !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%s, %v: got %v; want %q", tt.sid, tt.enough, err, tt.why)
		}
	}
	for _, pid := range []uint32{0, lastSystemPID, 0xfffffffc} {
		if _, err := openProcess(pid); err == nil {
			t.Errorf("process %d was opened", pid)
		}
	}
}
