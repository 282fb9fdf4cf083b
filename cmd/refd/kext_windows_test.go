package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/winerig"
	"github.com/weirfw/weir/internal/winsvc"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// driverService is the service that the refds of these tests make.
const driverService = "WeirE2E"

const patience = 90 * time.Second

// wineRefd is a refd.exe with a configuration of its own.
type wineRefd struct {
	t      *testing.T
	driver winerig.Personality
	config string
	client *api.Client
	// of the process that runs
	cmd    *exec.Cmd
	out    *buffer
	exited chan error
}

// buffer is written by a process and read by its test.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// newRefd configures a refd for the fake driver. Nobody else may load that until the test ends.
func newRefd(t *testing.T, p winerig.Personality, rules string) *wineRefd {
	t.Helper()
	r := &wineRefd{t: t, driver: p, config: filepath.Join(t.TempDir(), "refd.yaml")}
	file := winerig.DriverFile(t, p)
	winerig.Lock(t)
	r.configure(file, rules)
	r.client = api.NewClient(pipeName())
	t.Cleanup(func() {
		r.client.Close()
		if r.cmd != nil {
			r.kill()
		}
		if err := winsvc.RemoveDriver(context.Background(), driverService); err != nil && !errors.Is(err, winsvc.ErrNotInstalled) {
			t.Error(err)
		}
	})
	return r
}

func pipeName() string { return fmt.Sprintf(`\\.\pipe\weir-test-%d`, os.Getpid()) }

func (r *wineRefd) configure(driver, rules string) {
	r.t.Helper()
	text := fmt.Sprintf(`mode: enforce
api: {socket: '%s'}
kext: {driver: '%s', service: %s}
dns: {monitor: false}
ivpn: {enabled: false}
%s`, pipeName(), driver, driverService, rules)
	if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// refd runs a command of refd.exe to its end.
func (r *wineRefd) refd(args ...string) (string, error) {
	out, err := exec.CommandContext(r.t.Context(), winerig.File(r.t, "refd.exe"), append([]string{"--config", r.config}, args...)...).CombinedOutput()
	return string(out), err
}

// start starts refd and waits until it intercepts.
func (r *wineRefd) start() {
	r.t.Helper()
	r.out, r.exited = &buffer{}, make(chan error, 1)
	r.cmd = exec.Command(winerig.File(r.t, "refd.exe"), "--config", r.config, "run")
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	cmd, exited := r.cmd, r.exited
	go func() { exited <- cmd.Wait() }()
	r.eventually("refd intercepts", func() bool {
		select {
		case err := <-r.exited:
			r.cmd = nil
			r.t.Fatalf("refd ended: %v\n%s", err, r.out)
		default:
		}
		s, err := r.client.Status(r.t.Context())
		return err == nil && driverVersion(s) != ""
	})
}

func (r *wineRefd) eventually(what string, so func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not within %v\n%s", what, patience, r.out)
		}
	}
}

// driverVersion is what refd says about its driver.
func driverVersion(s api.Status) string {
	figures, ok := s.Source.(map[string]any)
	if !ok {
		return ""
	}
	v, _ := figures["driver"].(string)
	return v
}

func (r *wineRefd) kill() {
	r.t.Helper()
	if err := r.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		r.t.Error(err)
	}
	<-r.exited
	r.cmd = nil
}

// stop stops refd by its command, and checks that it leaves nothing.
func (r *wineRefd) stop() {
	r.t.Helper()
	if out, err := r.refd("stop"); err != nil {
		r.t.Errorf("refd stop: %v: %s", err, out)
	}
	select {
	case err := <-r.exited:
		if err != nil {
			r.t.Errorf("refd ended with %v\n%s", err, r.out)
		}
	case <-time.After(patience):
		r.t.Fatalf("refd goes on after refd stop\n%s", r.out)
	}
	r.cmd = nil
	r.wantInstalled(false)
	if d, err := winerig.Connect(); err == nil {
		r.t.Error("the driver runs after refd")
		_ = d.Close() // only looked for
	}
}

func (r *wineRefd) wantInstalled(want bool) {
	r.t.Helper()
	if got, err := winsvc.Installed(driverService); got != want || err != nil {
		r.t.Errorf("the driver's service is installed: got %v, %v; want %v\n%s", got, err, want, r.out)
	}
}

// rulesOfTest decide by the remote port.
const rulesOfTest = `default: {in: drop, out: block}
global:
  - {id: web, remote_ports: "443", action: %s}
  - {id: names, remote_ports: "53", action: allow}
  - {id: mail, remote_ports: "25", action: block}
  - {id: echo, remote_ports: "7", action: drop}
`

// asked is a packet that the driver asks about, and what refd must say.
type asked struct {
	packet kexttest.Packet
	want   string // as the driver's table calls it
}

func packetsOfTest() (all []asked) {
	for n, hosts := range [][2]string{{"10.0.0.5", "192.0.2.9"}, {"fd00::5", "2001:db8::9"}} {
		local, remote := netip.MustParseAddr(hosts[0]), netip.MustParseAddr(hosts[1])
		port := uint16(50000 + 100*n)
		add := func(to uint16, dir packet.Direction, want string, build func(local, remote netip.AddrPort, dir packet.Direction) kexttest.Packet) {
			port++
			all = append(all, asked{build(netip.AddrPortFrom(local, port), netip.AddrPortFrom(remote, to), dir), want})
		}
		add(443, packet.Outbound, "permanent accept", kexttest.SYN)
		add(25, packet.Outbound, "permanent block", kexttest.SYN)
		add(7, packet.Outbound, "permanent drop", kexttest.UDP)
		add(99, packet.Outbound, "permanent block", kexttest.UDP) // by default
		add(99, packet.Inbound, "permanent drop", kexttest.SYN)   // by default
	}
	return all
}

// TestEndToEnd: the real refd.exe installs and starts the driver, decides what it asks, shows it, changes it, and leaves nothing.
func TestEndToEnd(t *testing.T) {
	for p, version := range map[winerig.Personality]string{winerig.V1: "1.0.12.0", winerig.V2: "2.1.1.0"} {
		t.Run(string(p), func(t *testing.T) {
			r := newRefd(t, p, fmt.Sprintf(rulesOfTest, "allow"))
			r.start()
			d, err := winerig.Connect()
			if err != nil {
				t.Fatal(err)
			}
			s, err := r.client.Status(t.Context())
			if err != nil || driverVersion(s) != version || s.Mode != "enforce" {
				t.Errorf("got driver %q, mode %s, %v; want %s, enforce", driverVersion(s), s.Mode, err, version)
			}
			all := packetsOfTest()
			r.ask(d, all)
			r.checkConnections(all)
			r.checkDNS(d)
			r.checkCommands()
			r.checkReload(d)
			if rep := d.Await(t, "report", func(winerig.Report) bool { return true }); rep.Wrong+rep.Illegal+rep.Unexpected != 0 {
				t.Errorf("the driver complains: %+v", rep)
			}
			if err := d.Close(); err != nil { // or it could not be unloaded
				t.Error(err)
			}
			r.stop()
		})
	}
}

// ask lets the driver ask about all packets, and waits for the right verdicts. In v1 processes come by a request of their own.
func (r *wineRefd) ask(d *winerig.Driver, all []asked) {
	r.t.Helper()
	pid := uint64(os.Getpid())
	var errs []error
	for n, a := range all {
		q := winerig.Question{ID: uint64(n + 1), Tuple: a.packet.Info.Tuple, Direction: a.packet.Info.Direction, Packet: a.packet.Bytes}
		errs = append(errs, d.Expect(q.ID, a.want))
		if r.driver == winerig.V1 {
			q.ExpectsInfo = true
			errs = append(errs, d.Ask(r.driver, q), d.Ask(r.driver, winerig.Question{ID: 1000 + q.ID, PID: pid, Tuple: q.Tuple, Direction: q.Direction}))
			continue
		}
		q.PID = pid
		errs = append(errs, d.Ask(r.driver, q))
	}
	if err := errors.Join(errs...); err != nil {
		r.t.Fatal(err)
	}
	want := uint64(len(all))
	rep := d.Await(r.t, "verdicts", func(rep winerig.Report) bool { return rep.Right+rep.Wrong+rep.Illegal+rep.Unexpected >= want })
	if rep.Right != want {
		r.t.Fatalf("got %+v; want %d right ones\n%s", rep, want, r.out)
	}
}

// checkConnections wants to see what was decided about whom.
func (r *wineRefd) checkConnections(all []asked) {
	r.t.Helper()
	page, err := r.client.Connections(r.t.Context(), connstore.Query{PID: os.Getpid()})
	if err != nil || page.Total != len(all) {
		r.t.Fatalf("got %d connections of this process, %v; want %d", page.Total, err, len(all))
	}
	exe, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, c := range page.Connections {
		if c.Process == nil || !strings.EqualFold(filepath.Base(c.Process.Path), filepath.Base(exe)) {
			r.t.Errorf("%v: got process %+v; want %s", c.Tuple, c.Process, exe)
		}
	}
}

// checkDNS lets refd read a name in the payload of an answer (RFC 1035 section 4), and use it.
func (r *wineRefd) checkDNS(d *winerig.Driver) {
	r.t.Helper()
	local, server := netip.MustParseAddrPort("10.0.0.5:40000"), netip.MustParseAddrPort("192.0.2.53:53")
	question := "0001" + "0100" + "0001000000000000" + "0161" + "0474657374" + "00" + "00010001" // a.test, A, IN
	answer := "0001" + "8180" + "0001000100000000" + "0161" + "0474657374" + "00" + "00010001" +
		"c00c" + "00010001" + "0000003c" + "0004" + "c6336407" // 198.51.100.7 for 60 s
	var errs []error
	for n, p := range []kexttest.Packet{
		kexttest.Datagram(local, server, packet.Outbound, unhex(r.t, question)),
		kexttest.Datagram(local, server, packet.Inbound, unhex(r.t, answer)),
	} {
		q := winerig.Question{ID: uint64(101 + n), Tuple: p.Info.Tuple, Direction: p.Info.Direction, Packet: p.Bytes}
		errs = append(errs, d.Expect(q.ID, "accept"), d.Ask(r.driver, q))
	}
	web := kexttest.SYN(netip.MustParseAddrPort("10.0.0.5:40001"), netip.MustParseAddrPort("198.51.100.7:443"), packet.Outbound)
	errs = append(errs, d.Expect(103, "permanent accept"))
	if err := errors.Join(errs...); err != nil {
		r.t.Fatal(err)
	}
	d.Await(r.t, "verdicts on DNS", func(rep winerig.Report) bool { return rep.Waiting <= 1 })
	if err := d.Ask(r.driver, winerig.Question{ID: 103, Tuple: web.Info.Tuple, Packet: web.Bytes}); err != nil {
		r.t.Fatal(err)
	}
	d.Await(r.t, "verdict on a connection with a name", func(rep winerig.Report) bool { return rep.Waiting == 0 })
	page, err := r.client.Connections(r.t.Context(), connstore.Query{Domain: "a.test"})
	if err != nil || page.Total != 1 || page.Connections[0].Tuple != web.Info.Tuple {
		r.t.Errorf("got %+v, %v; want the connection to a.test", page, err)
	}
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checkCommands runs what people run, as they do.
func (r *wineRefd) checkCommands() {
	r.t.Helper()
	for _, c := range []struct {
		want string
		args []string
	}{
		{`"driver": "` + map[winerig.Personality]string{winerig.V1: "1.", winerig.V2: "2."}[r.driver], []string{"status", "--json"}},
		{"192.0.2.9:443", []string{"conns"}},
		{"mail", []string{"explain", `C:\x.exe`, "192.0.2.1:25"}},
		{"echo", []string{"rules"}},
		{"\n", []string{"interfaces"}},
		{"another refd works with the driver", []string{"run"}},
		{"another refd works with the driver", []string{"cleanup"}},
	} {
		if out, err := r.refd(c.args...); !strings.Contains(out, c.want) {
			r.t.Errorf("refd %v: got %v: %s; want %q in it", c.args, err, out, c.want)
		}
	}
}

// checkReload makes what was allowed forbidden: the driver is told, in the words of its protocol.
func (r *wineRefd) checkReload(d *winerig.Driver) {
	r.t.Helper()
	if _, err := d.Take(); err != nil {
		r.t.Fatal(err)
	}
	r.configure(winerig.DriverFile(r.t, r.driver), fmt.Sprintf(rulesOfTest, "block"))
	if out, err := r.refd("reload"); err != nil || !strings.Contains(out, "3 running connections got another verdict") {
		r.t.Fatalf("refd reload: %v: %s", err, out)
	}
	// By hand from the tables: [fd00::5]:50101 to [2001:db8::9]:443, TCP, blocked for good.
	want, update := "03"+"06"+"fd000000000000000000000000000005"+"b5c3"+"20010db8000000000000000000000009"+"bb01"+"05", uint32(3)
	if r.driver == winerig.V1 {
		want, update = "000000fd"+"0000000000000000"+"05000000"+"b80d0120"+"0000000000000000"+"09000000"+"b5c3"+"bb01"+"01"+"06"+"03"+"00", 0x806
	}
	commands, err := d.Take()
	if err != nil {
		r.t.Fatal(err)
	}
	var got []string
	for _, c := range commands {
		if c.What == update {
			got = append(got, hex.EncodeToString(c.Data))
		}
	}
	if len(got) == 0 || !strings.Contains(strings.Join(got, " "), want) {
		r.t.Errorf("got updates %v; want %s among them", got, want)
	}
}

// TestKilled: the service of a refd that was killed is taken over by the next one.
func TestKilled(t *testing.T) {
	for _, p := range []winerig.Personality{winerig.V1, winerig.V2} {
		t.Run(string(p), func(t *testing.T) {
			r := newRefd(t, p, fmt.Sprintf(rulesOfTest, "allow"))
			r.start()
			r.kill()
			r.wantInstalled(true)
			if out, err := r.refd("status"); err == nil || !strings.Contains(out, "not running") {
				t.Errorf("status of a dead refd: got %v: %s", err, out)
			}
			r.start()
			d, err := winerig.Connect()
			if err != nil {
				t.Fatal(err)
			}
			r.ask(d, packetsOfTest())
			if err := d.Close(); err != nil { // or it could not be unloaded
				t.Error(err)
			}
			r.stop()
		})
	}
}

// TestCleanup: refd cleanup removes it.
func TestCleanup(t *testing.T) {
	r := newRefd(t, winerig.V2, "")
	r.start()
	r.kill()
	if out, err := r.refd("cleanup"); err != nil || !strings.Contains(out, "removed: the service of the driver "+driverService) {
		t.Errorf("cleanup: got %v: %s", err, out)
	}
	r.wantInstalled(false)
	if out, err := r.refd("cleanup"); err != nil || !strings.Contains(out, "nothing to do") {
		t.Errorf("second cleanup: got %v: %s", err, out)
	}
}

// TestDriverProblems: what is wrong with the driver is said at the start, with the remedy.
func TestDriverProblems(t *testing.T) {
	r := newRefd(t, winerig.V20, "split_tunnel: {engine: proxy}\n")
	for name, c := range map[string]struct{ driver, rules, want string }{
		"none":         {"", "", "kext.driver"},
		"absent":       {`C:\none\kext.sys`, "", `C:\none\kext.sys`},
		"old":          {winerig.DriverFile(t, winerig.V20), "split_tunnel: {engine: proxy}\n", "2.1.0 or later is needed"},
		"no driver":    {r.config, "", "start the driver"},
		"closed":       {"", "on_exit: closed\n", `on_exit: "closed": unknown value (use one of ["open"])`},
		"other engine": {"", "split_tunnel: {engine: kroute}\n", `unknown value (use one of ["proxy" "none"])`},
	} {
		r.configure(c.driver, c.rules)
		if out, err := r.refd("run"); err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: got %v: %s; want %q", name, err, out, c.want)
		}
		r.wantInstalled(false)
	}
}

// TestStatusAsJSON: the figures of the driver have stable names.
func TestStatusAsJSON(t *testing.T) {
	r := newRefd(t, winerig.V2, "")
	r.start()
	out, err := r.refd("status", "--json")
	var s api.Status
	if jerr := json.Unmarshal([]byte(out), &s); jerr != nil || err != nil {
		t.Fatalf("got %v, %v: %s", err, jerr, out)
	}
	if s.Firewall.Verdicts[verdict.Block] != 0 || driverVersion(s) != "2.1.1.0" {
		t.Errorf("got %+v", s)
	}
	r.stop()
}
