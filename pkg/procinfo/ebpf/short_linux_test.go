//go:build amd64 || arm64

package ebpf_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
	"github.com/weirfw/weir/pkg/procinfo/ebpf"
)

// burst builds the program that makes many processes.
func burst(t *testing.T) string {
	t.Helper()
	testutil.RequireTool(t, "gcc")
	path := filepath.Join(t.TempDir(), "burst")
	if out, err := exec.Command("gcc", "-O2", "-static", "-o", path, "testdata/burst.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// sink is a network that takes everything and answers nothing.
func sink(t *testing.T) {
	t.Helper()
	sh(t, `ip link add weir-sink type veth peer name weir-gone; ip link set weir-gone up; ip link set weir-sink arp off up; ip address add 10.9.0.1/16 dev weir-sink`)
}

// tally compares what the finder says about processes that have ended with what they said of themselves.
type tally struct{ right, wrong, unknown, executed int }

// check asks about a line of burst.
func (c *tally) check(t *testing.T, f *procinfo.Finder, program, line string, every int) {
	t.Helper()
	var n, pid, port int
	var protocol string
	if _, err := fmt.Sscan(line, &n, &pid, &protocol, &port); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	info := packet.Info{Version: 4, Direction: packet.Outbound, HasUID: true}
	info.Tuple = packet.Tuple{
		Local:    netip.AddrPortFrom(netip.MustParseAddr("10.9.0.1"), uint16(port)),
		Remote:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, byte((n + 2) >> 8), byte(n + 2)}), 9),
		Protocol: packet.UDP,
	}
	if protocol == "tcp" {
		info.Protocol = packet.TCP
	}
	p, err := f.Find(context.Background(), &info, packet.Outbound)
	switch {
	case errors.Is(err, procinfo.ErrUnknown):
		c.unknown++
	case err != nil:
		t.Fatal(err)
	case p.PID != pid || p.Path != program || n%every == 0 && (len(p.Args) != 2 || p.Args[1] != strconv.Itoa(n)):
		c.wrong++
		t.Errorf("%s: got process %d %s %q", line, p.PID, p.Path, p.Args)
	default:
		c.right++
		if n%every == 0 {
			c.executed++
		}
	}
}

// play runs burst and asks about each process as soon as it has said what it did, which is when most have ended, and their numbers
// may be in use again.
func play(t *testing.T, f *procinfo.Finder, program string, total, every, ahead int) (c tally) {
	t.Helper()
	cmd := exec.Command(program, strconv.Itoa(total), strconv.Itoa(every), strconv.Itoa(ahead))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		c.check(t, f, program, lines.Text(), every)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestIntegrationShortLived(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	const total, every = 10_000, 4
	program := burst(t)
	sink(t)
	group := ownCgroup(t)
	tracker := newTracker(t, ebpf.Config{Cgroup: group})
	f := finder(t, procinfo.Config{First: []procinfo.SocketOwner{tracker}})
	c := play(t, f, program, total, every, 8)
	t.Logf("%+v of %d; %+v", c, total, tracker.Stats())
	if c.right+c.unknown != total || c.wrong != 0 || c.unknown > total/1000 {
		t.Errorf("got %+v; want %d processes, none wrong, at most %d unknown", c, total, total/1000)
	}
}

// reuseVar tells a test binary that it is in a small pid namespace.
const reuseVar = "WEIR_SMALL_PIDS"

// In a pid namespace of a hundred numbers each is used by many processes, often within the same tick of /proc's clock.
func TestIntegrationPIDReuse(t *testing.T) {
	if os.Getenv(reuseVar) == "" {
		inSmallPIDNamespace(t)
		return
	}
	const total = 3000
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/proc/sys/kernel/pid_max", []byte("420"), 0); err != nil {
		t.Fatal(err)
	}
	program := burst(t)
	sh(t, "ip link set lo up")
	sink(t)
	tracker := newTracker(t, ebpf.Config{Cgroup: ownCgroup(t)})
	f := finder(t, procinfo.Config{First: []procinfo.SocketOwner{tracker}})
	c := play(t, f, program, total, 1, 4)
	t.Logf("%+v of %d; %+v", c, total, tracker.Stats())
	if c.wrong != 0 || c.right < total*99/100 {
		t.Errorf("got %+v; want %d processes, none wrong", c, total)
	}
}

// inSmallPIDNamespace runs the calling test again as the first process of a pid namespace.
func inSmallPIDNamespace(t *testing.T) {
	t.Helper()
	testutil.RequireRoot(t)
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if major < 6 || major == 6 && minor < 14 {
		// before, the greatest number was the whole machine's
		testutil.Unavailable(t, "needs Linux 6.14, whose pid namespaces have a greatest number of their own")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), reuseVar+"=1")
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%s", out)
}
