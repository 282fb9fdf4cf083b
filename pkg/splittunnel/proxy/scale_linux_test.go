package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/splittunnel/proxy"
)

const (
	manySessions = 10_000
	memoryMost   = 64 << 20
)

// resident is the memory of this process in bytes.
func resident(t testing.TB) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// load is a running testdata/load in the namespace of the test.
type load struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (r *rig) load(program string, args ...string) *load {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: r.t, cmd: exec.CommandContext(ctx, program, args...)}
	l.cmd.Stderr = os.Stderr
	in, err := l.cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	l.in, l.out = in, bufio.NewReader(out)
	if err := l.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { cancel(); l.cmd.Wait() })
	return l
}

func (l *load) ready() {
	l.t.Helper()
	if line, err := l.out.ReadString('\n'); line != "READY\n" {
		l.t.Fatalf("got %q, %v; want READY", line, err)
	}
}

// end closes the input and waits.
func (l *load) end() {
	l.t.Helper()
	l.in.Close()
	if err := l.cmd.Wait(); err != nil {
		l.t.Errorf("load: %v", err)
	}
}

// affordable returns how many sessions of so many descriptors this process may have descriptors for: manySessions, or some less where the limit is
// lower and cannot be raised. The bounds of the test are per session, so they hold for less, too.
func affordable(t testing.TB, each int) int {
	t.Helper()
	const others = 200
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if want := uint64(each*manySessions + others); files.Max < want {
		// Needs CAP_SYS_RESOURCE, which root in a container may lack.
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: want, Max: want}) == nil {
			return manySessions
		}
	}
	n := min(manySessions, (int(min(files.Max, 1<<20))-others)/each)
	if n < manySessions*9/10 {
		testutil.Unavailable(t, "needs %d descriptors for a test that is worth its name; the limit is %d and cannot be raised",
			each*manySessions+others, files.Max)
	}
	if n < manySessions {
		t.Logf("NOT the full %d sessions: the hard limit of %d descriptors allows %d", manySessions, files.Max, n)
	}
	return n
}

// TestIntegrationManySessions has manySessions idle sessions: what they cost, and that nothing of it is left when they have ended.
func TestIntegrationManySessions(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 20,000 connections; -short is set")
	}
	if !testnet.Isolate(t) {
		return
	}
	testutil.NoLeaks(t)
	r := newRig(t)
	r.redirect()
	program := testnet.New(t).Program(t, "./testdata/load")
	r.server.Start(t, program, "serve", families[0].service.String(), "7").WaitOutput(t, "READY", limit)
	r.director.quiet = true
	for _, c := range []struct {
		network     string
		descriptors int
	}{{"tcp", 2}, {"udp", 1}} {
		t.Run(c.network, func(t *testing.T) {
			r.t = t
			sessions := affordable(t, c.descriptors)
			r.start(proxy.Config{MaxTCP: sessions, MaxUDP: sessions})
			warm := r.load(program, "idle", c.network, families[0].at(7).String(), "10")
			warm.ready()
			warm.end()
			r.noSessions(c.network)
			debug.FreeOSMemory()
			fds, memory, goroutines := descriptors(t), resident(t), runtime.NumGoroutine()

			many := r.load(program, "idle", c.network, families[0].at(7).String(), strconv.Itoa(sessions))
			many.ready()
			grown := resident(t) - memory
			if st := r.proxy.Stats(); st.TCP.Open+st.UDP.Open != int64(sessions) {
				t.Errorf("got %d sessions; want %d", st.TCP.Open+st.UDP.Open, sessions)
			}
			if got := descriptors(t) - fds; got > sessions*c.descriptors+20 {
				t.Errorf("got %d descriptors more; want %d for each session", got, c.descriptors)
			}
			if got := runtime.NumGoroutine() - goroutines; got > 5 {
				t.Errorf("got %d goroutines more; want none for sessions", got)
			}
			if most := int64(memoryMost) / manySessions * int64(sessions); grown > most && !raceEnabled {
				t.Errorf("got %d MB more; want at most %d", grown>>20, most>>20)
			}
			t.Logf("%d sessions: %.1f MB, %d descriptors", sessions, float64(grown)/(1<<20), descriptors(t)-fds)
			fmt.Fprintln(many.in, "once more")
			many.ready()
			many.end()
			r.noSessions(c.network)
			r.balanced()
			r.eventually("descriptors are closed", func() bool { return descriptors(t) <= fds+20 })
			if got := r.proxy.Sessions(); len(got) != 0 {
				t.Errorf("%d sessions are left", len(got))
			}
		})
	}
}

// noSessions waits for the end of TCP sessions, and makes it for UDP ones, which nobody closes.
func (r *rig) noSessions(network string) {
	r.t.Helper()
	if network == "udp" {
		if _, err := r.proxy.Cut(r.t.Context(), func(proxy.Request, proxy.Egress) bool { return true }); err != nil {
			r.t.Error(err)
		}
	}
	r.eventually("no session", func() bool { st := r.proxy.Stats(); return st.TCP.Open == 0 && st.UDP.Open == 0 })
}
