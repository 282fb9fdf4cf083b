package procinfo

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/packet"
)

const taker = `s = take(sys.argv[1]); print("taken", flush=True); wait()`

// TestIntegrationMovedSocket is a connection that went to a process of no
// relation over a unix socket, and was closed where it came from.
func TestIntegrationMovedSocket(t *testing.T) {
	f := newFinder(t)
	to := listener(t, "tcp4", "127.0.0.1:0").String()
	path := filepath.Join(t.TempDir(), "u")
	other := python(t, `s = tcp(sys.argv[2]); show(s); s = take(sys.argv[1]); print("taken", flush=True); wait()`, path, to)
	wantPID(t, f, other.socket(packet.TCP), packet.Outbound, other.cmd.Process.Pid)
	other.line()
	giver := python(t, `
s = tcp(sys.argv[2]); show(s); wait()
give(sys.argv[1], s); s.close(); print("given", flush=True); wait()
`, path, to)
	info := giver.socket(packet.TCP)
	wantPID(t, f, info, packet.Outbound, giver.cmd.Process.Pid)
	giver.proceed()
	giver.line()
	// with the finder that knew both, and twice: what is noted must be right too
	wantPID(t, f, info, packet.Outbound, other.cmd.Process.Pid)
	wantPID(t, f, info, packet.Outbound, other.cmd.Process.Pid)
	wantPID(t, newFinder(t), info, packet.Outbound, other.cmd.Process.Pid)
}

// TestIntegrationHandedListener is a listening socket that two processes of no
// relation hold, under different numbers.
func TestIntegrationHandedListener(t *testing.T) {
	f := newFinder(t)
	path := filepath.Join(t.TempDir(), "u")
	other := python(t, taker, path)
	other.line()
	giver := python(t, `
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(); print(addr(l.getsockname()), flush=True); wait()
give(sys.argv[1], l); print("given", flush=True); wait()
`, path)
	info := tuple(t, packet.TCP, giver.line()+" 127.0.0.2:9")
	wantPID(t, f, info, packet.Inbound, giver.cmd.Process.Pid)
	giver.proceed()
	giver.line()
	u := wantReason(t, newFinder(t), info, packet.Inbound, ReasonSeveral)
	if len(u.Candidates) != 2 {
		t.Errorf("got candidates %v; want both processes", u)
	}
	// who has seen it with one holder believes that for a while
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, err := f.Find(context.Background(), &info, packet.Inbound)
		if errors.As(err, &u) && u.Reason == ReasonSeveral {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %v for ever; want several owners", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	other.kill()
	wantPID(t, newFinder(t), info, packet.Inbound, giver.cmd.Process.Pid)
}

// TestIntegrationSocketActivation is a socket that a service manager made and
// keeps, and that the service has as descriptor 3.
func TestIntegrationSocketActivation(t *testing.T) {
	for _, test := range []struct{ name, make string }{
		{"listener", `
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(); peer = "127.0.0.2:9"`},
		{"datagrams", `
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0)); peer = "127.0.0.2:9"`},
		{"connection", `
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen()
c = socket.create_connection(l.getsockname()); s, a = l.accept(); peer = addr(a)`},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFinder(t)
			manager := python(t, `gap = [os.open("/dev/null", 0) for _ in range(9)]`+test.make+`
show(s, peer); wait()
if os.fork() == 0:
    os.dup2(s.fileno(), 3); s.close(); os.execvp("sleep", ["sleep", "1000"])
became("sleep"); print("started", flush=True); wait()
`)
			protocol := packet.TCP
			if test.name == "datagrams" {
				protocol = packet.UDP
			}
			info := manager.socket(protocol)
			wantPID(t, f, info, packet.Inbound, manager.cmd.Process.Pid)
			manager.proceed()
			manager.line()
			u := wantReason(t, newFinder(t), info, packet.Inbound, ReasonSeveral)
			if len(u.Candidates) != 2 {
				t.Errorf("got candidates %v; want the manager and the service", u)
			}
		})
	}
}

// TestIntegrationWorkers is a server whose workers hold its socket under
// another number: one program, so one owner.
func TestIntegrationWorkers(t *testing.T) {
	f := newFinder(t)
	p := python(t, `
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen()
for i in range(2):
    if os.fork() == 0:
        os.dup2(l.fileno(), 40 + i); l.close(); print("worker", flush=True); time.sleep(1000)
wait(); print(addr(l.getsockname()), flush=True); wait()
`)
	p.line()
	p.line()
	p.proceed()
	info := tuple(t, packet.TCP, p.line()+" 127.0.0.2:9")
	wantPID(t, f, info, packet.Inbound, p.cmd.Process.Pid)
	scans := f.Stats().Scans
	wantPID(t, f, info, packet.Inbound, p.cmd.Process.Pid)
	if got := f.Stats().Scans; got != scans {
		t.Errorf("got %d searches; want %d: the owner is known", got, scans)
	}
}

// TestIntegrationDetached is a child that outlives its parent with the socket.
func TestIntegrationDetached(t *testing.T) {
	to := listener(t, "tcp4", "127.0.0.1:0").String()
	p := python(t, `
s = tcp(sys.argv[1]); show(s); sys.stdout.flush()
pid = os.fork()
if pid == 0:
    wait(); print(os.getpid(), flush=True); time.sleep(1000)
os._exit(0)
`, to)
	info := p.socket(packet.TCP)
	f := newFinder(t)
	p.proceed()
	want := p.line()
	if got := find(t, f, info, packet.Outbound); want != strconv.Itoa(got.PID) {
		t.Errorf("got process %d; want %s", got.PID, want)
	}
}

// TestIntegrationConnecting is a connection that is not made yet, as it is when
// its first packet waits for us.
func TestIntegrationConnecting(t *testing.T) {
	inNamespace(t, func() {
		// packets come back from loopback, are for nobody, and nobody says so
		out, err := exec.Command("sh", "-c",
			"ip addr add 10.99.0.1/32 dev lo && ip route add 10.99.0.2/32 dev lo src 10.99.0.1").CombinedOutput()
		if err != nil {
			t.Errorf("route to nowhere: %v: %s", err, out)
			return
		}
		f := newFinder(t)
		p := python(t, `
s = socket.socket(); s.setblocking(False); s.connect_ex(("10.99.0.2", 80)); show(s, "10.99.0.2:80"); wait()
if os.fork() == 0:
    os.set_inheritable(s.fileno(), True); os.execvp("sleep", ["sleep", "1000"])
became("sleep"); print("started", flush=True); wait()
s.close(); print("closed", flush=True); wait()
`)
		info := p.socket(packet.TCP)
		wantPID(t, f, info, packet.Outbound, p.cmd.Process.Pid)
		p.proceed()
		p.line()
		wantReason(t, newFinder(t), info, packet.Outbound, ReasonSeveral)
		p.proceed()
		p.line()
		got := find(t, newFinder(t), info, packet.Outbound)
		if got.PID == p.cmd.Process.Pid {
			t.Errorf("got %d; want the child, which alone has it now", got.PID)
		}
	})
}
