package procinfo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/packet"
)

func listenTCP(network, address string) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(context.Background(), network, address)
}

// ways runs a test with inet_diag, and with /proc/net alone.
func ways(t *testing.T, test func(t *testing.T, f *Finder)) {
	t.Helper()
	t.Run("inet_diag", func(t *testing.T) {
		f := newFinder(t)
		if f.diag == nil {
			testutil.Unavailable(t, "no inet_diag in this kernel")
		}
		test(t, f)
	})
	t.Run("proc", func(t *testing.T) {
		f := newFinder(t)
		if f.diag != nil {
			f.diag.close()
			f.diag = nil
		}
		test(t, f)
	})
}

func TestIntegrationTCP(t *testing.T) {
	for _, test := range []struct{ name, network, listen, dial string }{
		{"v4", "tcp4", "127.0.0.1:0", "127.0.0.1"},
		{"v4 wildcard", "tcp4", "0.0.0.0:0", "127.0.0.1"},
		{"v6", "tcp6", "[::1]:0", "::1"},
		{"dual stack", "tcp", "[::]:0", "127.0.0.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ways(t, func(t *testing.T, f *Finder) {
				to := net.JoinHostPort(test.dial, fmt.Sprint(listener(t, test.network, test.listen).Port()))
				client := python(t, `s = tcp(sys.argv[1]); show(s); wait()`, strings.NewReplacer("[", "", "]", "").Replace(to))
				info := client.socket(packet.TCP)
				wantPID(t, f, info, packet.Outbound, client.cmd.Process.Pid)
				wantPID(t, f, reversed(info), packet.Inbound, os.Getpid())

				// a peer that is not connected yet: the listening socket
				fresh := reversed(info)
				fresh.Remote = ap(net.JoinHostPort(test.dial, "1"))
				wantPID(t, f, fresh, packet.Inbound, os.Getpid())
				wantReason(t, f, fresh, packet.Outbound, ReasonNoSocket)
				fresh.Local = ap(net.JoinHostPort(test.dial, "1"))
				wantReason(t, f, fresh, packet.Inbound, ReasonNoSocket)
			})
		})
	}
}

func TestIntegrationTCPStates(t *testing.T) {
	ways(t, func(t *testing.T, f *Finder) {
		server := python(t, `
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen()
print(addr(l.getsockname()), flush=True)
wait(); c, _ = l.accept(); print("accepted", flush=True)
wait(); c.close(); print("closed", flush=True)
wait()
`)
		fd, info := rawConnect(t, ap(server.line()))
		in := reversed(info)
		// connected, but nobody has called accept
		wantPID(t, f, in, packet.Inbound, server.cmd.Process.Pid)
		server.proceed()
		server.line()
		wantPID(t, f, in, packet.Inbound, server.cmd.Process.Pid)
		server.proceed()
		server.line()
		// FIN_WAIT2: the process has closed it
		wantReason(t, f, in, packet.Inbound, ReasonNoProcess)
		wantPID(t, f, info, packet.Outbound, os.Getpid())
		closeFD(fd)
		// TIME_WAIT on the side that closed first
		if p, err := f.Find(context.Background(), &in, packet.Inbound); err == nil && p.PID != server.cmd.Process.Pid {
			t.Errorf("got %d for TIME_WAIT; want nobody else than the server", p.PID)
		}
		wantUnknown(t, f, info, packet.Outbound)
	})
}

func wantUnknown(t *testing.T, f *Finder, info packet.Info, dir packet.Direction) {
	t.Helper()
	if p, err := f.Find(context.Background(), &info, dir); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v %v: got %v, %v; want unknown", dir, info.Tuple, p, err)
	}
}

func TestIntegrationUDP(t *testing.T) {
	const unconnected = `
s = socket.socket(getattr(socket, sys.argv[1]), socket.SOCK_DGRAM, int(sys.argv[3]))
s.bind((sys.argv[2], 0)); print(s.getsockname()[1], flush=True); wait()
`
	for _, test := range []struct {
		name, family, bind string
		protocol           packet.Protocol
		local, remote      string
	}{
		{"wildcard", "AF_INET", "", packet.UDP, "127.0.0.1", "127.0.0.2:53"},
		{"bound", "AF_INET", "127.0.0.1", packet.UDP, "127.0.0.1", "127.0.0.2:53"},
		{"dual stack", "AF_INET6", "::", packet.UDP, "127.0.0.1", "127.0.0.2:53"},
		{"v6", "AF_INET6", "::", packet.UDP, "::1", "[::1]:53"},
		{"lite", "AF_INET", "", packet.UDPLite, "127.0.0.1", "127.0.0.2:53"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ways(t, func(t *testing.T, f *Finder) {
				number := "17"
				if test.protocol == packet.UDPLite {
					number = "136"
				}
				p := python(t, unconnected, test.family, test.bind, number)
				info := tuple(t, test.protocol, net.JoinHostPort(test.local, p.line())+" "+test.remote)
				wantPID(t, f, info, packet.Outbound, p.cmd.Process.Pid)
				wantPID(t, f, info, packet.Inbound, p.cmd.Process.Pid)
				info.HasUID, info.UID = true, uint32(os.Geteuid())
				wantPID(t, f, info, packet.Outbound, p.cmd.Process.Pid)
				info.UID = 12345
				wantReason(t, f, info, packet.Outbound, ReasonNoSocket)
			})
		})
	}
	t.Run("connected", func(t *testing.T) {
		ways(t, func(t *testing.T, f *Finder) {
			p := python(t, `
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("127.0.0.1", 9)); show(s); wait()
`)
			info := p.socket(packet.UDP)
			wantPID(t, f, info, packet.Outbound, p.cmd.Process.Pid)
			wantPID(t, f, info, packet.Inbound, p.cmd.Process.Pid)
			info.Remote = ap("127.0.0.1:10")
			// sendto goes elsewhere, and nobody else may receive
			wantPID(t, f, info, packet.Outbound, p.cmd.Process.Pid)
			wantReason(t, f, info, packet.Inbound, ReasonNoSocket)
		})
	})
}

func TestIntegrationSharedPorts(t *testing.T) {
	const share = `
kind = getattr(socket, sys.argv[2]); s = socket.socket(socket.AF_INET, kind)
s.setsockopt(socket.SOL_SOCKET, getattr(socket, sys.argv[3]), 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
if kind == socket.SOCK_STREAM: s.listen()
print(addr(s.getsockname()), flush=True); wait()
`
	for _, test := range []struct {
		name, kind, option string
		protocol           packet.Protocol
	}{
		{"TCP reuseport", "SOCK_STREAM", "SO_REUSEPORT", packet.TCP},
		{"UDP reuseport", "SOCK_DGRAM", "SO_REUSEPORT", packet.UDP},
		{"UDP reuseaddr", "SOCK_DGRAM", "SO_REUSEADDR", packet.UDP},
	} {
		t.Run(test.name, func(t *testing.T) {
			ways(t, func(t *testing.T, f *Finder) {
				one := python(t, share, "0", test.kind, test.option)
				info := tuple(t, test.protocol, one.line()+" 127.0.0.2:9")
				dir := packet.Inbound
				if test.protocol == packet.UDP {
					dir = packet.Outbound
				}
				wantPID(t, f, info, dir, one.cmd.Process.Pid)
				two := python(t, share, fmt.Sprint(info.Local.Port()), test.kind, test.option)
				two.line()
				if test.option == "SO_REUSEADDR" || f.diag == nil {
					// Without a group chosen by hash the newest is found at once.
					u := wantReason(t, f, info, dir, ReasonSeveral)
					got := []int{u.Candidates[0].PID, u.Candidates[1].PID}
					slices.Sort(got)
					want := []int{one.cmd.Process.Pid, two.cmd.Process.Pid}
					slices.Sort(want)
					if !slices.Equal(got, want) {
						t.Errorf("got candidates %v; want %v", got, want)
					}
				}
				// a finder that has not seen the port with one socket
				wantReason(t, newFinder(t), info, dir, ReasonSeveral)
				two.kill()
				wantPID(t, newFinder(t), info, dir, one.cmd.Process.Pid)
			})
		})
	}
	t.Run("same process", func(t *testing.T) {
		ways(t, func(t *testing.T, f *Finder) {
			p := python(t, `
port, keep = 0, []
for i in range(3):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("127.0.0.1", port)); s.listen(); port = s.getsockname()[1]; keep.append(s)
print(addr(s.getsockname()), flush=True); wait()
`)
			info := tuple(t, packet.TCP, p.line()+" 127.0.0.2:9")
			for port := range uint16(8) {
				info.Remote = ap(fmt.Sprintf("127.0.0.2:%d", 9+port))
				wantPID(t, f, info, packet.Inbound, p.cmd.Process.Pid)
			}
		})
	})
}

func TestIntegrationRaw(t *testing.T) {
	testutil.RequireRoot(t)
	f := newFinder(t)
	echo := packet.Info{Version: 4, ICMPType: 8, HasUID: true, UID: uint32(os.Geteuid()), Tuple: packet.Tuple{
		Local: ap("127.0.0.1:77"), Remote: ap("127.0.0.2:0"), Protocol: packet.ICMP,
	}}
	wantReason(t, f, echo, packet.Outbound, ReasonNoSocket)
	const raw = `s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); print("ready", flush=True); wait()`
	one := python(t, raw)
	one.line()
	wantPID(t, f, echo, packet.Outbound, one.cmd.Process.Pid)
	wantReason(t, f, echo, packet.Inbound, ReasonNoProcess)
	two := python(t, raw)
	two.line()
	wantReason(t, f, echo, packet.Outbound, ReasonSeveral)
}

// TestIntegrationPing is a ping socket, which needs a namespace whose
// ping_group_range lets us have one.
func TestIntegrationPing(t *testing.T) {
	inNamespace(t, func() {
		f := newFinder(t)
		must(t, os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2000000"), 0))
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		must(t, err)
		defer closeFD(fd)
		must(t, unix.Bind(fd, &unix.SockaddrInet4{Port: 4711}))
		echo := packet.Info{Version: 4, ICMPType: 8, Tuple: packet.Tuple{
			Local: ap("127.0.0.1:4711"), Remote: ap("127.0.0.2:0"), Protocol: packet.ICMP,
		}}
		wantPID(t, f, echo, packet.Outbound, os.Getpid())
		echo.Local = ap("127.0.0.1:4712")
		wantReason(t, f, echo, packet.Outbound, ReasonNoSocket)

		// what is bound in this namespace is unknown to a finder of another
		l, err := listenTCP("tcp4", "127.0.0.1:0")
		must(t, err)
		defer l.Close()
		info := packet.Info{Version: 4, Tuple: packet.Tuple{
			Local: addrPort(l.Addr()), Remote: ap("127.0.0.2:1"), Protocol: packet.TCP,
		}}
		wantPID(t, f, info, packet.Inbound, os.Getpid())
		outside := make(chan *Finder)
		go func() { f, _ := New(Config{}); outside <- f }() //nolint:errcheck // nil fails below
		other := <-outside
		defer other.Close()
		wantReason(t, other, info, packet.Inbound, ReasonNoSocket)
	})
}

func TestIntegrationDescription(t *testing.T) {
	f := newFinder(t)
	to := listener(t, "tcp4", "127.0.0.1:0").String()
	client := python(t, `s = tcp(sys.argv[1]); show(s); wait()`, to)
	info := client.socket(packet.TCP)
	p := find(t, f, info, packet.Outbound)
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID))
	must(t, err)
	if p.Path != exe || p.Script != client.cmd.Args[1] || !slices.Equal(p.Args, client.cmd.Args) || p.StartTicks == 0 {
		t.Errorf("got %+v; want %s running %q", p, exe, client.cmd.Args)
	}
	if p.UID != uint32(os.Geteuid()) || p.Cgroup == "" {
		t.Errorf("got user %d in %q; want %d and a group", p.UID, p.Cgroup, os.Geteuid())
	}
	if p.Parent == nil || p.Parent.PID != os.Getpid() || p.Parent.Parent == nil || p.Parent.Parent.PID != os.Getppid() {
		t.Errorf("got parent %+v; want ourselves, and ours", p.Parent)
	}
	self, err := f.Process(os.Getpid())
	if err != nil || self != p.Parent {
		t.Errorf("got %p, %v; want the parent %p", self, err, p.Parent)
	}
	if again := find(t, f, info, packet.Outbound); again != p {
		t.Errorf("got %p; want %p as before", again, p)
	}
}

func TestIntegrationShellScript(t *testing.T) {
	f := newFinder(t)
	to := listener(t, "tcp4", "127.0.0.1:0")
	path := scriptFile(t, "fetch.sh", fmt.Sprintf("#!/bin/bash -u\nexec 3<>/dev/tcp/127.0.0.1/%d\necho ready\nread x\n", to.Port()))
	p := start(t, "/bin/bash", "-c", `cd "$1" && exec ./fetch.sh`, "bash", filepath.Dir(path))
	p.line()
	got := find(t, f, onlyClient(t, p, to.String()), packet.Outbound)
	if got.PID != p.cmd.Process.Pid || got.Script != path {
		t.Errorf("got %d with script %q; want %d with %q", got.PID, got.Script, p.cmd.Process.Pid, path)
	}
}

// onlyClient finds the TCP connection of a process to an address in the
// kernel's table.
func onlyClient(t *testing.T, p *program, to string) packet.Info {
	t.Helper()
	tables, err := openProcNet("/proc")
	must(t, err)
	defer tables.close()
	// The port may have been another listener's, and the kernel may tell of a
	// socket twice when others come and go.
	seen := make(map[uint32]bool)
	socks, err := tables.list("tcp", nil, func(s *sock) bool {
		fresh := s.remote == ap(to) && s.inode != 0 && !seen[s.inode]
		seen[s.inode] = true
		return fresh
	})
	must(t, err)
	if len(socks) != 1 {
		t.Fatalf("got %d connections of %v to %s; want 1", len(socks), p.cmd.Args, to)
	}
	return packet.Info{Version: 4, Tuple: packet.Tuple{Local: socks[0].local, Remote: socks[0].remote, Protocol: packet.TCP}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestFindAllocatesNothing is for sockets that were looked up before.
func TestFindAllocatesNothing(t *testing.T) {
	if raced {
		t.Skip("buffers are not kept under the race detector")
	}
	f := newFinder(t)
	fd, out := rawConnect(t, listener(t, "tcp4", "127.0.0.1:0"))
	defer closeFD(fd)
	none := out
	none.Local = ap("127.0.0.1:1")
	for _, test := range []struct {
		name string
		info packet.Info
		dir  packet.Direction
		want error
	}{
		{"out", out, packet.Outbound, nil},
		{"in", reversed(out), packet.Inbound, nil},
		{"unknown", none, packet.Outbound, ErrUnknown},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx := context.Background()
			got := testing.AllocsPerRun(100, func() {
				if _, err := f.Find(ctx, &test.info, test.dir); !errors.Is(err, test.want) {
					t.Errorf("got %v; want %v", err, test.want)
				}
			})
			// a description that is read anew after a second counts for less than one
			if got >= 1 {
				t.Errorf("got %v allocations; want none", got)
			}
		})
	}
}
