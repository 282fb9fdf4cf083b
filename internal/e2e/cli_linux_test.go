package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
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
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// cliRules have one rule for each thing that the commands show.
const cliRules = allowAll + `
apps:
  - id: curl
    match: [{path: /usr/bin/curl}]
    rules:
      - {id: curl-web, remote_ports: "8080", remote: [10.77.0.2], action: allow}
      - {id: curl-rest, action: block, comment: curl may only browse}
global:
  - {id: no-ping, direction: out, protocols: [icmp], action: drop}
  - {id: eth-only, interfaces: [eth0], protocols: [sctp], action: block}
`

// command runs refd and returns what it printed and its exit status.
func (r *rig) command(t *testing.T, args ...string) (out string, status int) {
	t.Helper()
	out, err := r.client.Try(r.binary, append([]string{"--config", r.configPath()}, args...)...)
	if status = exitStatus(err); status < 0 {
		t.Fatalf("refd %s: %v", strings.Join(args, " "), err)
	}
	return out, status
}

// wantRow wants one line of a table to have all these words.
func wantRow(t *testing.T, table string, words ...string) {
	t.Helper()
	for line := range strings.Lines(table) {
		all := true
		for _, word := range words {
			all = all && strings.Contains(line, word)
		}
		if all {
			return
		}
	}
	t.Errorf("no row has all of %q:\n%s", words, table)
}

// decode reads what a command printed with --json.
func decode[T any](t *testing.T, out string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return v
}

// What a person sees of refd fits what real programs met.
func TestIntegrationCommands(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t, testutil.VariantNFT)
	serveBoth(t, r)
	// The kernel keeps a closed connection for two minutes, and tells of its end when it has looked again.
	r.client.SetSysctl(t, "net.netfilter.nf_conntrack_tcp_timeout_time_wait", "1")
	r.start(t, settings{rules: cliRules, owners: "auto"})
	server4, server6 := both()[0], both()[1]
	running := r.download(t, r.client, "/usr/bin/curl", testnet.ServerV4)
	waitGrow(t, r, []*download{running})
	r.wantCurl(t, "/usr/bin/curl", server4, answered)
	r.wantCurl(t, "/usr/bin/curl", server6, refused)
	wantAll(t, []verdictCase{{name: "ping", probe: probe{host: r.client, protocol: "echo", from: clientOf(server4), to: server4}}}, silent)

	t.Run("conns", func(t *testing.T) { testConns(t, r, running) })
	t.Run("conns --watch", func(t *testing.T) { testWatch(t, r) })
	t.Run("explain", func(t *testing.T) { testExplain(t, r) })
	t.Run("rules", func(t *testing.T) { testRules(t, r) })
	t.Run("interfaces", func(t *testing.T) { testInterfaces(t, r) })
	t.Run("status", func(t *testing.T) { testStatus(t, r) })
	t.Run("ordinary user", func(t *testing.T) {
		for _, command := range []string{"status", "conns", "rules", "stop", "reload"} {
			out, err := r.client.Try("setpriv", "--reuid=65534", "--clear-groups", r.binary, "--config", r.configPath(), command)
			if exitStatus(err) != 1 || !strings.Contains(out, "use sudo") {
				t.Errorf("refd %s: %v: %s; want status 1 and a hint at sudo", command, err, out)
			}
		}
		out, err := r.client.Try("setpriv", "--reuid=65534", "--clear-groups", r.binary, "--config", r.configPath(),
			"explain", "/usr/bin/curl", "[fd77::2]:80")
		if err != nil || !strings.Contains(out, "by the configuration file") || !strings.Contains(out, "rule curl-rest") {
			t.Errorf("explain: %v: %s; want the answer of the configuration file, and a note", err, out)
		}
	})
}

func testConns(t *testing.T, r *rig, running *download) {
	t.Helper()
	all := r.cli(t, "conns")
	wantRow(t, all, "ID", "TIME", "APP", "DIR", "PROTO", "LOCAL", "REMOTE", "VERDICT", "WHY")
	app := fmt.Sprintf("curl[%d]", running.PID())
	wantRow(t, all, app, "out", "tcp", "10.77.0.1:", "10.77.0.2:8080", "accepted", "rule curl-web")
	wantRow(t, all, "curl[", "out", "tcp", "[fd77::2]:8080", "blocked", "rule curl-rest")
	wantRow(t, all, "ping[", "out", "icmp", "10.77.0.2", "dropped", "rule no-ping")
	if out := r.cli(t, "conns", "--limit", "1"); strings.Count(out, "\n") != 3 || !strings.Contains(out, "--limit 0 shows all") {
		t.Errorf("conns --limit 1:\n%s", out)
	}
	for _, c := range []struct {
		flags []string
		want  int
	}{
		{[]string{"--app", "curl"}, 3},
		{[]string{"--app", "ping"}, 1},
		{[]string{"--verdict", "Block"}, 1},
		{[]string{"--verdict", "Drop", "--verdict", "Block"}, 2},
		{[]string{"--remote", "10.77.0.0/24", "--port", "8080"}, 2},
		{[]string{"--remote", "192.0.2.1"}, 0},
		{[]string{"--direction", "in"}, 0},
	} {
		if got := r.conns(t, c.flags...); len(got) != c.want {
			t.Errorf("conns %s: got %d; want %d", strings.Join(c.flags, " "), len(got), c.want)
		}
	}
	r.eventually(t, startLimit, "ended connections are not live", func() bool {
		r.client.Run(t, "conntrack", "-L") // makes it look
		live := r.conns(t, "--live", "--verdict", "Accept")
		return len(live) == 1 && live[0].Process != nil && live[0].Process.PID == running.PID()
	})
	s := r.conns(t, "--live", "--verdict", "Accept")[0]
	if s.Process.Path != "/usr/bin/curl" || s.Process.Args[len(s.Process.Args)-1] != "http://10.77.0.2:8080/stream" {
		t.Errorf("got process %+v; want that of the download", s.Process)
	}
	if s.Tuple.Protocol != packet.TCP || s.Direction != packet.Outbound || s.Decision.Scope != verdict.ScopePermanent || !s.Enforced {
		t.Errorf("got %+v; want an outbound TCP connection decided for good", s)
	}
	for _, bad := range [][]string{{"--verdict", "Maybe"}, {"--remote", "here"}, {"--direction", "up"}} {
		if out, status := r.command(t, append([]string{"conns"}, bad...)...); status != 1 || !strings.Contains(out, bad[0]) {
			t.Errorf("conns %q: status %d: %s; want 1 and an error", bad, status, out)
		}
	}
}

// A watch shows a connection that comes later, and ends well when it is interrupted.
func testWatch(t *testing.T, r *rig) {
	t.Helper()
	watch := r.client.Start(t, r.binary, "--config", r.configPath(), "conns", "-w", "--port", "8081")
	watch.WaitOutput(t, "WHY", startLimit)
	if out, err := r.client.Try("curl", "-gsS", "-m5", "http://10.77.0.2:8081/"); err == nil {
		t.Errorf("curl got an answer: %s", out)
	}
	watch.WaitOutput(t, "10.77.0.2:8081", startLimit)
	if err := watch.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := waitEnd(t, watch); err != nil {
		t.Errorf("interrupted: %v; want a good end\n%s", err, watch.Output())
	}
}

func testExplain(t *testing.T, r *rig) {
	t.Helper()
	for _, c := range []struct {
		args    []string
		verdict verdict.Verdict
		rule    string
	}{
		{[]string{"/usr/bin/curl", "10.77.0.2:8080"}, verdict.Accept, "curl-web"},
		{[]string{"/usr/bin/curl", "[fd77::2]:8080"}, verdict.Block, "curl-rest"},
		{[]string{"/usr/bin/other", "[fd77::2]:8080"}, verdict.Accept, ""},
		{[]string{"/usr/bin/ping", "10.77.0.2", "-p", "icmp"}, verdict.Drop, "no-ping"},
		{[]string{"-", "10.77.0.2:1", "-p", "sctp", "--interface", "eth0"}, verdict.Block, "eth-only"},
		{[]string{"-", "10.77.0.2:1", "-p", "sctp", "--interface", "lo"}, verdict.Accept, ""},
	} {
		out := r.cli(t, append([]string{"explain", "--json"}, c.args...)...)
		e := decode[api.Explanation](t, out)
		if e.Decision.Verdict != c.verdict || e.Decision.Reason.Rule != c.rule || !e.Enforced {
			t.Errorf("explain %q: got %+v; want %v by rule %q", c.args, e.Decision, c.verdict, c.rule)
		}
		text := r.cli(t, append([]string{"explain"}, c.args...)...)
		wantRow(t, text, "would be "+c.verdict.Verb())
		if c.rule != "" {
			wantRow(t, text, "because", "rule "+c.rule)
			wantRow(t, text, c.rule, "<=")
		}
	}
	if out, status := r.command(t, "explain", "-", "10.77.0.2", "--interface", "wlan9"); status != 1 || !strings.Contains(out, "refd interfaces") {
		t.Errorf("unknown interface: status %d: %s; want 1 and a hint", status, out)
	}
}

// testRules wants the hit counter to count connections, and explanations not.
func testRules(t *testing.T, r *rig) {
	t.Helper()
	hits := func() (n uint64) {
		for _, rule := range decode[[]api.Rule](t, r.cli(t, "rules", "--json")) {
			if rule.ID == "curl-web" {
				return rule.Hits
			}
		}
		t.Fatal("no rule curl-web")
		return 0
	}
	before := hits()
	r.wantCurl(t, "/usr/bin/curl", both()[0], answered)
	r.cli(t, "explain", "/usr/bin/curl", "10.77.0.2:8080")
	if got := hits() - before; got != 1 {
		t.Errorf("one connection counted as %d hits; want 1", got)
	}
	table := r.cli(t, "rules")
	wantRow(t, table, "RULE", "LAYER", "ACTION", "HITS", "COMMENT")
	wantRow(t, table, "curl-rest", "app curl", "block", "curl may only browse")
	wantRow(t, table, "no-ping", "global", "drop")
}

func testInterfaces(t *testing.T, r *rig) {
	t.Helper()
	table := r.cli(t, "interfaces")
	wantRow(t, table, "NAME", "KIND", "UP", "MAC", "ADDRESSES", "GATEWAYS", "DEFAULT FOR")
	wantRow(t, table, "lo", "loopback", "yes", "127.0.0.1/8", "::1/128")
	wantRow(t, table, "eth0", "yes", testnet.ClientV4+"/24", testnet.ClientV6+"/64", testnet.ServerV4, testnet.ServerV6)
	list := decode[[]api.Interface](t, r.cli(t, "interfaces", "--json"))
	if len(list) != 2 || list[1].Name != "eth0" || list[1].Default4 != testnet.ServerV4 || list[1].Default6 != testnet.ServerV6 {
		t.Errorf("got %+v; want lo and eth0 with the server as gateway", list)
	}
}

func testStatus(t *testing.T, r *rig) {
	t.Helper()
	out, status := r.command(t, "status")
	if status != 0 {
		t.Errorf("status: exit status %d; want 0\n%s", status, out)
	}
	wantRow(t, out, "mode", "enforce")
	wantRow(t, out, "running since", fmt.Sprintf("pid %d", r.refd.PID()))
	wantRow(t, out, "configuration", r.configPath(), "4 rules")
	wantRow(t, out, "connections", "accepted", "blocked", "dropped")
	wantRow(t, out, "module packets", "running")
	s := decode[api.Status](t, r.cli(t, "status", "--json"))
	if s.PID != r.refd.PID() || s.Rules != 4 || s.Firewall.Verdicts[verdict.Drop] == 0 || s.Live == 0 {
		t.Errorf("got %+v; want what the text says", s)
	}
	r.cli(t, "pause", "10m")
	if out, status = r.command(t, "status"); status == 0 || !strings.Contains(out, "paused until") {
		t.Errorf("paused: exit status %d; want that of a state that says so\n%s", status, out)
	}
	t.Logf("paused: exit status %d", status)
	r.cli(t, "resume")
	if out, status = r.command(t, "status"); status != 0 || strings.Contains(out, "paused until") {
		t.Errorf("resumed: exit status %d; want 0\n%s", status, out)
	}
}

// Commands that need no running refd.
func TestIntegrationCommandsWithoutRefd(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t, testutil.VariantNFT)
	r.configure(t, settings{rules: cliRules})
	for _, command := range []string{"status", "conns", "rules", "reload", "confirm", "stop", "resume"} {
		out, status := r.command(t, command)
		want := 1
		if command == "status" {
			want = 3
		}
		if status != want || !strings.Contains(out, "refd is not running") {
			t.Errorf("refd %s: status %d: %s; want %d and the reason", command, status, out, want)
		}
	}
	wantRow(t, r.cli(t, "version"), "refd ")
	wantRow(t, r.cli(t, "check"), "good", "mode enforce", "4 rules")
	wantRow(t, r.cli(t, "explain", "/usr/bin/curl", "[fd77::2]:80"), "because", "rule curl-rest")
	wantRow(t, r.cli(t, "interfaces"), "eth0")
	const sctp = "10.77.0.2:1"
	wantRow(t, r.cli(t, "explain", "--offline", "-p", "sctp", "--interface", "eth0", "-", sctp), "because", "rule eth-only")
	if out := r.cli(t, "explain", "--offline", "-p", "sctp", "--interface", "lo", "-", sctp); strings.Contains(out, "because  rule eth-only") {
		t.Errorf("explain by the file does not see the interface:\n%s", out)
	}
	bad := filepath.Join(r.dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("mode: maybe\nglobal: [{id: a, remote: [x y], action: block}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, status := r.command(t, "check", bad)
	if status != 1 {
		t.Errorf("check of a bad file: status %d; want 1", status)
	}
	wantRow(t, out, "bad.yaml:1:7:", "maybe")
	wantRow(t, out, "bad.yaml:2:", "x y")

	script := filepath.Join(r.dir, "completion")
	if err := os.WriteFile(script, []byte(r.cli(t, "completion", "bash")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ words, want string }{
		{"refd co", "conns confirm completion"}, {"refd conns --wa", "--watch"}, {"refd stop --r", "--restart"},
	} {
		const complete = `. "$1"; COMP_WORDS=($2); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _refd; echo ${COMPREPLY[@]}`
		if got := strings.TrimSpace(r.client.Run(t, "bash", "-c", complete, "bash", script, c.words)); got != c.want {
			t.Errorf("completion of %q: got %q; want %q", c.words, got, c.want)
		}
	}
}

// The log is for programs, too.
func TestIntegrationLogJSON(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t, testutil.VariantNFT)
	r.configure(t, settings{})
	r.launch(t, "--log-format", "json", "--log-level", "debug")
	r.client.Run(t, "ping", "-n", "-c1", netip.MustParseAddr(testnet.ServerV4).String())
	p := r.refd
	r.stop(t)
	for line := range bytes.Lines([]byte(p.Output())) {
		entry := decode[map[string]any](t, string(line))
		if entry["time"] == nil || entry["level"] == nil || entry["msg"] == nil {
			t.Errorf("log entry without time, level or message: %s", line)
		}
	}
}

// A machine that on_exit: closed has closed can be opened again, whatever became of the configuration file, and whoever has to find
// out which one it was is told.
func TestIntegrationCleanupWithoutAGoodFile(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		r.primeTables(t)
		before := r.client.Snapshot(t)
		mine := fmt.Sprintf("mode: enforce\non_exit: closed\napi: {socket: %s}\nnetfilter:\n  variant: %s\n  chain_prefix: MINE\n  state_dir: %s\n",
			filepath.Join(r.dir, "refd.sock"), r.variant, filepath.Join(r.dir, "state"))
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(r.configPath(), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		closeDown := func() {
			t.Helper()
			write(mine)
			r.launch(t)
			p := r.refd
			r.stop(t)
			if want := "sudo refd --config " + r.configPath() + " cleanup"; !strings.Contains(p.Output(), want) {
				t.Errorf("the closed refd does not say how to open: want %q in\n%s", want, p.Output())
			}
			r.wantCurl(t, "/usr/bin/curl", both()[0], silent)
		}
		cleanup := func(args []string, want ...string) {
			t.Helper()
			out, status := r.command(t, append([]string{"cleanup"}, args...)...)
			if status != 0 {
				t.Errorf("refd cleanup %q: status %d; want 0\n%s", args, status, out)
			}
			for _, text := range want {
				if !strings.Contains(out, text) {
					t.Errorf("refd cleanup %q: got\n%s\nwant %q", args, out, text)
				}
			}
		}

		closeDown()
		write("mode: enforce\n") // the file of somebody else
		cleanup(nil, "nothing to do", "chain_prefix WEIR and state_dir /run/weir", "there is still: packet filter chains MINE-*", "--chain-prefix MINE")
		r.wantCurl(t, "/usr/bin/curl", both()[0], silent)
		write(mine + "global: [{id: a, actoin: block}]\nmode: [\n")
		cleanup(nil, "warning: "+r.configPath()+":", "what can be read of it counts", "removed: packet filter chains MINE-*", "netfilter.json", "clean: nothing is left")
		r.wantCurl(t, "/usr/bin/curl", both()[0], answered)
		r.wantAsBefore(t, before)
		cleanup(nil, "nothing to do: there was nothing of a refd with chain_prefix MINE")

		closeDown()
		write(fmt.Sprintf("netfilter: {state_dir: %s}\n", filepath.Join(r.dir, "state")))
		cleanup([]string{"--chain-prefix", "MINE"}, "removed: packet filter chains MINE-*")
		r.wantAsBefore(t, before)
	})
}

// --socket is where refd listens, too, and the service manager hears when packets are intercepted.
func TestIntegrationSocketAndReadiness(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t, testutil.VariantNFT)
	r.configure(t, settings{})
	manager, socket := filepath.Join(r.dir, "notify"), filepath.Join(r.dir, "other.sock")
	var lc net.ListenConfig
	c, err := lc.ListenPacket(t.Context(), "unixgram", manager)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // of a test
	p := r.client.StartEnv(t, []string{"NOTIFY_SOCKET=" + manager}, r.binary, "--config", r.configPath(), "--socket", socket, "run")
	told := make([]byte, 64)
	if err := c.SetReadDeadline(time.Now().Add(startLimit)); err != nil {
		t.Fatal(err)
	}
	n, _, err := c.ReadFrom(told)
	if err != nil || string(told[:n]) != "READY=1" {
		t.Fatalf("the service manager got %q, %v; want READY=1\n%s", told[:n], err, p.Output())
	}
	if rules := r.client.Run(t, "iptables-nft-save"); !strings.Contains(rules, "-j WEIR-OUT") {
		t.Errorf("ready without rules:\n%s", rules)
	}
	r.eventually(t, startLimit, "refd answers at --socket", func() bool {
		_, err := r.client.Try(r.binary, "--socket", socket, "status")
		return err == nil
	})
	if out, status := r.command(t, "status"); status != 3 {
		t.Errorf("at the socket of the configuration: status %d; want 3, nobody\n%s", status, out)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("stop: %v\n%s", err, p.Output())
	}
}
