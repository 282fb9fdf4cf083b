package procinfo

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
)

// inNamespace runs test on a thread in a network namespace of its own, with
// loopback up.
func inNamespace(t *testing.T, test func()) {
	t.Helper()
	testutil.RequireRoot(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// never unlocked: the thread ends, and the namespace with it
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("new network namespace: %v", err)
			return
		}
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Errorf("loopback up: %v: %s", err, out)
			return
		}
		test()
	}()
	<-done
}

// TestIntegrationExec is a process that becomes another program, and then the
// same program with other arguments, with its socket open.
func TestIntegrationExec(t *testing.T) {
	f := newFinder(t)
	to := listener(t, "tcp4", "127.0.0.1:0")
	p := start(t, "/bin/bash", "-c", fmt.Sprintf(`
exec 3<>/dev/tcp/127.0.0.1/%d; echo ready; read x
exec perl -e '$| = 1; print "perl\n"; <STDIN>; exec "perl", "-e", q($| = 1; print "again\n"; <STDIN>)'
`, to.Port()))
	p.line()
	info := onlyClient(t, p, to.String())
	first := wantPID(t, f, info, packet.Outbound, p.cmd.Process.Pid)
	if !strings.HasSuffix(first.Path, "/bash") {
		t.Errorf("got %s; want bash", first.Path)
	}
	p.proceed()
	p.line()
	second := wantPID(t, f, info, packet.Outbound, p.cmd.Process.Pid)
	if !strings.HasSuffix(second.Path, "/perl") || second.StartTicks != first.StartTicks {
		t.Errorf("got %+v; want perl in the process of %+v", second, first)
	}
	p.proceed()
	p.line()
	// the same executable, but another image
	third := wantPID(t, f, info, packet.Outbound, p.cmd.Process.Pid)
	if strings.Contains(strings.Join(third.Args, " "), "exec") || third == second {
		t.Errorf("got %q; want what it runs now", third.Args)
	}
}

func TestIntegrationExecWithoutPagemap(t *testing.T) {
	f := newFinder(t)
	p := start(t, "/bin/bash", "-c", `echo ready; read x; exec perl -e '$| = 1; print "perl\n"; <STDIN>'`)
	p.line()
	got, err := f.known(p.cmd.Process.Pid, 0)
	must(t, err)
	defer got.release()
	sc := f.scratch()
	closeFD(got.image)
	got.image = -1
	if !got.alive(sc) {
		t.Error("got changed; want the same image")
	}
	p.proceed()
	p.line()
	if got.alive(sc) {
		t.Error("got the same image after exec; want changed")
	}
}

// TestIntegrationForkedHolders is a server that forks its workers: all hold the
// socket and run the same image.
func TestIntegrationForkedHolders(t *testing.T) {
	f := newFinder(t)
	p := python(t, `
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen()
for i in range(3):
    if os.fork() == 0:
        time.sleep(1000)
print(addr(l.getsockname()), flush=True)
wait()
if os.fork() == 0:
    os.set_inheritable(l.fileno(), True)
    os.execvp("sleep", ["sleep", "1000"])
became("sleep"); print("forked", flush=True); wait()
`)
	info := tuple(t, packet.TCP, p.line()+" 127.0.0.2:9")
	wantPID(t, f, info, packet.Inbound, p.cmd.Process.Pid)
	wantPID(t, f, info, packet.Inbound, p.cmd.Process.Pid)
	p.proceed()
	p.line()
	if u := wantReason(t, f, info, packet.Inbound, ReasonSeveral); len(u.Candidates) != 5 {
		t.Errorf("got candidates %v; want four of python and sleep", u)
	}
}

// TestIntegrationHandedDown is a socket that another program inherited.
func TestIntegrationHandedDown(t *testing.T) {
	f := newFinder(t)
	to := listener(t, "tcp4", "127.0.0.1:0")
	p := start(t, "/bin/bash", "-c", fmt.Sprintf(`
exec 3<>/dev/tcp/127.0.0.1/%d; echo ready; read x
sleep 1000 & until [[ $(readlink /proc/$!/exe) == */sleep || $(readlink /proc/$!/exe) == *coreutils* ]]; do :; done
echo started; read x`, to.Port()))
	p.line()
	info := onlyClient(t, p, to.String())
	wantPID(t, f, info, packet.Outbound, p.cmd.Process.Pid)
	p.proceed()
	p.line()
	u := wantReason(t, f, info, packet.Outbound, ReasonSeveral)
	if len(u.Candidates) != 2 || !strings.Contains(u.Error(), "sleep[") || !strings.Contains(u.Error(), "bash[") {
		t.Errorf("got %v; want bash and sleep", u)
	}
	wantReason(t, newFinder(t), info, packet.Outbound, ReasonSeveral)
}

func TestIntegrationNewSocketHandedDown(t *testing.T) {
	f := newFinder(t)
	to := listener(t, "tcp4", "127.0.0.1:0").String()
	p := python(t, `
a = tcp(sys.argv[1]); show(a); wait()
b = tcp(sys.argv[1])
os.set_inheritable(b.fileno(), True)
if os.fork() == 0:
    os.execvp("sleep", ["sleep", "1000"])
became("sleep"); show(b); wait()
`, to)
	wantPID(t, f, p.socket(packet.TCP), packet.Outbound, p.cmd.Process.Pid)
	p.proceed()
	// the process is known, and the socket newer than that
	wantReason(t, f, p.socket(packet.TCP), packet.Outbound, ReasonSeveral)
}

func TestIntegrationGone(t *testing.T) {
	f := newFinder(t)
	to := listener(t, "tcp4", "127.0.0.1:0").String()
	p := python(t, `s = tcp(sys.argv[1]); show(s); wait()`, to)
	info := p.socket(packet.TCP)
	wantPID(t, f, info, packet.Outbound, p.cmd.Process.Pid)
	entry := f.procs.acquire(p.cmd.Process.Pid)
	defer entry.release()
	p.kill()
	wantUnknown(t, f, info, packet.Outbound)
	sc := f.scratch()
	// whoever gets the number now is not seen through the old descriptor
	if entry.alive(sc) || entry.holds(3, 1, sc) {
		t.Error("got life from a dead process")
	}
	if _, err := readStat(entry.dir, sc); err == nil {
		t.Error("got stat of a dead process; want an error")
	}
}

// TestPIDReuse plants a dead process under the number of a live one.
func TestPIDReuse(t *testing.T) {
	f := newFinder(t)
	to := listener(t, "tcp4", "127.0.0.1:0").String()
	dead := python(t, `s = tcp(sys.argv[1]); show(s); wait()`, to)
	wantPID(t, f, dead.socket(packet.TCP), packet.Outbound, dead.cmd.Process.Pid)
	live := python(t, `s = tcp(sys.argv[1]); show(s); wait()`, to)
	info := live.socket(packet.TCP)
	ghost := f.procs.acquire(dead.cmd.Process.Pid)
	f.procs.remove(ghost)
	dead.kill()
	stale := *ghost.info.Load()
	stale.PID = live.cmd.Process.Pid
	ghost.info.Store(&stale)
	ghost.pid = live.cmd.Process.Pid
	ghost.refs.Add(1)
	f.procs.insert(ghost)
	ghost.release()
	got := wantPID(t, f, info, packet.Outbound, live.cmd.Process.Pid)
	if got == &stale || got.StartTicks == stale.StartTicks && got.Script == stale.Script {
		t.Errorf("got %+v; want the live process", got)
	}
}

func TestIntegrationDeletedExecutable(t *testing.T) {
	f := newFinder(t)
	to := listener(t, "tcp4", "127.0.0.1:0")
	shell := filepath.Join(t.TempDir(), "shell")
	data, err := os.ReadFile("/bin/bash")
	must(t, err)
	must(t, os.WriteFile(shell, data, 0o755))
	p := start(t, shell, "-c", fmt.Sprintf(`exec 3<>/dev/tcp/127.0.0.1/%d; echo ready; read x`, to.Port()))
	p.line()
	must(t, os.Remove(shell))
	got := find(t, f, onlyClient(t, p, to.String()), packet.Outbound)
	if got.Path != shell+" (deleted)" {
		t.Errorf("got %q; want %q", got.Path, shell+" (deleted)")
	}
}

func TestIntegrationUIDChange(t *testing.T) {
	testutil.RequireRoot(t)
	f := newFinder(t)
	to := listener(t, "tcp4", "127.0.0.1:0").String()
	p := python(t, `
s = tcp(sys.argv[1]); show(s); wait()
os.setuid(1234); print("changed", flush=True); wait()
`, to)
	info := p.socket(packet.TCP)
	before := find(t, f, info, packet.Outbound)
	p.proceed()
	p.line()
	after := wantPID(t, f, info, packet.Outbound, before.PID)
	if before.UID != 0 || after.UID != 1234 {
		t.Errorf("got users %d and %d; want 0 and 1234", before.UID, after.UID)
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func TestDescriptorsAreBounded(t *testing.T) {
	to := listener(t, "tcp4", "127.0.0.1:0").String()
	before := openFDs(t)
	f, err := New(Config{Processes: 3, Sockets: 1})
	must(t, err)
	var ended []*program
	for range 8 {
		p := python(t, `s = tcp(sys.argv[1]); show(s); wait()`, to)
		wantPID(t, f, p.socket(packet.TCP), packet.Outbound, p.cmd.Process.Pid)
		ended = append(ended, p)
	}
	if got := f.Stats().Processes; got > 3 {
		t.Errorf("got %d processes; want 3 at most", got)
	}
	for _, p := range ended {
		p.kill()
		p.stdin.Close()
	}
	must(t, f.Close())
	must(t, f.Close())
	// the listener's connections end on their own time
	for deadline := time.Now().Add(5 * time.Second); openFDs(t) > before+8 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if got := openFDs(t); got > before+8 {
		t.Errorf("got %d descriptors; want %d and those of 8 accepted connections", got, before)
	}
	if _, err := f.Find(context.Background(), &packet.Info{}, packet.Outbound); err != ErrClosed { //nolint:errorlint // itself
		t.Errorf("got %v; want ErrClosed", err)
	}
}

// TestManyAtOnce attacks the cache from many goroutines while processes come
// and go.
func TestManyAtOnce(t *testing.T) {
	f, err := New(Config{Processes: 4})
	must(t, err)
	defer f.Close()
	to := listener(t, "tcp4", "127.0.0.1:0").String()
	var infos []packet.Info
	var pids []int
	for range 6 {
		p := python(t, `s = tcp(sys.argv[1]); show(s); wait()`, to)
		infos, pids = append(infos, p.socket(packet.TCP)), append(pids, p.cmd.Process.Pid)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 60 {
				n := (g + i) % len(infos)
				p, err := f.Find(context.Background(), &infos[n], packet.Outbound)
				if err != nil || p.PID != pids[n] {
					t.Errorf("got %+v, %v; want %d", p, err, pids[n])
					return
				}
			}
		})
	}
	wg.Wait()
}

type ownerFunc func() (Owner, error)

func (f ownerFunc) Owner(context.Context, *packet.Info, packet.Direction) (Owner, error) { return f() }

// Who has a socket is told from who has not, and who has started anew under a number from who had it.
func TestHolds(t *testing.T) {
	f := newFinder(t)
	target := listener(t, "tcp", "127.0.0.1:0")
	c, err := net.Dial("tcp", target.String())
	must(t, err)
	defer c.Close()
	info := packet.Info{Version: 4, Tuple: packet.Tuple{Local: addrPort(c.LocalAddr()), Remote: target, Protocol: packet.TCP}}
	self, err := f.Process(os.Getpid())
	must(t, err)
	other, err := f.Process(start(t, "sleep", "600").cmd.Process.Pid)
	must(t, err)
	before := *self
	before.StartTicks--
	for name, tt := range map[string]struct{ p, want *conn.Process }{"its own": {self, self}, "another": {other, nil}, "an earlier one": {&before, nil}} {
		if got := f.Holds(context.Background(), tt.p, &info, packet.Outbound); got != tt.want {
			t.Errorf("%s: got %+v; want %+v", name, got, tt.want)
		}
	}
}

func TestFirst(t *testing.T) {
	past := &conn.Process{PID: 1 << 30, Path: "/gone"}
	var owner Owner
	var ownerErr error
	f, err := New(Config{First: []SocketOwner{ownerFunc(func() (Owner, error) { return owner, ownerErr })}})
	must(t, err)
	defer f.Close()
	self, err := f.Process(os.Getpid())
	must(t, err)
	info := packet.Info{Tuple: packet.Tuple{Local: ap("127.0.0.1:1"), Remote: ap("127.0.0.2:1"), Protocol: packet.TCP}}
	for _, test := range []struct {
		name  string
		owner Owner
		err   error
		want  *conn.Process
	}{
		{"process", Owner{Process: past}, nil, past},
		{"number", Owner{PID: os.Getpid()}, nil, self},
		{"number and start", Owner{PID: os.Getpid(), StartTicks: self.StartTicks}, nil, self},
		{"reused number", Owner{PID: os.Getpid(), StartTicks: 1}, nil, nil},
		{"no such process", Owner{PID: 1 << 30}, nil, nil},
		{"unknown", Owner{}, ErrUnknown, nil},
		{"one of several", Owner{}, unknown(ReasonSeveral), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			owner, ownerErr = test.owner, test.err
			got, err := f.Find(context.Background(), &info, packet.Outbound)
			if got != test.want || (err == nil) != (test.want != nil) {
				t.Errorf("got %v, %v; want %v", got, err, test.want)
			}
		})
	}
	s := f.Stats()
	if s.Lookups != 7 || s.Found[MethodFirst] != 3 || s.Unknown[ReasonNoSocket] != 3 || s.Unknown[ReasonSeveral] != 1 {
		t.Errorf("got %+v; want 3 found and 3 without a socket", s)
	}
}
