package testnet_test

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
)

func TestIntegrationPair(t *testing.T) {
	testutil.NoLeaks(t)
	client, server := testnet.New(t).Pair()
	echo := server.TCPEcho(t, "[::]:0")
	udp := server.UDPEcho(t, "[::]:0")
	for _, host := range []string{testnet.ServerV4, testnet.ServerV6} {
		client.Run(t, "ping", "-c1", "-W2", host)
		for network, port := range map[string]uint16{"tcp": echo.Port(), "udp": udp.Port()} {
			address := net.JoinHostPort(host, strconv.Itoa(int(port)))
			if got := roundTrip(t, client, network, address, "hello"); got != "hello" {
				t.Errorf("%s %s: got %q; want the echo", network, address, got)
			}
		}
	}
	if got := echo.Accepted(); got != 2 {
		t.Errorf("got %d connections; want 2", got)
	}
	if got := udp.Packets(); got != 2 {
		t.Errorf("got %d packets; want 2", got)
	}
	if _, err := client.Dial(t.Context(), "tcp", "localhost:1"); err == nil {
		t.Error("dialled a name; want an error, names resolve outside")
	}
}

func roundTrip(t *testing.T, from *testnet.Host, network, address, text string) string {
	t.Helper()
	c, err := from.Dial(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(c, buf); err != nil {
		t.Fatal(err)
	}
	return string(buf)
}

func TestIntegrationServers(t *testing.T) {
	testutil.NoLeaks(t)
	client, server := testnet.New(t).Pair()
	source, discard := server.TCPSource(t, "[::]:0"), server.TCPDiscard(t, "[::]:0")
	c, err := client.Dial(t.Context(), "tcp", net.JoinHostPort(testnet.ServerV6, strconv.Itoa(int(source.Port()))))
	if err != nil {
		t.Fatal(err)
	}
	const size = 4 << 20
	if n, err := io.CopyN(io.Discard, c, size); n != size || err != nil {
		t.Errorf("got %d bytes, error %v; want %d", n, err, size)
	}
	c.Close()
	c, err = client.Dial(t.Context(), "tcp", net.JoinHostPort(testnet.ServerV4, strconv.Itoa(int(discard.Port()))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	for deadline := time.Now().Add(5 * time.Second); discard.Received() < size && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if got := discard.Received(); got != size {
		t.Errorf("got %d bytes discarded; want %d", got, size)
	}
}

// The promise that everything else stands on: threads that were in a namespace never run other code.
func TestIntegrationDoLeavesNoThreadInside(t *testing.T) {
	host := testnet.New(t).Host("a")
	own := namespaceOf(t, "/proc/thread-self/ns/net")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			err := host.Do(func() error {
				got, err := os.Readlink("/proc/thread-self/ns/net")
				if err == nil && got == own {
					err = errors.New("not in the namespace of the host")
				}
				if unix.Gettid() == unix.Getpid() {
					err = errors.Join(err, errors.New("on the main thread"))
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		inside := foreignThreads(t, own)
		if len(inside) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got threads %v in another namespace; want none", inside)
		}
	}
}

func foreignThreads(t *testing.T, own string) (foreign []string) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if ns, err := os.Readlink(task); err == nil && ns != own {
			foreign = append(foreign, task)
		}
	}
	return foreign
}

func namespaceOf(t *testing.T, path string) string {
	t.Helper()
	ns, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestIntegrationDoReportsTheEnd(t *testing.T) {
	host := testnet.New(t).Host("a")
	want := errors.New("mine")
	if err := host.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v; want the function's error", err)
	}
	// A t.Fatal inside must not hang the test for ever.
	done := make(chan error, 1)
	go func() {
		done <- host.Do(func() error {
			(&fakeT{TB: t}).FailNow()
			return nil
		})
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("got no error; want one for a function that ended its goroutine")
		}
	case <-time.After(5 * time.Second):
		t.Error("Do hangs when the function ends its goroutine")
	}
}

func TestIntegrationProcesses(t *testing.T) {
	testutil.NoLeaks(t)
	lab := testnet.New(t)
	host := lab.Host("a")
	var inside string
	if err := host.Do(func() (err error) {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	program := lab.Program(t, "./testdata/prog/netns")
	if got, want := host.Run(t, program, "x"), inside+" [x]\n"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}

	p := host.Start(t, program, "wait")
	if exe := namespaceOf(t, fmt.Sprintf("/proc/%d/exe", p.PID())); exe != program {
		t.Errorf("got executable %s; want %s from the first instruction", exe, program)
	}
	p.WaitOutput(t, "[wait]", 5*time.Second)
	if err := p.Stop(); err != nil || !strings.HasSuffix(p.Output(), "stopped\n") {
		t.Errorf("got %v, output %q; want a clean end", err, p.Output())
	}
	if err := host.Start(t, "sh", "-c", "exit 3").Wait(); !exitedWith(err, 3) {
		t.Errorf("got %v; want exit status 3", err)
	}
	if _, err := host.Try("false"); !exitedWith(err, 1) {
		t.Errorf("got %v; want exit status 1", err)
	}
}

func exitedWith(err error, code int) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == code
}

func TestIntegrationEtc(t *testing.T) {
	lab := testnet.New(t)
	host, other := lab.Host("a"), lab.Host("b")
	host.Etc(t, "hosts", "192.0.2.7 mine\n")
	if got := host.Run(t, "cat", "/etc/hosts"); got != "192.0.2.7 mine\n" {
		t.Errorf("got %q; want the host's own file", got)
	}
	p := host.Start(t, "cat", "/etc/hosts")
	if err := p.Wait(); err != nil || p.Output() != "192.0.2.7 mine\n" {
		t.Errorf("got %q, error %v; want the host's own file", p.Output(), err)
	}
	machine, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	if got := other.Run(t, "cat", "/etc/hosts"); got != string(machine) {
		t.Errorf("got %q on another host; want the machine's file", got)
	}
}

func TestIntegrationOwnDir(t *testing.T) {
	lab := testnet.New(t)
	host, other := lab.Host("a"), lab.Host("b")
	dir := filepath.Join(t.TempDir(), "run")
	host.OwnDir(t, dir)
	host.Run(t, "touch", dir+"/socket")
	if got := host.Run(t, "ls", dir); got != "socket\n" {
		t.Errorf("got %q in the host's own directory; want what was put there", got)
	}
	if got := other.Run(t, "ls", dir); got != "" {
		t.Errorf("got %q on another host; want nothing", got)
	}
}

func TestIntegrationSniffer(t *testing.T) {
	const packets = 1000
	to4 := netip.AddrPortFrom(netip.MustParseAddr(testnet.ServerV4), 9000)
	to6 := netip.AddrPortFrom(netip.MustParseAddr(testnet.ServerV6), 9000)
	prefix := func(s string) netip.Prefix { return netip.MustParsePrefix(s) }
	for _, test := range []struct {
		name   string
		filter testnet.Filter
		sent   uint64 // packets to the server that match
		echoes uint64 // 1: those that the server echoed match too; it may lose some, when its socket is full
	}{
		{"UDP in", testnet.Filter{Proto: unix.IPPROTO_UDP, Direction: testnet.Incoming}, 2 * packets, 0},
		{"UDP out", testnet.Filter{Proto: unix.IPPROTO_UDP, Direction: testnet.Outgoing}, 0, 1},
		{"both ways", testnet.Filter{Proto: unix.IPPROTO_UDP}, 2 * packets, 1},
		{"to the port", testnet.Filter{Proto: unix.IPPROTO_UDP, DstPort: 9000}, 2 * packets, 0},
		{"from the port", testnet.Filter{Proto: unix.IPPROTO_UDP, SrcPort: 9000}, 0, 1},
		{"IPv4 destination", testnet.Filter{Dst: prefix(testnet.ServerV4 + "/32"), DstPort: 9000}, packets, 0},
		{"IPv6 destination", testnet.Filter{Dst: prefix(testnet.ServerV6 + "/128"), DstPort: 9000}, packets, 0},
		{"network", testnet.Filter{Src: prefix("fd00::/8"), DstPort: 9000}, packets, 0},
		{"other address", testnet.Filter{Dst: prefix("10.77.0.3/32")}, 0, 0},
		{"other port", testnet.Filter{DstPort: 9001}, 0, 0},
		{"other protocol", testnet.Filter{Proto: unix.IPPROTO_TCP}, 0, 0},
		{"families that exclude each other", testnet.Filter{Src: prefix("10.0.0.0/8"), Dst: prefix("fd00::/8")}, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			// a lab for each: an echo that comes late would count in the next one
			client, server := testnet.New(t).Pair()
			echo := server.UDPEcho(t, "[::]:9000")
			sniffer := server.Sniff(t, "eth0", test.filter)
			for _, to := range []netip.AddrPort{to4, to6} {
				blast(t, client, testnet.Blast{To: to, Rate: 20_000, Size: 1, For: packets * time.Second / 20_000})
			}
			want := func() uint64 { return test.sent + test.echoes*echo.Sent() }
			waitFor(func() bool { return echo.Sent() >= packets && sniffer.Count() == want() })
			if got := sniffer.Count(); got != want() {
				t.Errorf("got %d packets; want %d", got, want())
			}
			if kept := sniffer.Packets(); (len(kept) > 0) != (want() > 0) {
				t.Errorf("got %d packets to look at; want some: %v", len(kept), want() > 0)
			}
		})
	}
}

// The count must stay exact when nobody reads: the socket's buffer is full long before the end.
func TestIntegrationSnifferCountsWithoutRoom(t *testing.T) {
	client, server := testnet.New(t).Pair()
	sniffer := server.Sniff(t, "eth0", testnet.Filter{Proto: unix.IPPROTO_UDP, DstPort: 9})
	to := netip.AddrPortFrom(netip.MustParseAddr(testnet.ServerV4), 9)
	result := blast(t, client, testnet.Blast{To: to, Rate: 100_000, For: 500 * time.Millisecond})
	waitFor(func() bool { return sniffer.Count() >= result.Sent })
	if got := sniffer.Count(); got != 50_000 || result.Sent != 50_000 {
		t.Errorf("got %d seen of %d sent; want 50000 of 50000", got, result.Sent)
	}
}

func TestIntegrationBlastRefused(t *testing.T) {
	testutil.RequireTool(t, "iptables-nft")
	client, server := testnet.New(t).Pair()
	client.Run(t, "iptables-nft", "-A", "OUTPUT", "-p", "udp", "-j", "DROP")
	sniffer := server.Sniff(t, "eth0", testnet.Filter{Proto: unix.IPPROTO_UDP})
	to := netip.AddrPortFrom(netip.MustParseAddr(testnet.ServerV4), 9)
	result := blast(t, client, testnet.Blast{To: to, Ports: 10, Rate: 20_000, For: 100 * time.Millisecond})
	if result.Sent != 0 || result.Refused != 2000 {
		t.Errorf("got %+v; want 2000 refused", result)
	}
	if got := sniffer.Count(); got != 0 {
		t.Errorf("got %d leaked packets; want 0", got)
	}
}

func TestBlastRefusesTheBoundless(t *testing.T) {
	to := netip.MustParseAddrPort("10.0.0.1:9")
	for name, b := range map[string]testnet.Blast{
		"no address": {Rate: 1, For: 1},
		"no rate":    {To: to, For: 1},
		"too fast":   {To: to, Rate: 1_000_000, For: 1},
		"too long":   {To: to, Rate: 1, For: time.Hour},
		"too big":    {To: to, Rate: 1, For: 1, Size: 70_000},
		"ports":      {To: to, Rate: 1, For: 1, Ports: 65_536},
	} {
		if _, err := new(testnet.Host).Blast(t.Context(), b); err == nil {
			t.Errorf("%s: got no error; want one", name)
		}
	}
}

func blast(t *testing.T, from *testnet.Host, b testnet.Blast) testnet.BlastResult {
	t.Helper()
	result, err := from.Blast(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func waitFor(ready func() bool) {
	for deadline := time.Now().Add(3 * time.Second); !ready() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

func TestIntegrationSnapshot(t *testing.T) {
	testutil.RequireTool(t, "iptables-nft", "iptables-legacy", "nft")
	machine := firewallAndRoutes(testnet.MachineSnapshot(t))
	lab := testnet.New(t)
	host, _ := lab.Pair()
	before := host.Snapshot(t)
	if diff := testnet.Diff(before, host.Snapshot(t)); diff != "" {
		t.Fatalf("two snapshots of the same state differ:\n%s", diff)
	}
	for _, test := range []struct {
		name, do, undo string
	}{
		{"iptables-nft", "iptables-nft -A OUTPUT -j ACCEPT", "iptables-nft -D OUTPUT 1"},
		{"ip6tables-nft", "ip6tables-nft -t mangle -A OUTPUT -j ACCEPT", "ip6tables-nft -t mangle -D OUTPUT 1"},
		{"nft", "nft add table inet weirx", "nft delete table inet weirx"},
		{"rule", "ip rule add fwmark 7 lookup 77", "ip rule del fwmark 7"},
		{"IPv6 rule", "ip -6 rule add fwmark 7 lookup 77", "ip -6 rule del fwmark 7"},
		{"route", "ip route add 192.0.2.0/24 dev eth0 table 77", "ip route flush table 77"},
		{"IPv6 route", "ip -6 route add 2001:db8::/32 dev eth0 table 77", "ip -6 route flush table 77"},
		{"address", "ip address add 192.0.2.9/24 dev eth0", "ip address del 192.0.2.9/24 dev eth0"},
		{"sysctl", "sysctl -w net.ipv4.conf.eth0.rp_filter=2", "sysctl -w net.ipv4.conf.eth0.rp_filter=0"},
		{"legacy", "iptables-legacy -A OUTPUT -j ACCEPT", ""}, // last: the legacy tables stay once they are there
	} {
		t.Run(test.name, func(t *testing.T) {
			host.Run(t, "sh", "-c", test.do)
			if diff := testnet.Diff(before, host.Snapshot(t)); diff == "" {
				t.Errorf("after %q: no difference; want one", test.do)
			}
			if test.undo == "" {
				return
			}
			host.Run(t, "sh", "-c", test.undo)
			if strings.Contains(test.name, "tables") {
				before = host.Snapshot(t) // the table itself stays; from here on it belongs to the state before
			}
			if diff := testnet.Diff(before, host.Snapshot(t)); diff != "" {
				t.Errorf("after %q: difference:\n%s", test.undo, diff)
			}
		})
	}
	if diff := testnet.Diff(machine, firewallAndRoutes(testnet.MachineSnapshot(t))); diff != "" {
		t.Errorf("the lab changed the machine:\n%s", diff)
	}
}

// firewallAndRoutes leaves the kernel parameters out: on the machine itself new ones appear whenever a module is loaded.
func firewallAndRoutes(snapshot string) string {
	before, _, _ := strings.Cut(snapshot, "== sysctl\n")
	return before
}

func TestIntegrationSysctl(t *testing.T) {
	host := testnet.New(t).Host("a")
	machine, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1", "0"} {
		host.SetSysctl(t, "net.ipv4.ip_forward", want)
		if got := host.Sysctl(t, "net/ipv4/ip_forward"); got != want {
			t.Errorf("got %s; want %s", got, want)
		}
	}
	host.Forward(t)
	if got := host.Sysctl(t, "net.ipv6.conf.all.forwarding"); got != "1" {
		t.Errorf("got %s; want 1", got)
	}
	if after, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || string(after) != string(machine) {
		t.Errorf("got %q, error %v on the machine; want %q as before", after, err, machine)
	}
}

func TestIntegrationIsolate(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	testnet.RequireOwnNamespace(t)
	done := make(chan string)
	go func() { // another thread, perhaps: it is inside too
		ns, err := os.Readlink("/proc/thread-self/ns/net")
		done <- fmt.Sprint(ns, err)
	}()
	if got, want := <-done, fmt.Sprint(namespaceOf(t, "/proc/self/ns/net"), error(nil)); got != want {
		t.Errorf("got %s; want %s", got, want)
	}
	client, _ := testnet.New(t).Pair() // labs nest
	client.Run(t, "ping", "-c1", "-W2", testnet.ServerV4)
}

// fakeT lets a test see a lab end before the test itself does.
type fakeT struct {
	testing.TB
	cleanup []func()
}

func (f *fakeT) Cleanup(undo func()) { f.cleanup = append(f.cleanup, undo) }

func (f *fakeT) FailNow() { runtime.Goexit() }

func (f *fakeT) end() {
	for i := len(f.cleanup) - 1; i >= 0; i-- {
		f.cleanup[i]()
	}
}

func TestIntegrationNothingStays(t *testing.T) {
	testutil.NoLeaks(t)
	fake := &fakeT{TB: t}
	lab := testnet.New(fake)
	client, server := lab.Pair()
	client.Etc(fake, "hosts", "x\n")
	p := client.Start(fake, "sleep", "1000")
	cmd := server.Command(context.Background(), "sh", "-c", "sleep 1000 & wait")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(func() bool { return entered(cmd.Process.Pid) })
	server.TCPEcho(fake, "[::]:7")
	dir, path := lab.Dir(), server.Path()
	fake.end()
	if err := cmd.Wait(); err == nil {
		t.Error("the command ended by itself; want it killed with the lab")
	}
	<-p.Done()
	for _, gone := range []string{dir, path} {
		if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v for %s; want it gone", err, gone)
		}
	}
}

// entered reports whether a process has left this process' network namespace.
func entered(pid int) bool {
	ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	own, _ := os.Readlink("/proc/self/ns/net")
	return ns != "" && ns != own
}

// What a killed test binary leaves is removed by the next lab; what belongs to a live process stays.
func TestIntegrationSweep(t *testing.T) {
	testutil.RequireRoot(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("weirt%d-1-left", dead.Process.Pid)
	dir := filepath.Join(os.TempDir(), name)
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	left := exec.Command("nsenter", "--net=/run/netns/"+name, "--", "sleep", "1000")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	// The sleep is found by its namespace, so it must be there before the sweep.
	waitFor(func() bool { return entered(left.Process.Pid) })
	first := testnet.New(t).Host("alive")
	testnet.New(t)
	if err := left.Wait(); err == nil {
		t.Error("the process ended by itself; want it killed by the sweep")
	}
	for _, gone := range []string{dir, "/run/netns/" + name} {
		if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v for %s; want it gone", err, gone)
		}
	}
	if _, err := os.Stat(first.Path()); err != nil {
		t.Errorf("the sweep removed a living lab: %v", err)
	}
}
