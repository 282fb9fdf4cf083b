package procinfo

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/packet"
)

// TestIntegrationMapped is IPv6 sockets that talk IPv4.
func TestIntegrationMapped(t *testing.T) {
	ways(t, func(t *testing.T, f *Finder) {
		to := listener(t, "tcp", "[::]:0")
		p := python(t, `
port = int(sys.argv[1]); plain = lambda a: addr(a).replace("::ffff:", "").replace("[", "").replace("]", "")
keep = []
for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
    s = socket.socket(socket.AF_INET6, kind); s.connect(("::ffff:127.0.0.1", port)); keep.append(s)
    print(plain(s.getsockname()), plain(s.getpeername()), flush=True)
wait()
`, fmt.Sprint(to.Port()))
		stream, datagram := p.socket(packet.TCP), p.socket(packet.UDP)
		wantPID(t, f, stream, packet.Outbound, p.cmd.Process.Pid)
		wantPID(t, f, reversed(stream), packet.Inbound, os.Getpid())
		wantPID(t, f, datagram, packet.Outbound, p.cmd.Process.Pid)
		wantPID(t, f, datagram, packet.Inbound, p.cmd.Process.Pid)
	})
}

// TestIntegrationRival is a connected datagram socket, and another process'
// socket without a peer on the same port: both may send to that peer.
func TestIntegrationRival(t *testing.T) {
	ways(t, func(t *testing.T, f *Finder) {
		const program = `
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], int(sys.argv[2])))
if sys.argv[3]: s.connect(("127.0.0.1", 9))
show(s, "127.0.0.1:9"); wait()
`
		peer := python(t, program, "127.0.0.1", "0", "peer")
		info := peer.socket(packet.UDP)
		info.HasUID, info.UID = true, uint32(os.Geteuid())
		wantPID(t, f, info, packet.Outbound, peer.cmd.Process.Pid)
		rival := python(t, program, "", fmt.Sprint(info.Local.Port()), "")
		rival.line()
		wantReason(t, f, info, packet.Outbound, ReasonSeveral)
		// to whom the kernel delivers is certain
		wantPID(t, f, info, packet.Inbound, peer.cmd.Process.Pid)
		rival.kill()
		wantPID(t, newFinder(t), info, packet.Outbound, peer.cmd.Process.Pid)
	})
}

// TestIntegrationEnded is connections of processes that ended before anybody
// asked: the kernel has a socket without an owner, or none.
func TestIntegrationEnded(t *testing.T) {
	ways(t, func(t *testing.T, f *Finder) {
		to := listener(t, "tcp4", "127.0.0.1:0").String()
		p := python(t, `s = tcp(sys.argv[1]); show(s)`, to)
		info := p.socket(packet.TCP)
		_ = p.cmd.Wait() // how it ended does not matter
		wantUnknown(t, f, info, packet.Outbound)
		q := python(t, `
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("127.0.0.1", 9)); show(s)
`)
		info = q.socket(packet.UDP)
		_ = q.cmd.Wait() // as above
		wantReason(t, f, info, packet.Outbound, ReasonNoSocket)
	})
}

// TestIntegrationKernelSocket is a socket that the kernel made for itself.
func TestIntegrationKernelSocket(t *testing.T) {
	inNamespace(t, func() {
		for _, command := range []string{
			"ip link add vx type vxlan id 7 dstport 4789 local 127.0.0.1 dev lo", "ip link set vx up",
		} {
			if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
				t.Logf("no VXLAN in this kernel: %s", out)
				return
			}
		}
		f := newFinder(t)
		info := packet.Info{Version: 4, Tuple: packet.Tuple{
			Local: ap("127.0.0.1:4789"), Remote: ap("127.0.0.2:4789"), Protocol: packet.UDP,
		}}
		wantReason(t, f, info, packet.Inbound, ReasonNoProcess)
		scans := f.Stats().Scans
		wantReason(t, f, info, packet.Outbound, ReasonNoProcess)
		if got := f.Stats().Scans; got != scans {
			t.Errorf("got %d searches; want %d: it is known that nobody has it", got, scans)
		}
	})
}

// TestIntegrationClosing is a socket that is about to go: its program has no descriptor any more. One on its way to another process
// looks like it, and so do those of the kernel, whose packets have no user.
func TestIntegrationClosing(t *testing.T) {
	f := newFinder(t)
	c, err := net.Dial("udp4", "127.0.0.1:9")
	must(t, err)
	info := packet.Info{Version: 4, Tuple: packet.Tuple{
		Local: ap(c.LocalAddr().String()), Remote: ap("127.0.0.1:9"), Protocol: packet.UDP,
	}}
	underway(t, c.(*net.UDPConn))
	wantReason(t, f, info, packet.Outbound, ReasonNoProcess)
	info.HasUID, info.UID = true, uint32(os.Geteuid())
	for range 2 { // found out, and remembered
		if u := wantReason(t, f, info, packet.Outbound, ReasonGone); !u.Gone() {
			t.Error("a program that closed its socket is not gone")
		}
	}
	wantReason(t, f, info, packet.Inbound, ReasonNoProcess)
}

// underway sends the only descriptor of a socket to where nobody takes it.
func underway(t *testing.T, c *net.UDPConn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	file, err := c.File()
	must(t, err)
	must(t, unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(int(file.Fd())), nil, 0))
	must(t, errors.Join(file.Close(), c.Close(), unix.Close(pair[0])))
	t.Cleanup(func() { must(t, unix.Close(pair[1])) })
}

func TestIntegrationKernelThread(t *testing.T) {
	f := newFinder(t)
	sc := f.scratch()
	pids, err := f.pids(sc)
	must(t, err)
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		stat, statErr := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || statErr != nil || len(b) > 0 || strings.Contains(string(stat), ") Z ") {
			continue
		}
		p, err := f.Process(pid)
		must(t, err)
		if p.Path != "" || p.Args != nil || p.PID != pid || p.StartTicks == 0 && pid > 2 {
			t.Errorf("got %+v; want a process without a program", p)
		}
		return
	}
	testutil.Unavailable(t, "no kernel threads are to be seen here")
}

// TestIntegrationRawOfKernel is packets that the kernel makes while a program
// has a raw socket that could have sent them.
func TestIntegrationRawOfKernel(t *testing.T) {
	testutil.RequireRoot(t)
	f := newFinder(t)
	p := python(t, `s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); print("ready", flush=True); wait()`)
	p.line()
	info := packet.Info{Version: 4, ICMPType: 3, Tuple: packet.Tuple{
		Local: ap("127.0.0.1:0"), Remote: ap("127.0.0.2:0"), Protocol: packet.ICMP,
	}}
	wantReason(t, f, info, packet.Outbound, ReasonNoProcess)
	info.HasUID, info.UID = true, uint32(os.Geteuid())
	wantPID(t, f, info, packet.Outbound, p.cmd.Process.Pid)
}

// TestIntegrationOtherNamespace is two sockets on one address, one of them in
// another network namespace.
func TestIntegrationOtherNamespace(t *testing.T) {
	testutil.RequireRoot(t)
	ways(t, func(t *testing.T, f *Finder) {
		l, err := listenTCP("tcp4", "127.0.0.1:0")
		must(t, err)
		defer l.Close()
		info := packet.Info{Version: 4, Tuple: packet.Tuple{
			Local: addrPort(l.Addr()), Remote: ap("127.0.0.2:1"), Protocol: packet.TCP,
		}}
		program := scriptFile(t, "other.py", prelude+`
l = socket.socket(); l.bind(("127.0.0.1", int(sys.argv[1]))); l.listen(); print("ready", flush=True); wait()
`)
		other := start(t, "unshare", "-n", pythonPath(t), program, fmt.Sprint(info.Local.Port()))
		other.line()
		wantPID(t, f, info, packet.Inbound, os.Getpid())
		must(t, l.Close())
		wantReason(t, f, info, packet.Inbound, ReasonNoSocket)
	})
}

// TestIntegrationPIDReuse gives the number of a process that has ended to
// another one, which runs the same program.
func TestIntegrationPIDReuse(t *testing.T) {
	testutil.RequireRoot(t)
	f := newFinder(t)
	to := listener(t, "tcp4", "127.0.0.1:0").String()
	const client = `s = tcp(sys.argv[1]); show(s); wait()`
	first := python(t, client, to)
	before := wantPID(t, f, first.socket(packet.TCP), packet.Outbound, first.cmd.Process.Pid)
	first.kill()
	again := filepath.Join(t.TempDir(), "again.py")
	must(t, os.WriteFile(again, []byte(prelude+client), 0o600))
	second := python(t, `
import ctypes, struct
number = ctypes.c_int(int(sys.argv[1]))
clone3, sigchld = 435, 17
args = ctypes.create_string_buffer(struct.pack("11Q", 0, 0, 0, 0, sigchld, 0, 0, 0, ctypes.addressof(number), 1, 0))
pid = ctypes.CDLL(None, use_errno=True).syscall(clone3, args, 88)
if pid == 0:
    os.execv(sys.executable, [sys.executable, sys.argv[2], sys.argv[3]])
print(pid, flush=True)
if pid > 0: os.waitpid(pid, 0)
`, strconv.Itoa(before.PID), again, to)
	switch line := second.line(); line {
	case strconv.Itoa(before.PID):
	case "-1":
		testutil.Unavailable(t, "the number is taken, or this kernel does not let us choose")
	default:
		t.Fatalf("got %q; want process %d", line, before.PID)
	}
	after := wantPID(t, f, second.socket(packet.TCP), packet.Outbound, before.PID)
	if after == before || after.StartTicks <= before.StartTicks || after.Script != again {
		t.Errorf("got %+v; want the second process, not %+v", after, before)
	}
}

// TestIntegrationThread is a socket of a thread that is not the first.
func TestIntegrationThread(t *testing.T) {
	ways(t, func(t *testing.T, f *Finder) {
		to := listener(t, "tcp4", "127.0.0.1:0").String()
		p := python(t, `
import threading
def work():
    s = tcp(sys.argv[1]); show(s); wait()
th = threading.Thread(target=work); th.start(); th.join()
`, to)
		wantPID(t, f, p.socket(packet.TCP), packet.Outbound, p.cmd.Process.Pid)
	})
}

// TestIntegrationManyDescriptors is a process whose sockets are not where they
// were last time.
func TestIntegrationManyDescriptors(t *testing.T) {
	f := newFinder(t)
	to := listener(t, "tcp4", "127.0.0.1:0").String()
	p := python(t, `
keep = []
for i in range(6):
    keep += [os.open("/dev/null", 0) for _ in range(37)]
    keep.append(tcp(sys.argv[1])); show(keep[-1])
wait()
`, to)
	for range 6 {
		wantPID(t, f, p.socket(packet.TCP), packet.Outbound, p.cmd.Process.Pid)
	}
}
