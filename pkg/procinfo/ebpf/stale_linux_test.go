//go:build amd64 || arm64

package ebpf_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
	"github.com/weirfw/weir/pkg/procinfo/ebpf"
)

// py starts a Python program that goes on with each line it reads.
func py(t *testing.T, code string, args ...string) *actor {
	t.Helper()
	const prelude = `
import os, socket, sys, time
def say(text): os.write(1, (text + "\n").encode())
def wait(): sys.stdin.readline()
def udp(port, reuse=False):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if reuse: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("0.0.0.0", port))
    return s
far = ("10.9.0.7", 9)
`
	return start(t, exec.Command(pythonPath(t), append([]string{"-c", prelude + code}, args...)...))
}

func (a *actor) goOn(t *testing.T) {
	t.Helper()
	if _, err := a.stdin.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
}

// fromPort is what a datagram from 10.9.0.1 looks like.
func fromPort(t *testing.T, port string) packet.Info {
	t.Helper()
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return packet.Info{Version: 4, Direction: packet.Outbound, HasUID: true, Tuple: packet.Tuple{
		Local: netip.AddrPortFrom(netip.MustParseAddr("10.9.0.1"), uint16(n)), Remote: netip.MustParseAddrPort("10.9.0.7:9"), Protocol: packet.UDP,
	}}
}

func wantOwner(t *testing.T, tracker *ebpf.Tracker, info packet.Info, want *actor) {
	t.Helper()
	o, err := tracker.Owner(context.Background(), &info, packet.Outbound)
	if err != nil || o.PID != want.cmd.Process.Pid {
		t.Errorf("got %+v, %v; want process %d", o, err, want.cmd.Process.Pid)
	}
}

func wantUnknown(t *testing.T, tracker *ebpf.Tracker, info packet.Info, want procinfo.Reason) {
	t.Helper()
	o, err := tracker.Owner(context.Background(), &info, packet.Outbound)
	if u, ok := errors.AsType[*procinfo.UnknownError](err); !ok || u.Reason != want {
		t.Errorf("got %+v, %v; want %v", o, err, want)
	}
}

// What a program that lives left behind on a port is not who sends from it now.
func TestIntegrationStaleDatagrams(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	sink(t)
	tracker := newTracker(t, ebpf.Config{Cgroup: ownCgroup(t)})
	earlier := py(t, `
s = udp(0); port = s.getsockname()[1]
s.connect(far); s.send(b"x"); say("PORT %d" % port); wait(); s.close(); say("CLOSED"); wait()`)
	port := earlier.waitFor(t, "PORT ")
	info := fromPort(t, port)
	wantOwner(t, tracker, info, earlier)
	earlier.goOn(t)
	earlier.waitFor(t, "CLOSED")
	later := py(t, `s = udp(int(sys.argv[1])); s.sendto(b"x", far); say("SENT"); wait()`, port)
	later.waitFor(t, "SENT")
	wantOwner(t, tracker, info, later)
	info.UID = 4711 // a packet of somebody else
	wantUnknown(t, tracker, info, procinfo.ReasonNoSocket)

	one := py(t, `
s = udp(0, True); port = s.getsockname()[1]
s.connect(far); s.send(b"x"); say("PORT %d" % port); wait()`)
	port = one.waitFor(t, "PORT ")
	other := py(t, `s = udp(int(sys.argv[1]), True); s.sendto(b"x", far); say("SENT"); wait()`, port)
	other.waitFor(t, "SENT")
	info = fromPort(t, port)
	wantUnknown(t, tracker, info, procinfo.ReasonSeveral)
	f := finder(t, procinfo.Config{First: []procinfo.SocketOwner{tracker}})
	_, err := f.Find(context.Background(), &info, packet.Outbound)
	if u, ok := errors.AsType[*procinfo.UnknownError](err); !ok || u.Reason != procinfo.ReasonSeveral {
		t.Errorf("got %v; want several", err)
	}
}

// told collects what a Tracker tells.
type told struct {
	mu    sync.Mutex // guards what follows
	ends  map[packet.Tuple]int
	moved []packet.Tuple
}

// ReportUsage implements intercept.Traffic.
func (d *told) ReportUsage([]intercept.Usage) {}

// ReportEnd implements intercept.Traffic.
func (d *told) ReportEnd(e intercept.End) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ends[e.Tuple]++
}

func (d *told) noteMoved(c packet.Tuple) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moved = append(d.moved, c)
}

func (d *told) ended(c packet.Tuple) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ends[c] > 0
}

func listen(t *testing.T, tracker *ebpf.Tracker) *told {
	t.Helper()
	d := &told{ends: make(map[packet.Tuple]int)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tracker.Run(ctx, nil, ebpf.Reports{Traffic: d, Moved: d.noteMoved}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d
}

// A second socket that wants the addresses of a connection does not end it.
func TestIntegrationEndOfRefusedTwin(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	tracker := newTracker(t, ebpf.Config{Cgroup: ownCgroup(t)})
	told := listen(t, tracker)
	p := py(t, `
def tcp():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return s
l = tcp(); l.bind(("127.0.0.1", 0)); l.listen(); to = l.getsockname()
a = tcp(); a.bind(("127.0.0.1", 0)); a.connect(to); own = a.getsockname()
b = tcp(); b.bind(own)
try: b.connect(to)
except OSError as e: say("REFUSED %d" % e.errno)
c = tcp(); c.bind(("127.0.0.1", 0)); last = c.getsockname()
try: c.connect(("127.0.0.1", 1))
except ConnectionRefusedError: pass
say("PORTS %d %d %d" % (own[1], to[1], last[1])); wait()`)
	if n := p.waitFor(t, "REFUSED "); n != strconv.Itoa(int(unix.EADDRNOTAVAIL)) {
		t.Fatalf("got error %s; want EADDRNOTAVAIL", n)
	}
	var own, to, last uint16
	if _, err := fmt.Sscan(p.waitFor(t, "PORTS "), &own, &to, &last); err != nil {
		t.Fatal(err)
	}
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port) }
	eventually(t, "the end of a connection that nobody answers is told", func() bool {
		return told.ended(packet.Tuple{Local: at(last), Remote: at(1), Protocol: packet.TCP})
	})
	if told.ended(packet.Tuple{Local: at(own), Remote: at(to), Protocol: packet.TCP}) {
		t.Error("the end of a connection was told that goes on")
	}
}

// Processes that take turns on one socket are news once.
func TestIntegrationTakingTurns(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	sink(t)
	tracker := newTracker(t, ebpf.Config{Cgroup: ownCgroup(t)})
	told := listen(t, tracker)
	begin := time.Now()
	p := py(t, `
s = udp(0); a, b = os.pipe(); c, d = os.pipe()
mine, its = (a, d) if os.fork() else (c, b)
if mine == a: os.write(b, b"x")
for _ in range(300):
    os.read(mine, 1); s.sendto(b"x", far); os.write(its, b"x")
if mine == a: say("PORT %d" % s.getsockname()[1])
wait()`)
	port := p.waitFor(t, "PORT ")
	info := fromPort(t, port)
	want := packet.Tuple{Local: netip.AddrPortFrom(netip.IPv4Unspecified(), info.Local.Port()), Remote: info.Remote, Protocol: packet.UDP}
	eventually(t, "it is told", func() bool {
		told.mu.Lock()
		defer told.mu.Unlock()
		return len(told.moved) > 0
	})
	told.mu.Lock()
	defer told.mu.Unlock()
	if most := 1 + int(time.Since(begin)/(2*time.Second)); len(told.moved) > most || told.moved[0] != want {
		t.Errorf("got %d, the first %v; want %v, %d times at most", len(told.moved), told.moved[0], want, most)
	}
}

// What the kernel has no room to tell is counted.
func TestIntegrationLostEvents(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	tracker := newTracker(t, ebpf.Config{Cgroup: ownCgroup(t)})
	p := py(t, `
for _ in range(17000):
    s = socket.socket()
    try: s.connect(("127.0.0.1", 1))
    except OSError: pass
    s.close()
say("DONE"); wait()`)
	p.waitFor(t, "DONE")
	if s := tracker.Stats(); s.LostEvents == 0 {
		t.Errorf("got %+v; want lost events", s)
	}
}

// A program that was mounted over another and has ended is not the other one, and of one whose control group is gone nobody says what app
// it was.
func TestIntegrationForgedPathOfEnded(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	testutil.RequireTool(t, "unshare")
	sink(t)
	group := ownCgroup(t)
	tracker := newTracker(t, ebpf.Config{Cgroup: group})
	f := finder(t, procinfo.Config{First: []procinfo.SocketOwner{tracker}})
	python := pythonPath(t)
	const program = `import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b"x", ("10.9.0.7", 9)); print(s.getsockname()[1])`
	ended := func(script string) *conn.Process {
		t.Helper()
		cmd := exec.Command("sh", "-ec", script)
		cmd.Env = append(os.Environ(), "PROGRAM="+program, "PYTHON="+python, "PYTHONHOME="+filepath.Dir(filepath.Dir(python)), "GROUP="+filepath.Join(group, "gone"))
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		info := fromPort(t, string(out[:len(out)-1]))
		p, err := f.Find(context.Background(), &info, packet.Outbound)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := ended(`exec "$PYTHON" -c "$PROGRAM"`); p.Path != python || p.InnerPath != "" || p.App.ID == "" {
		t.Errorf("got %+v; want %s", p, python)
	}
	const forge = `exec unshare --mount --propagation private sh -ec 'mount --bind "$PYTHON" /usr/bin/true; exec /usr/bin/true -c "$PROGRAM"'`
	if p := ended(forge); p.Path != "" || p.InnerPath != "/usr/bin/true" ||
		p.App.ID != "sandbox:/usr/bin/true" {
		t.Errorf("got %+v; want no path of the host", p)
	}
	p := ended(`mkdir "$GROUP"; sh -ec 'echo 0 >"$GROUP/cgroup.procs"; exec "$PYTHON" -c "$PROGRAM"'; rmdir "$GROUP"`)
	if p.Path != python || p.Cgroup != "" || p.App != (conn.App{}) {
		t.Errorf("got %+v; want nothing said of the app", p)
	}
}
