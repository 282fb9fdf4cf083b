package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/ivpn"
	"github.com/weirfw/weir/pkg/nfq"
)

const (
	// startLimit bounds how long refd takes to start, on a busy machine.
	startLimit = 20 * time.Second
	// pollPause is between two looks at something that is to become true.
	pollPause = 10 * time.Millisecond
)

// rig is a client with refd, a server without, and what is between them.
type rig struct {
	lab     *testnet.Lab
	client  *testnet.Host
	server  *testnet.Host
	variant testutil.Variant
	dir     string
	binary  string
	refd    *testnet.Process // nil while none runs
}

// settings are what tests change in refd's configuration.
type settings struct {
	mode     string // enforce if empty
	onExit   string // open if empty
	verdicts string // of permanent_verdicts; true if empty
	owners   string // attribution.method; inet_diag if empty: attaching eBPF takes longer than most tests' refd lives
	rules    string // YAML: default, apps, global
}

func newRig(t *testing.T, variant testutil.Variant) *rig {
	t.Helper()
	testutil.RequireIPTables(t, variant)
	testutil.RequireNFQUEUE(t)
	testutil.RequireTool(t, "curl", "ping", "socat", "iperf3", "nft", "conntrack")
	lab := testnet.New(t)
	r := &rig{lab: lab, variant: variant, dir: lab.Dir()}
	r.binary = lab.Program(t, "github.com/weirfw/weir/cmd/refd")
	r.client, r.server = lab.Pair()
	return r
}

// eachVariant runs a test once for each variant of iptables, both at a time: they mostly wait.
func eachVariant(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	for _, v := range []testutil.Variant{testutil.VariantNFT, testutil.VariantLegacy} {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			test(t, newRig(t, v))
		})
	}
}

func (r *rig) configPath() string { return filepath.Join(r.dir, "refd.yaml") }

// configure writes refd's configuration file.
func (r *rig) configure(t *testing.T, s settings) {
	t.Helper()
	or := func(value, otherwise string) string {
		if value == "" {
			return otherwise
		}
		return value
	}
	rules := s.rules
	if !strings.Contains(rules, "dns:") {
		rules += "\ndns: {self_check: false}\n" // its packets would be counted
	}
	config := fmt.Sprintf(`mode: %s
on_exit: %s
permanent_verdicts: %s
api: {socket: %s}
netfilter: {variant: %s, state_dir: %s}
attribution: {method: %s}
%s`, or(s.mode, "enforce"), or(s.onExit, "open"), or(s.verdicts, "true"),
		filepath.Join(r.dir, "refd.sock"), r.variant, filepath.Join(r.dir, "state"), or(s.owners, "inet_diag"), rules)
	if err := os.WriteFile(r.configPath(), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
}

// start starts refd with these settings and waits until it intercepts. The end of the test stops it, and wants it to end
// well.
func (r *rig) start(t *testing.T, s settings) {
	t.Helper()
	r.configure(t, s)
	r.launch(t)
}

// launch is start with the configuration that is there, and flags for `refd run`.
func (r *rig) launch(t *testing.T, flags ...string) {
	t.Helper()
	started := r.client.Start(t, r.binary, append([]string{"--config", r.configPath(), "run"}, flags...)...)
	r.refd = started
	t.Cleanup(func() {
		if r.refd == started {
			r.stop(t)
		}
	})
	r.eventually(t, startLimit, "refd runs", func() bool {
		select {
		case <-r.refd.Done():
			t.Fatalf("refd ended: %v\n%s", r.refd.Wait(), r.refd.Output())
		default:
		}
		s, ok := r.tryStatus()
		return ok && s.intercepts(r.refd.PID())
	})
}

// stop ends refd as a service manager would.
func (r *rig) stop(t *testing.T) {
	t.Helper()
	if err := r.refd.Stop(); err != nil {
		t.Errorf("stop refd: %v\n%s", err, r.refd.Output())
	}
	r.refd = nil
}

// kill ends refd as a crash would.
func (r *rig) kill(t *testing.T) {
	t.Helper()
	r.refd.Kill()
	r.refd = nil
}

// hangUp sends SIGHUP.
func (r *rig) hangUp(t *testing.T) {
	t.Helper()
	if err := r.refd.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// cli runs a command of refd that must succeed.
func (r *rig) cli(t *testing.T, args ...string) string {
	t.Helper()
	return r.client.Run(t, r.binary, append([]string{"--config", r.configPath()}, args...)...)
}

// status is what the tests read of `refd status --json`.
type status struct {
	PID     int       `json:"pid"`
	Live    int       `json:"live"`
	Mode    string    `json:"mode"`
	Source  nfq.Stats `json:"source"`
	Modules []struct {
		Name  string `json:"name"`
		Phase string `json:"phase"`
	} `json:"modules"`
	IVPN       ivpn.State      `json:"ivpn"`
	Nameserver *api.Nameserver `json:"nameserver"`

	Attribution api.Attribution `json:"attribution"`
}

// intercepts says whether all of the refd with this process id works.
func (s *status) intercepts(pid int) bool {
	for _, m := range s.Modules {
		if m.Phase != "running" {
			return false
		}
	}
	return s.PID == pid && len(s.Modules) > 0
}

func (r *rig) tryStatus() (s status, ok bool) {
	// By the socket rather than by the program: this is asked very often.
	client := api.NewClient(filepath.Join(r.dir, "refd.sock"))
	defer client.Close()
	full, err := client.Status(context.Background())
	if err != nil {
		return s, false
	}
	b, err := json.Marshal(full)
	return s, err == nil && json.Unmarshal(b, &s) == nil
}

// source returns the figures of the packet backend.
func (r *rig) source(t *testing.T) nfq.Stats {
	t.Helper()
	s, ok := r.tryStatus()
	if !ok {
		t.Fatal("refd status does not answer")
	}
	return s.Source
}

// conns returns the connections that `refd conns` lists with these flags, newest first.
func (r *rig) conns(t *testing.T, flags ...string) []conn.Snapshot {
	t.Helper()
	var page connstore.Page
	out := r.cli(t, append([]string{"conns", "--json", "--limit", "0"}, flags...)...)
	if err := json.Unmarshal([]byte(out), &page); err != nil {
		t.Fatalf("refd conns --json: %v\n%s", err, out)
	}
	return page.Connections
}

// conn returns the newest connection with this remote address and port; port 0 is any.
func (r *rig) conn(t *testing.T, remote netip.Addr, port uint16, flags ...string) conn.Snapshot {
	t.Helper()
	flags = append([]string{"--remote", remote.String()}, flags...)
	if port != 0 {
		flags = append(flags, "--port", fmt.Sprint(port))
	}
	list := r.conns(t, flags...)
	if len(list) == 0 {
		t.Fatalf("refd conns %s: none; want one", strings.Join(flags, " "))
	}
	return list[0]
}

// eventually polls until the condition holds, and fails the test when it does not in time. It returns how long it took.
func (r *rig) eventually(t *testing.T, limit time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !holds() {
		if time.Since(start) > limit {
			output, conns := "", ""
			if r.refd != nil {
				output = r.refd.Output()
				// Of a refd that hangs, its error.
				conns, _ = r.client.Try(r.binary, "--config", r.configPath(), "conns")
			}
			t.Fatalf("%s: not within %v\nrefd printed:\n%s\nrefd conns:\n%s", what, limit, output, conns)
		}
		time.Sleep(pollPause)
	}
	return time.Since(start)
}

// primeTables makes the legacy variant list its tables, which it does for ever once they were used.
func (r *rig) primeTables(t *testing.T) {
	t.Helper()
	for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		for _, table := range []string{"filter", "mangle", "nat"} {
			if r.variant == testutil.VariantLegacy {
				r.client.Run(t, r.tool(a, ""), "-t", table, "-S")
			}
		}
	}
}

// tool is the name of an iptables program of the rig's variant and of an address's family: tool(a, "-save").
func (r *rig) tool(a netip.Addr, suffix string) string {
	name := "iptables-"
	if a.Is6() {
		name = "ip6tables-"
	}
	return name + string(r.variant) + suffix
}

// eachFamily runs a test for both server addresses.
func eachFamily(t *testing.T, test func(t *testing.T, server netip.Addr)) {
	t.Helper()
	for _, addr := range []string{testnet.ServerV4, testnet.ServerV6} {
		a := netip.MustParseAddr(addr)
		name := "v4"
		if a.Is6() {
			name = "v6"
		}
		t.Run(name, func(t *testing.T) { test(t, a) })
	}
}
