//go:build amd64 || arm64

package ebpf_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bpf "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
	"github.com/weirfw/weir/pkg/procinfo/ebpf"
)

// hog starts processes that hold many descriptors each.
func hog(b *testing.B, processes, descriptors int) {
	b.Helper()
	cmd := exec.Command("python3", "-c", fmt.Sprintf(`
import os, sys, time
r, w = os.pipe()
for i in range(%d):
    if os.fork() == 0:
        f = [os.open("/dev/null", 0) for _ in range(%d)]
        os.write(w, b"x")
        time.sleep(1000)
        os._exit(0)
n = 0
while n < %d: n += len(os.read(r, 4096))
print("ready", flush=True)
sys.stdin.read()
os.killpg(0, 9)
`, processes, descriptors, processes))
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait() // it kills itself
	})
	if _, err := stdout.Read(make([]byte, 16)); err != nil {
		b.Fatal(err)
	}
}

// ownConnection is a TCP connection of this process that a Tracker knows.
func ownConnection(b *testing.B) packet.Info {
	b.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return packet.Info{Version: 4, Direction: packet.Outbound, HasUID: true, Tuple: packet.Tuple{
		Local: netip.MustParseAddrPort(c.LocalAddr().String()), Remote: netip.MustParseAddrPort(c.RemoteAddr().String()), Protocol: packet.TCP,
	}}
}

// BenchmarkLookup is what attribution costs for a connection: the Tracker alone, and by a Finder that asks it first.
func BenchmarkLookup(b *testing.B) {
	for _, load := range []struct {
		name                   string
		processes, descriptors int
	}{{name: "idle"}, {"hogged", 500, 100}} {
		b.Run(load.name, func(b *testing.B) {
			if load.processes > 0 {
				hog(b, load.processes, load.descriptors)
			}
			tracker := newTracker(b, ebpf.Config{})
			f, err := procinfo.New(procinfo.Config{First: []procinfo.SocketOwner{tracker}})
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			info := ownConnection(b)
			ctx := context.Background()
			b.Run("owner", func(b *testing.B) {
				median(b, func() error { _, err := tracker.Owner(ctx, &info, packet.Outbound); return err })
			})
			b.Run("find", func(b *testing.B) {
				median(b, func() error { _, err := f.Find(ctx, &info, packet.Outbound); return err })
			})
			b.Run("inet_diag", func(b *testing.B) {
				median(b, func() error { _, err := f.Holder(ctx, &info, packet.Outbound); return err })
			})
		})
	}
}

// median reports the median and the 99th percentile beside the mean.
func median(b *testing.B, f func() error) {
	b.ReportAllocs()
	took := make([]time.Duration, 0, 1<<20)
	for b.Loop() {
		begin := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		if len(took) < cap(took) {
			took = append(took, time.Since(begin))
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
}

// BenchmarkAdded is what programs pay: for a TCP connection that is opened and reset, and for a datagram with an address and one without.
// The other end is in another network namespace and control group: as another host. The kernel itself tells how long our programs
// ran, its own reading of the clock included; on a busy machine, what interrupts them, too: then the least of several short runs says
// most (-benchtime 2000x -count 20). The time of an operation is that with it.
func BenchmarkAdded(b *testing.B) {
	client, server := testnet.New(b).Pair()
	peers := map[int]int{}
	must(b, server.Do(func() error {
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
			peers[kind] = peer(b, kind)
		}
		return nil
	}))
	group := benchGroup(b)
	var tracker *ebpf.Tracker
	must(b, client.Do(func() error {
		tracker = newTracker(b, ebpf.Config{Cgroup: group})
		return nil
	}))
	stats, err := bpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	must(b, err)
	defer stats.Close()
	for _, test := range []struct {
		name string
		kind int
		run  func(b *testing.B, peer int, to unix.Sockaddr)
	}{
		{"tcp", unix.SOCK_STREAM, benchConnect}, {"udp", unix.SOCK_DGRAM, benchSend}, {"udp-connected", unix.SOCK_DGRAM, benchSendConnected},
	} {
		b.Run(test.name, func(b *testing.B) {
			before, err := tracker.RunTime()
			must(b, err)
			to, err := unix.Getsockname(peers[test.kind])
			must(b, err)
			must(b, client.Do(func() error {
				test.run(b, peers[test.kind], to)
				return nil
			}))
			after, err := tracker.RunTime()
			must(b, err)
			b.ReportMetric(float64(after-before)/float64(b.N), "added-ns/op")
		})
	}
}

// peer is a socket that others connect or send to. Datagrams fill it soon, which costs senders nothing.
func peer(b *testing.B, kind int) int {
	b.Helper()
	s, err := unix.Socket(unix.AF_INET, kind, 0)
	must(b, err)
	b.Cleanup(func() { unix.Close(s) })
	must(b, unix.Bind(s, &unix.SockaddrInet4{Addr: netip.MustParseAddr(testnet.ServerV4).As4()}))
	if kind == unix.SOCK_STREAM {
		must(b, unix.Listen(s, 64))
	}
	return s
}

// benchGroup puts this process into a control group of its own.
func benchGroup(b *testing.B) string {
	b.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		if !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		root := strings.Fields(before)[4]
		dir, err := os.MkdirTemp(root, "weirt") //nolint:usetesting // a control group
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			_ = os.WriteFile(filepath.Join(root, "cgroup.procs"), []byte("0"), 0)
			_ = os.Remove(dir)
		})
		return dir
	}
	testutil.Unavailable(b, "needs a cgroup v2 hierarchy")
	return ""
}

func benchConnect(b *testing.B, peer int, to unix.Sockaddr) {
	for b.Loop() {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		must(b, err)
		must(b, unix.SetsockoptLinger(s, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
		must(b, unix.Connect(s, to))
		a, _, err := unix.Accept(peer)
		must(b, err)
		must(b, unix.Close(s))
		must(b, unix.Close(a))
	}
}

func benchSend(b *testing.B, _ int, to unix.Sockaddr) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	must(b, err)
	defer unix.Close(s)
	for b.Loop() {
		must(b, unix.Sendto(s, []byte{1}, unix.MSG_DONTWAIT, to))
	}
}

func benchSendConnected(b *testing.B, _ int, to unix.Sockaddr) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	must(b, err)
	defer unix.Close(s)
	must(b, unix.Connect(s, to))
	for b.Loop() {
		_, err := unix.Write(s, []byte{1})
		must(b, err)
	}
}

func must(b *testing.B, err error) {
	if err != nil {
		b.Helper()
		b.Fatal(err)
	}
}
