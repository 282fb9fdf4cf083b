//go:build amd64 || arm64

package ebpf_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
	"github.com/weirfw/weir/pkg/procinfo/ebpf"
	"github.com/weirfw/weir/pkg/verdict"
)

// The ways in which programs make connections: 18 from here and 18 from another network namespace, forwarded; those that are not
// about IPv4 inside IPv6 sockets again with IPv6. And six that come in, with IPv6 twins of those that have one.
var (
	outgoing = []string{
		"tcp", "mptcp", "udpconn", "udpsend", "forksend", "forkconn", "forktcp", "short-tcp", "short-udpsend", "short-udpconn",
		"exec-after", "old-udpconn", "old-udpsend", "old-tcp", "ping", "mapped-tcp", "mapped-udpconn", "mapped-udpsend",
	}
	incoming = []string{"srv-tcp", "srv-mptcp", "srv-udp"}
)

// scenario is one connection of one program.
type scenario struct {
	name    string
	mode    string
	foreign bool
	in      bool
	// remote is the address of its other end, which no other scenario has.
	remote netip.Addr
	// listen is where it serves, of those that come in.
	listen netip.AddrPort

	program *actor
	// got is the process that was found when the first packet came, 0 if none was, with why.
	got int
	why error
	saw bool
}

func scenarios() []*scenario {
	var all []*scenario
	for _, v6 := range []bool{false, true} {
		for _, foreign := range []bool{false, true} {
			for _, mode := range outgoing {
				if v6 && strings.HasPrefix(mode, "mapped-") {
					continue
				}
				all = append(all, &scenario{mode: mode, foreign: foreign, remote: far(v6, len(all))})
			}
		}
		for i, mode := range incoming {
			port := uint16(7000 + 10*i)
			if v6 {
				all = append(all, &scenario{mode: mode, in: true, remote: far(v6, len(all)), listen: netip.AddrPortFrom(netip.IPv6Unspecified(), port+5)})
				continue
			}
			all = append(all,
				&scenario{mode: mode, in: true, remote: far(v6, len(all)), listen: netip.AddrPortFrom(netip.IPv4Unspecified(), port+1)},
				// an IPv6 socket that serves IPv4 too
				&scenario{mode: mode, in: true, remote: far(v6, len(all)+1), listen: netip.AddrPortFrom(netip.IPv6Unspecified(), port+2)})
		}
	}
	for _, s := range all {
		s.name = s.mode
		if s.foreign {
			s.name += " forwarded"
		}
		if s.in {
			s.name += " at " + s.listen.String()
		}
		if s.remote.Is6() {
			s.name += " IPv6"
		}
	}
	return all
}

// far is an address behind the gateway, which answers nothing.
func far(v6 bool, n int) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:99::%x", n+1))
	}
	return netip.AddrFrom4([4]byte{198, 18, 0, byte(n + 1)})
}

// matrix runs all scenarios around the process it is in.
type matrix struct {
	t       *testing.T
	all     []*scenario
	python  string
	box     *testnet.Host // a container
	out     *testnet.Host // the network
	finder  *procinfo.Finder
	tracker *ebpf.Tracker // nil without

	mu sync.Mutex // guards what packets tell in all
}

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	testutil.RequireTool(t, "python3", "iptables-nft")
	m := &matrix{t: t, all: scenarios(), python: pythonPath(t)}
	lab := testnet.New(t)
	m.box, m.out = lab.Host("box"), lab.Host("out")
	sh(t, `
set -e
ip link add weir-box type veth peer name eth0 netns `+m.box.Netns()+`
ip link add weir-out type veth peer name eth0 netns `+m.out.Netns()+`
ip address add 10.1.0.1/24 dev weir-box; ip -6 address add fd01::1/64 dev weir-box nodad; ip link set weir-box up
ip address add 10.2.0.1/24 dev weir-out; ip -6 address add fd02::1/64 dev weir-out nodad; ip link set weir-out up
ip route add default via 10.2.0.2; ip -6 route add default via fd02::2
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.ping_group_range="0 0"
for t in iptables-nft ip6tables-nft; do
	$t -t mangle -A OUTPUT ! -o lo -j NFQUEUE --queue-num 1
	$t -t mangle -A INPUT ! -i lo -j NFQUEUE --queue-num 1
	$t -t mangle -A FORWARD -j NFQUEUE --queue-num 2
done`)
	m.box.Run(t, "sh", "-ec", `
ip address add 10.1.0.2/24 dev eth0; ip -6 address add fd01::2/64 dev eth0 nodad; ip link set eth0 up
ip route add default via 10.1.0.1; ip -6 route add default via fd01::1; sysctl -qw net.ipv4.ping_group_range="0 0"`)
	m.out.Run(t, "sh", "-ec", `
ip address add 10.2.0.2/24 dev eth0; ip -6 address add fd02::2/64 dev eth0 nodad; ip link set eth0 up
ip route add default via 10.2.0.1; ip -6 route add default via fd02::1`)
	for _, s := range m.all {
		if s.in {
			m.out.Run(t, "ip", "address", "add", s.remote.String(), "dev", "lo")
		}
	}
	return m
}

func sh(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// pythonPath returns the interpreter itself, not the wrapper of a version manager.
func pythonPath(t *testing.T) string {
	t.Helper()
	testutil.RequireTool(t, "python3")
	out, err := exec.Command("python3", "-c", "import os; print(os.readlink('/proc/self/exe'))").Output()
	if err != nil {
		t.Fatalf("python3: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// actor is a scenario's program.
type actor struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{}

	mu  sync.Mutex // guards out
	out strings.Builder
}

// Write implements io.Writer: it notes what the program prints.
func (a *actor) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.Write(b)
}

func (a *actor) printed() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.String()
}

// start starts a program that ends with its input.
func start(t *testing.T, cmd *exec.Cmd) *actor {
	t.Helper()
	a := &actor{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = a, a
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	var err error
	if a.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(a.done)
		_ = cmd.Wait() // most are told to end by the end of their input
	}()
	t.Cleanup(func() {
		a.stdin.Close()
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // its children too
		<-a.done
	})
	return a
}

// waitFor waits until the program has printed a line that begins like this, and returns the rest of it.
func (a *actor) waitFor(t *testing.T, begin string) string {
	t.Helper()
	var rest string
	eventually(t, "the program prints "+begin, func() bool {
		for line := range strings.Lines(a.printed()) {
			if after, ok := strings.CutPrefix(line, begin); ok && strings.HasSuffix(line, "\n") {
				rest = strings.TrimSpace(after)
				return true
			}
		}
		return false
	})
	return rest
}

// eventually waits for something that is about to happen.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened that %s", what)
		}
	}
}

func (m *matrix) start(s *scenario) {
	m.t.Helper()
	to, port := s.remote.String(), 9
	if s.in {
		to, port = s.listen.Addr().String(), int(s.listen.Port())
	}
	args := []string{"testdata/scenario.py", s.mode, to, strconv.Itoa(port)}
	cmd := exec.Command(m.python, args...)
	if s.foreign {
		cmd = m.box.Command(context.Background(), cmd.Path, args...)
	}
	s.program = start(m.t, cmd)
}

// Lookup implements intercept.Handler.
func (m *matrix) Lookup(*packet.Info) (verdict.Action, uint8, bool) { return 0, 0, false }

// Handle implements intercept.Handler: it looks at the first packet of each scenario while its sender waits for it to leave.
func (m *matrix) Handle(p packet.Packet) {
	info := *p.Info()
	for _, s := range m.all {
		if s.remote == info.Remote.Addr() || s.remote == info.Local.Addr() {
			m.judge(s, &info)
		}
	}
	_ = p.Accept() // a packet that waited too long is not our matter
}

func (m *matrix) judge(s *scenario, info *packet.Info) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.saw || info.IsEchoReply() {
		return
	}
	s.saw = true
	if s.foreign && m.tracker == nil {
		s.why = procinfo.ErrUnknown // inet_diag and /proc do not look into other namespaces
		return
	}
	if s.foreign {
		o, err := m.tracker.Forwarded(context.Background(), info)
		s.got, s.why = o.PID, err
		return
	}
	p, err := m.finder.Find(context.Background(), info, info.Direction)
	if s.why = err; err == nil {
		s.got = p.PID
	}
}

// run plays all scenarios and counts.
func (m *matrix) run(find func()) (right map[string]int) {
	t := m.t
	t.Helper()
	for _, s := range m.all {
		if strings.HasPrefix(s.mode, "old-") || s.in {
			m.start(s)
		}
	}
	for _, s := range m.all {
		if s.program != nil {
			s.program.waitFor(t, "READY")
		}
	}
	find()
	source, err := nfq.New(nfq.Config{SkipRuleset: true, ReadQueues: []uint16{1, 2}, Style: nfq.StylePlain})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- source.Run(ctx, m, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	<-ready
	for _, s := range m.all {
		switch {
		case s.in:
			m.visit(s)
		case s.program == nil:
			m.start(s)
		default:
			fmt.Fprintln(s.program.stdin)
		}
	}
	right = map[string]int{}
	for _, s := range m.all {
		truth := s.program.waitFor(t, "PID ")
		eventually(t, "a packet of "+s.name+" comes", func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return s.saw
		})
		m.count(s, truth, right)
	}
	return right
}

// visit connects to a server from outside, by an address of the scenario's own.
func (m *matrix) visit(s *scenario) {
	m.t.Helper()
	at := "10.2.0.1"
	if s.remote.Is6() {
		at = "fd02::1"
	}
	network, from := "tcp", net.Addr(&net.TCPAddr{IP: s.remote.AsSlice()})
	if s.mode == "srv-udp" {
		network, from = "udp", &net.UDPAddr{IP: s.remote.AsSlice()}
	}
	c, err := m.out.DialFrom(context.Background(), network, from, net.JoinHostPort(at, strconv.Itoa(int(s.listen.Port()))))
	if err != nil {
		m.t.Fatalf("%s: %v", s.name, err)
	}
	m.t.Cleanup(func() { c.Close() })
	if _, err := c.Write([]byte("x")); err != nil {
		m.t.Fatalf("%s: %v", s.name, err)
	}
}

func (m *matrix) count(s *scenario, truth string, right map[string]int) {
	m.t.Helper()
	group := "out"
	if s.in {
		group = "in"
	}
	if s.remote.Is6() {
		group += "6"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case s.got == 0:
		m.t.Logf("%s: unknown: %v", s.name, s.why)
		if s.why == nil || !errors.Is(s.why, procinfo.ErrUnknown) {
			m.t.Errorf("%s: got %v; want an error that wraps ErrUnknown", s.name, s.why)
		}
	case strconv.Itoa(s.got) != truth && m.tracker == nil && strings.HasPrefix(s.mode, "fork") && s.got == s.program.cmd.Process.Pid:
		// Several processes hold the socket, and run the same image: it belongs to the one that handed it down. That is a rule,
		// and no mistake (see package procinfo).
		right[group+" by rule"]++
	case strconv.Itoa(s.got) != truth:
		m.t.Errorf("%s: got process %d; want %s: wrong", s.name, s.got, truth)
	default:
		right[group]++
	}
}

// finder returns a Finder that is closed with the test.
func finder(t *testing.T, cfg procinfo.Config) *procinfo.Finder {
	t.Helper()
	f, err := procinfo.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func TestIntegrationMatrix(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	m := newMatrix(t)
	group := ownCgroup(t)
	right := m.run(func() {
		m.tracker = newTracker(t, ebpf.Config{Cgroup: group})
		m.finder = finder(t, procinfo.Config{First: []procinfo.SocketOwner{m.tracker}})
	})
	t.Log("right:", right, "of 36, 30, 6 and 3;", m.tracker.Stats(), m.finder.Stats())
	if right["out"] < 35 || right["in"] != 6 || right["out6"] < 29 || right["in6"] != 3 {
		t.Errorf("got %v; want 35 of 36 out, 29 of 30 with IPv6, 6 and 3 in", right)
	}
}

// Where the kernel refuses BPF, such as without CAP_BPF, what is left has to be as honest.
func TestIntegrationMatrixRefused(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	m := newMatrix(t)
	right := m.run(func() {
		if err := withoutCapabilities(func() error { _, err := ebpf.New(ebpf.Config{}); return err }); !errors.Is(err, ebpf.ErrRefused) {
			t.Fatalf("without CAP_BPF: got %v; want ErrRefused", err)
		}
		m.finder = finder(t, procinfo.Config{})
	})
	t.Log("right:", right, m.finder.Stats())
	if right["out"] < 10 || right["in"] != 6 {
		t.Errorf("got %v; want at least 10 out, and 6 in", right)
	}
}

func TestIntegrationMatrixProcOnly(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	m := newMatrix(t)
	right := m.run(func() { m.finder = finder(t, procinfo.Config{ProcOnly: true}) })
	t.Log("right:", right, m.finder.Stats())
	if right["out"] < 10 || right["in"] < 4 {
		t.Errorf("got %v; want at least 10 out, and 4 in", right)
	}
}

// ownCgroup moves this process into a group of its own, and what it starts, so that programs attached there see nothing else.
func ownCgroup(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	root := ""
	for line := range strings.Lines(string(mounts)) {
		if before, after, _ := strings.Cut(line, " - "); strings.HasPrefix(after, "cgroup2 ") {
			root = strings.Fields(before)[4]
		}
	}
	if root == "" {
		testutil.Unavailable(t, "needs a cgroup v2 hierarchy")
	}
	dir := filepath.Join(root, fmt.Sprintf("weirt%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		testutil.Unavailable(t, "needs a cgroup of its own: %v", err)
	}
	move := func(to string) error { return os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte("0"), 0) }
	if err := move(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := move(root); err != nil {
			t.Error(err)
		}
		eventually(t, "the cgroup is empty", func() bool { return os.Remove(dir) == nil })
	})
	return dir
}

// withoutCapabilities calls f on a thread that has none of the capabilities that BPF takes, and throws the thread away.
func withoutCapabilities(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capset(&header, &data[0]); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}
