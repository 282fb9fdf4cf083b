package procinfo

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/packet"
)

// hog starts processes that each hold many descriptors, as on a busy desktop.
func hog(b *testing.B, processes, descriptors int) {
	b.Helper()
	program := fmt.Sprintf(`
import os, sys, time
for i in range(%d):
    if os.fork() == 0:
        f = [os.open("/dev/null", 0) for _ in range(%d)]
        time.sleep(1000)
        os._exit(0)
print("ready", flush=True)
sys.stdin.read()
os.killpg(0, 9)
`, processes, descriptors)
	cmd := exec.Command("python3", "-c", program)
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
	time.Sleep(time.Second) // for the last children to open theirs
}

func BenchmarkFind(b *testing.B) {
	for _, load := range []struct {
		name                   string
		processes, descriptors int
	}{{name: "idle"}, {"hogged", 500, 100}} {
		b.Run(load.name, func(b *testing.B) {
			if load.processes > 0 {
				hog(b, load.processes, load.descriptors)
			}
			f, err := New(Config{})
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			b.Run("tcp-same-socket", func(b *testing.B) { benchSame(b, f, "tcp4") })
			b.Run("tcp-new-connections", func(b *testing.B) { benchNew(b, f) })
			b.Run("tcp-new-connections-quick", func(b *testing.B) { benchQuick(b, f) })
			b.Run("tcp-new-connections-forks", func(b *testing.B) { benchFork(b, f) })
			b.Run("tcp-new-process", func(b *testing.B) { benchProcess(b, f) })
			b.Run("tcp-inbound-listener", func(b *testing.B) { benchListener(b, f) })
			b.Run("udp-connected", func(b *testing.B) { benchSame(b, f, "udp4") })
			b.Run("udp-unconnected", func(b *testing.B) { benchUnconnected(b, f) })
			b.Run("udp-new-connected", func(b *testing.B) { benchDatagram(b, f, "127.0.0.1:9") })
			b.Run("udp-new-unconnected", func(b *testing.B) { benchDatagram(b, f, "") })
			b.Run("no-socket", func(b *testing.B) { benchNone(b, f) })
			b.Run("cold", func(b *testing.B) { benchCold(b) })
			b.Run("parallel", func(b *testing.B) { benchParallel(b, f) })
		})
	}
}

func outbound(conn net.Conn) packet.Info {
	info := packet.Info{Version: 4, HasUID: true, UID: uint32(os.Geteuid())}
	info.Tuple = packet.Tuple{
		Local: addrPort(conn.LocalAddr()), Remote: addrPort(conn.RemoteAddr()), Protocol: packet.TCP,
	}
	if strings.HasPrefix(conn.LocalAddr().Network(), "udp") {
		info.Protocol = packet.UDP
	}
	return info
}

func addrPort(a net.Addr) netip.AddrPort {
	p := netip.MustParseAddrPort(a.String())
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

func sink(b *testing.B) net.Listener {
	b.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	b.Cleanup(func() { l.Close() })
	return l
}

func measure(b *testing.B, f *Finder, info *packet.Info, dir packet.Direction) {
	b.Helper()
	ctx := context.Background()
	if _, err := f.Find(ctx, info, dir); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if p, err := f.Find(ctx, info, dir); err != nil || p.PID != os.Getpid() {
			b.Fatal(p, err)
		}
	}
}

func benchSame(b *testing.B, f *Finder, network string) {
	target := "127.0.0.1:9"
	if strings.HasPrefix(network, "tcp") {
		target = sink(b).Addr().String()
	}
	conn, err := net.Dial(network, target)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	info := outbound(conn)
	measure(b, f, &info, packet.Outbound)
}

// benchNew is the case that matters: each lookup is for another socket. The
// lookups alone are ns/lookup: stopping the benchmark's own clock takes longer
// than they do, and empties the caches.
func benchNew(b *testing.B, f *Finder) {
	target := netip.MustParseAddrPort(sink(b).Addr().String())
	ctx := context.Background()
	var spent time.Duration
	for b.Loop() {
		fd, info := rawConnect(b, target)
		begin := time.Now()
		p, err := f.Find(ctx, &info, packet.Outbound)
		spent += time.Since(begin)
		if err != nil || p.PID != os.Getpid() {
			b.Fatal(p, err)
		}
		closeFD(fd)
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/lookup")
}

// benchQuick is benchNew as a packet backend's thread asks.
func benchQuick(b *testing.B, f *Finder) {
	target := netip.MustParseAddrPort(sink(b).Addr().String())
	ctx := context.Background()
	var spent time.Duration
	slow := 0
	for b.Loop() {
		fd, info := rawConnect(b, target)
		begin := time.Now()
		p, ok := f.FindQuick(&info, packet.Outbound)
		spent += time.Since(begin)
		if !ok {
			slow++
			var err error
			if p, err = f.Find(ctx, &info, packet.Outbound); err != nil {
				b.Fatal(err)
			}
		}
		if p.PID != os.Getpid() {
			b.Fatal(p)
		}
		closeFD(fd)
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/lookup")
	b.ReportMetric(float64(slow)/float64(b.N), "slow/op")
}

// benchFork is new connections while other processes come and go all the time.
func benchFork(b *testing.B, f *Finder) {
	target := netip.MustParseAddrPort(sink(b).Addr().String())
	ctx := context.Background()
	var spent time.Duration
	for b.Loop() {
		if err := exec.Command("true").Run(); err != nil {
			b.Fatal(err)
		}
		fd, info := rawConnect(b, target)
		begin := time.Now()
		if p, err := f.Find(ctx, &info, packet.Outbound); err != nil || p.PID != os.Getpid() {
			b.Fatal(p, err)
		}
		spent += time.Since(begin)
		closeFD(fd)
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/lookup")
}

// benchProcess is the first connection of a process that is not known yet.
func benchProcess(b *testing.B, f *Finder) {
	target := sink(b).Addr().(*net.TCPAddr)
	ctx := context.Background()
	var spent time.Duration
	for b.Loop() {
		cmd := exec.Command("bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d; echo; read", target.Port))
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
		if _, err := stdout.Read(make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		socks, err := f.net.list("tcp", nil, func(s *sock) bool {
			return s.remote.Port() == uint16(target.Port) && s.inode != 0
		})
		if err != nil || len(socks) == 0 {
			b.Fatal(socks, err)
		}
		s := socks[0]
		info := packet.Info{Version: 4, Tuple: packet.Tuple{Local: s.local, Remote: s.remote, Protocol: packet.TCP}}
		begin := time.Now()
		p, err := f.Find(ctx, &info, packet.Outbound)
		spent += time.Since(begin)
		if err != nil || p.PID != cmd.Process.Pid {
			b.Fatal(p, err)
		}
		stdin.Close()
		_ = cmd.Wait() // read fails at the end of its input
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/lookup")
}

func rawConnect(tb testing.TB, target netip.AddrPort) (int, packet.Info) {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(target.Port()), Addr: target.Addr().As4()}); err != nil {
		tb.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		tb.Fatal(err)
	}
	local := name.(*unix.SockaddrInet4)
	return fd, packet.Info{Version: 4, Tuple: packet.Tuple{
		Local:  netip.AddrPortFrom(netip.AddrFrom4(local.Addr), uint16(local.Port)),
		Remote: target, Protocol: packet.TCP,
	}}
}

func benchListener(b *testing.B, f *Finder) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	info := packet.Info{Version: 4, Direction: packet.Inbound, Tuple: packet.Tuple{
		Local: addrPort(l.Addr()), Remote: netip.MustParseAddrPort("127.0.0.2:1"), Protocol: packet.TCP,
	}}
	measure(b, f, &info, packet.Inbound)
}

func benchUnconnected(b *testing.B, f *Finder) {
	c, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	port := addrPort(c.LocalAddr()).Port()
	info := packet.Info{Version: 4, HasUID: true, UID: uint32(os.Geteuid()), Tuple: packet.Tuple{
		Local: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), Remote: netip.MustParseAddrPort("127.0.0.2:1"),
		Protocol: packet.UDP,
	}}
	measure(b, f, &info, packet.Outbound)
}

// benchDatagram is a new socket for each packet, as resolvers do it.
func benchDatagram(b *testing.B, f *Finder, peer string) {
	ctx := context.Background()
	var spent time.Duration
	for b.Loop() {
		var c net.Conn
		var err error
		if peer != "" {
			c, err = net.Dial("udp4", peer)
		} else {
			c, err = net.ListenUDP("udp4", &net.UDPAddr{})
		}
		if err != nil {
			b.Fatal(err)
		}
		info := packet.Info{Version: 4, HasUID: true, UID: uint32(os.Geteuid()), Tuple: packet.Tuple{
			Local:  netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addrPort(c.LocalAddr()).Port()),
			Remote: netip.MustParseAddrPort("127.0.0.1:9"), Protocol: packet.UDP,
		}}
		begin := time.Now()
		p, err := f.Find(ctx, &info, packet.Outbound)
		spent += time.Since(begin)
		if err != nil || p.PID != os.Getpid() {
			b.Fatal(p, err)
		}
		c.Close()
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/lookup")
}

func benchNone(b *testing.B, f *Finder) {
	b.ReportAllocs()
	info := packet.Info{Version: 4, Tuple: packet.Tuple{
		Local: netip.MustParseAddrPort("127.0.0.1:1"), Remote: netip.MustParseAddrPort("127.0.0.2:1"), Protocol: packet.TCP,
	}}
	for b.Loop() {
		if _, err := f.Find(context.Background(), &info, packet.Outbound); err == nil {
			b.Fatal("got a process")
		}
	}
}

// benchCold has nothing in its cache.
func benchCold(b *testing.B) {
	b.ReportAllocs()
	fd, info := rawConnect(b, netip.MustParseAddrPort(sink(b).Addr().String()))
	defer closeFD(fd)
	for b.Loop() {
		f, err := New(Config{Sockets: 1})
		if err != nil {
			b.Fatal(err)
		}
		if p, err := f.Find(context.Background(), &info, packet.Outbound); err != nil || p.PID != os.Getpid() {
			b.Fatal(p, err)
		}
		f.Close()
	}
}

func benchParallel(b *testing.B, f *Finder) {
	fd, info := rawConnect(b, netip.MustParseAddrPort(sink(b).Addr().String()))
	defer closeFD(fd)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := f.Find(context.Background(), &info, packet.Outbound); err != nil {
				b.Error("find: " + err.Error() + " in process " + strconv.Itoa(os.Getpid()))
				return
			}
		}
	})
}
