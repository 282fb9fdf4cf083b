package procinfo

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
)

func newFinder(t *testing.T) *Finder {
	t.Helper()
	f, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// program is another process. It prints a line when it has done something and
// goes on when it reads one.
type program struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Reader
	stdin io.WriteCloser
}

func start(t *testing.T, name string, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(name, args...)}
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewReader(stdout)
	t.Cleanup(p.kill)
	return p
}

// kill ends the program and its children; doing it twice is fine.
func (p *program) kill() {
	_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
	_ = p.cmd.Wait()
}

func (p *program) line() string {
	p.t.Helper()
	s, err := p.lines.ReadString('\n')
	if err != nil {
		p.t.Fatalf("program ended: %v", err)
	}
	return strings.TrimSpace(s)
}

func (p *program) proceed() {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, "\n"); err != nil {
		p.t.Fatal(err)
	}
}

// socket reads a line "local remote" and returns it as a connection out.
func (p *program) socket(protocol packet.Protocol) packet.Info {
	p.t.Helper()
	return tuple(p.t, protocol, p.line())
}

func tuple(t *testing.T, protocol packet.Protocol, line string) packet.Info {
	t.Helper()
	local, remote, ok := strings.Cut(line, " ")
	if !ok {
		t.Fatalf("got %q; want two addresses", line)
	}
	info := packet.Info{Version: 4, Tuple: packet.Tuple{Local: ap(local), Remote: ap(remote), Protocol: protocol}}
	if info.Local.Addr().Is6() {
		info.Version = 6
	}
	return info
}

// prelude is for python programs: show prints a socket's addresses, wait waits
// for a line.
const prelude = `
import os, sys, socket, time
def addr(a):
    return ("[%s]:%d" if ":" in a[0] else "%s:%d") % a[:2]
def show(s, remote=None):
    print(addr(s.getsockname()).replace("0.0.0.0", "127.0.0.1"), remote or addr(s.getpeername()), flush=True)
def wait():
    sys.stdin.readline()
def became(name):
    # until a child runs that program
    while True:
        for pid in open("/proc/self/task/%d/children" % os.getpid()).read().split():
            if os.readlink("/proc/%s/exe" % pid).endswith(name): return
        time.sleep(.005)
def tcp(to):
    host, port = to.rsplit(":", 1)
    return socket.create_connection((host, int(port)))
def give(path, s):
    u = socket.socket(socket.AF_UNIX); u.connect(path)
    socket.send_fds(u, [b"x"], [s.fileno()]); u.recv(1)
def take(path):
    # under another number than the giver is likely to have
    gap = [os.open("/dev/null", 0) for _ in range(20)]
    l = socket.socket(socket.AF_UNIX); l.bind(path); l.listen()
    print("ready", flush=True)
    c, _ = l.accept()
    fds = socket.recv_fds(c, 1, 1)[1]; c.send(b"x")
    return socket.socket(fileno=fds[0])
`

// script writes a file that an interpreter can run.
func scriptFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func python(t *testing.T, code string, args ...string) *program {
	t.Helper()
	// not the wrapper of a version manager, which is a shell script at first
	return start(t, pythonPath(t), append([]string{scriptFile(t, "program.py", prelude+code)}, args...)...)
}

func pythonPath(t *testing.T) string {
	t.Helper()
	testutil.RequireTool(t, "python3")
	out, err := exec.Command("python3", "-c", "import os; print(os.readlink('/proc/self/exe'))").Output()
	if err != nil {
		t.Fatalf("python3: %v", err)
	}
	return strings.TrimSpace(string(out))
}

func find(t *testing.T, f *Finder, info packet.Info, dir packet.Direction) *conn.Process {
	t.Helper()
	p, err := f.Find(context.Background(), &info, dir)
	if err != nil {
		t.Fatalf("find %v: %v", info.Tuple, err)
	}
	return p
}

func wantPID(t *testing.T, f *Finder, info packet.Info, dir packet.Direction, pid int) *conn.Process {
	t.Helper()
	p := find(t, f, info, dir)
	if p.PID != pid {
		t.Fatalf("%v %v: got process %d %s %q; want %d", dir, info.Tuple, p.PID, p.Path, p.Args, pid)
	}
	return p
}

func wantReason(t *testing.T, f *Finder, info packet.Info, dir packet.Direction, want Reason) *UnknownError {
	t.Helper()
	p, err := f.Find(context.Background(), &info, dir)
	var u *UnknownError
	if !errors.As(err, &u) || u.Reason != want || !errors.Is(err, ErrUnknown) {
		t.Fatalf("%v %v: got %v, %v; want %v", dir, info.Tuple, p, err, want)
	}
	return u
}

// reversed is the connection as the other end on this host sees it.
func reversed(info packet.Info) packet.Info {
	info.Tuple = info.Tuple.Reverse()
	return info
}

// listener accepts TCP connections on the address and keeps them open.
func listener(t *testing.T, network, address string) netip.AddrPort {
	t.Helper()
	l, err := listenTCP(network, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return addrPort(l.Addr())
}
