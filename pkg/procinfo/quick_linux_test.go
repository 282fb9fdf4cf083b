package procinfo

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/packet"
)

// quickly is FindQuick once no task was made since the process was last looked
// at: other programs of this machine make tasks all the time.
func quickly(t *testing.T, f *Finder, info packet.Info, dir packet.Direction) int {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if p, ok := f.FindQuick(&info, dir); ok {
			return p.PID
		}
		find(t, f, info, dir)
	}
	t.Fatal("a process that was found a moment ago is never found at once")
	return 0
}

func TestFindQuick(t *testing.T) {
	f := newFinder(t)
	target := listener(t, "tcp", "127.0.0.1:0")
	dial := func() packet.Info {
		c, err := net.Dial("tcp", target.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		info := packet.Info{Version: 4, HasUID: true, UID: uint32(os.Geteuid())}
		info.Tuple = packet.Tuple{Local: addrPort(c.LocalAddr()), Remote: addrPort(c.RemoteAddr()), Protocol: packet.TCP}
		return info
	}
	first := dial()
	if p, ok := f.FindQuick(&first, packet.Outbound); ok {
		t.Errorf("got %+v; want no answer about a process never met", p)
	}
	wantPID(t, f, first, packet.Outbound, os.Getpid())
	if got := quickly(t, f, dial(), packet.Outbound); got != os.Getpid() {
		t.Errorf("another connection: got pid %d; want %d", got, os.Getpid())
	}
	if got := quickly(t, f, reversed(first), packet.Inbound); got != os.Getpid() {
		t.Errorf("inbound: got pid %d; want %d", got, os.Getpid())
	}
	before := f.Stats()
	for _, info := range []packet.Info{
		{Version: 4, Tuple: packet.Tuple{Local: target, Remote: first.Remote, Protocol: packet.ICMP}},
		{Version: 4, Tuple: first.Tuple, Fragment: true},
		{Version: 4, Tuple: packet.Tuple{Local: first.Remote, Remote: first.Remote, Protocol: packet.UDP}},
	} {
		if p, ok := f.FindQuick(&info, packet.Outbound); ok {
			t.Errorf("%v: got %+v; want no answer", info.Tuple, p)
		}
	}
	if after := f.Stats(); after.Scans != before.Scans || after.Lookups != before.Lookups {
		t.Errorf("got %d searches, %d lookups; want none counted", after.Scans-before.Scans, after.Lookups-before.Lookups)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := f.FindQuick(&first, packet.Outbound); ok {
		t.Error("a closed Finder answers")
	}
}

// What a quick lookup may not overlook: that the process is another program now,
// or shares the socket.
func TestIntegrationFindQuickSeesChanges(t *testing.T) {
	f := newFinder(t)
	target := listener(t, "tcp", "127.0.0.1:0")
	fork := python(t, `
s = tcp(sys.argv[1]); show(s)
wait()
if os.fork() == 0: wait()
print("forked", flush=True); wait()
`, target.String())
	info := fork.socket(packet.TCP)
	wantPID(t, f, info, packet.Outbound, fork.cmd.Process.Pid)
	if got := quickly(t, f, info, packet.Outbound); got != fork.cmd.Process.Pid {
		t.Fatalf("got pid %d; want %d", got, fork.cmd.Process.Pid)
	}
	fork.proceed()
	fork.line()
	if p, ok := f.FindQuick(&info, packet.Outbound); ok {
		t.Errorf("after a fork got %+v; want no quick answer", p)
	}

	exec := python(t, `
s = tcp(sys.argv[1]); s.set_inheritable(True); show(s)
wait()
os.execvp("cat", ["cat"])
`, target.String())
	info = exec.socket(packet.TCP)
	wantPID(t, f, info, packet.Outbound, exec.cmd.Process.Pid)
	if got := quickly(t, f, info, packet.Outbound); got != exec.cmd.Process.Pid {
		t.Fatalf("got pid %d; want %d", got, exec.cmd.Process.Pid)
	}
	exec.proceed()
	exe := fmt.Sprintf("/proc/%d/exe", exec.cmd.Process.Pid)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if path, err := os.Readlink(exe); err == nil && strings.HasSuffix(path, "/cat") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the program did not become cat")
		}
	}
	if p, ok := f.FindQuick(&info, packet.Outbound); ok {
		t.Errorf("after an exec got %+v; want no quick answer", p)
	}
	if p := find(t, f, info, packet.Outbound); !strings.HasSuffix(p.Path, "/cat") {
		t.Errorf("after an exec got %s; want cat", p.Path)
	}
}
