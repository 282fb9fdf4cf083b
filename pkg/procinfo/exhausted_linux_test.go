package procinfo

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
)

// exhaustedVar tells the test binary that it is alone and may use up its descriptors.
const exhaustedVar = "WEIR_PROCINFO_EXHAUSTED"

// TestWithoutDescriptors gives a Finder ever more descriptors until it can do its work. What it answers is right or an error
// that says what is missing, and it remembers nothing of the latter.
func TestWithoutDescriptors(t *testing.T) {
	if os.Getenv(exhaustedVar) != "" {
		testWithoutDescriptors(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestWithoutDescriptors$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), exhaustedVar+"=yes")
	out, err := cmd.CombinedOutput()
	t.Logf("alone:\n%s", out)
	if err != nil {
		t.Error(err)
	}
}

func testWithoutDescriptors(t *testing.T) {
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	limit.Cur = 256
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	for _, test := range []struct {
		name, code string
		dir        packet.Direction
		several    bool
	}{
		{"connection", `
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(); s = tcp(addr(l.getsockname())); show(s); wait()
`, packet.Outbound, false},
		{"listener of a server and its worker", `
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen()
if os.fork() == 0:
    os.dup2(l.fileno(), 40); l.close(); print("ready", flush=True); time.sleep(1000)
wait(); print(addr(l.getsockname()), "127.0.0.2:9", flush=True); wait()
`, packet.Inbound, false},
		{"listener of a manager and its service", `
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen()
if os.fork() == 0:
    os.dup2(l.fileno(), 60); l.close(); os.execvp("sleep", ["sleep", "1000"])
became("sleep"); print("ready", flush=True); wait(); print(addr(l.getsockname()), "127.0.0.2:9", flush=True); wait()
`, packet.Inbound, true},
		{"connection of a service and a shell", `
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(); s = tcp(addr(l.getsockname()))
if os.fork() == 0:
    os.dup2(s.fileno(), 50); s.close(); os.execvp("sleep", ["sleep", "1000"])
became("sleep"); print("ready", flush=True); wait(); show(s); wait()
`, packet.Outbound, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := python(t, test.code)
			if test.name != "connection" {
				p.line()
				p.proceed()
			}
			want := answer{pid: p.cmd.Process.Pid, parent: os.Getpid(), several: test.several}
			want.improve(t, p.socket(packet.TCP), test.dir)
		})
	}
}

// answer is what a Finder has to say.
type answer struct {
	pid, parent int
	several     bool // and not the one with pid
}

func (a answer) matches(p *conn.Process, err error) bool {
	var u *UnknownError
	if a.several {
		return errors.As(err, &u) && u.Reason == ReasonSeveral && len(u.Candidates) == 2
	}
	return err == nil && p.PID == a.pid && p.Parent != nil && p.Parent.PID == a.parent && p.Parent.Parent != nil
}

// improve asks with one more free descriptor each time, and at once again with all.
func (a answer) improve(t *testing.T, info packet.Info, dir packet.Direction) {
	const most = 200
	short := 0
	for free := range most {
		f := newFinder(t)
		release := leave(t, free)
		p, err := f.Find(context.Background(), &info, dir)
		release()
		again, againErr := f.Find(context.Background(), &info, dir)
		must(t, f.Close())
		if !a.matches(again, againErr) {
			t.Fatalf("got %v, %v once there were descriptors; want %+v (before: %v, %v with %d)", again, againErr, a, p, err, free)
		}
		if a.matches(p, err) {
			t.Logf("%d descriptors are enough", free)
			if short == 0 {
				t.Error("got the answer without descriptors; want the test to use them up")
			}
			return
		}
		if short++; !errors.Is(err, unix.EMFILE) || errors.Is(err, ErrUnknown) {
			t.Fatalf("got %v, %v with %d descriptors; want EMFILE", p, err, free)
		}
	}
	t.Errorf("got no answer with %d descriptors", most)
}

// leave uses up all descriptors but some.
func leave(t *testing.T, free int) (release func()) {
	t.Helper()
	var held []int
	for {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
		if errors.Is(err, unix.EMFILE) {
			break
		}
		must(t, err)
		held = append(held, fd)
	}
	if free > len(held) {
		t.Fatalf("got %d free descriptors; want %d", len(held), free)
	}
	for _, fd := range held[len(held)-free:] {
		closeFD(fd)
	}
	held = held[:len(held)-free]
	return func() {
		for _, fd := range held {
			closeFD(fd)
		}
	}
}
