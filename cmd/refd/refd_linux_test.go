package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/refd/prompt"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/splittunnel"
	"github.com/weirfw/weir/pkg/splittunnel/kroute"
	"github.com/weirfw/weir/pkg/verdict"
)

// runCLI runs a command line.
func runCLI(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = run(t.Context(), args, &out, &errs)
	return out.String(), errs.String(), err
}

// configFile writes a configuration whose socket nobody serves.
func configFile(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "refd.yaml")
	text = "api: {socket: " + filepath.Join(dir, "none.sock") + "}\n" + text
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestCheck(t *testing.T) {
	good := configFile(t, "mode: enforce\nglobal:\n  - {id: a, action: block}\n")
	out, _, err := runCLI(t, "check", good)
	require.NoError(t, err)
	assert.Contains(t, out, "good: mode enforce, no apps, 1 rule")

	bad := configFile(t, "mode: enforc\nglobal:\n  - {id: a, action: block, remote: [10.0.0.1/8]}\n")
	_, errs, err := runCLI(t, "--config", bad, "check")
	require.EqualError(t, err, "2 problems found")
	assert.Contains(t, errs, bad+`:2:7: mode: "enforc": unknown value`)
	assert.Contains(t, errs, bad+`:4:37: global[0].remote[0]: "10.0.0.1/8": `)

	out, _, err = runCLI(t, "--config", bad, "check", "--json")
	require.ErrorIs(t, err, statusError(1))
	var found checkResult
	require.NoError(t, json.Unmarshal([]byte(out), &found))
	assert.False(t, found.Good)
	require.Len(t, found.Problems, 2)
	assert.Equal(t, checkPlace{File: bad, Line: 2, Column: 7, Key: "mode", Text: found.Problems[0].Text, Hint: found.Problems[0].Hint}, found.Problems[0])

	out, _, err = runCLI(t, "check", "--json", configFile(t, "split: {interface: wlan0}\nglobal: [{id: a, action: block}]\n"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(out), &found))
	assert.True(t, found.Good)
	assert.Equal(t, 1, found.Rules)
	assert.NotEmpty(t, found.Notes)

	out, errs, err = runCLI(t, "check", configFile(t, "split: {interface: wlan0}\n"))
	require.NoError(t, err)
	assert.Contains(t, out, "good")
	assert.Contains(t, errs, "note: ")

	_, _, err = runCLI(t, "check", filepath.Join(t.TempDir(), "none.yaml"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestBadCommandLines(t *testing.T) {
	cfg := configFile(t, "")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "expected one of"},
		{[]string{"statsu"}, `did you mean "status"?`},
		{[]string{"run", "--mode", "watch"}, "--mode must be one of"},
		{[]string{"run", "--confirm", "soon"}, "--confirm"},
		{[]string{"conns", "--verdict", "maybe"}, "--verdict"},
		{[]string{"conns", "--remote", "example.org"}, "write an address or a network"},
		{[]string{"explain", "/usr/bin/curl"}, "<remote>"},
		{[]string{"explain", "/usr/bin/curl", "nonsense"}, `"nonsense" is no address`},
		{[]string{"explain", "/usr/bin/curl", "192.0.2.1:443", "--protocol", "tpc"}, "--protocol"},
		{[]string{"completion", "tcsh"}, "must be one of"},
	} {
		_, _, err := runCLI(t, append([]string{"--config", cfg}, tt.args...)...)
		assert.ErrorContains(t, err, tt.want, "%q", tt.args)
	}
}

func TestNotRunning(t *testing.T) {
	cfg := configFile(t, "")
	_, errs, err := runCLI(t, "--config", cfg, "status")
	var status statusError
	require.ErrorAs(t, err, &status)
	assert.Equal(t, statusError(3), status)
	assert.Contains(t, errs, "start it with `refd run`")
	for _, args := range [][]string{{"conns"}, {"rules"}, {"reload"}, {"confirm"}, {"pause", "1m"}, {"resume"}, {"stop"}} {
		_, _, err := runCLI(t, append([]string{"--config", cfg}, args...)...)
		assert.ErrorIs(t, err, api.ErrNotRunning, "%q", args)
	}
}

func TestExplainByTheFile(t *testing.T) {
	cfg := configFile(t, `mode: enforce
apps:
  - id: curl
    match: [{path: /usr/bin/curl}]
    rules: [{id: web, remote_ports: "443", action: allow}, {id: rest, action: block, comment: only the web}]
`)
	out, errs, err := runCLI(t, "--config", cfg, "explain", "/usr/bin/curl", "192.0.2.1:25")
	require.NoError(t, err)
	assert.Contains(t, errs, "not running")
	assert.Contains(t, out, "would be blocked\nbecause  rule rest: only the web")
	assert.Regexp(t, `app curl +web +`, out)
	assert.Regexp(t, `app curl +rest +<=`, out)

	out, _, err = runCLI(t, "--config", cfg, "explain", "--offline", "--json", "/usr/bin/wget", "[2001:db8::1]:25")
	require.NoError(t, err)
	var e api.Explanation
	require.NoError(t, json.Unmarshal([]byte(out), &e))
	assert.Equal(t, verdict.Accept, e.Decision.Verdict)
	assert.True(t, e.Enforced)
}

func TestExplainSplitByTheFile(t *testing.T) {
	cfg := configFile(t, "split: {use: true, exclude: [{remote: [10.0.0.0/8]}]}\n")
	out, errs, err := runCLI(t, "--config", cfg, "explain", "--offline", "-", "192.0.2.1:25")
	require.NoError(t, err)
	assert.Contains(t, errs, "the split tunnel takes it, or fails it")
	assert.Regexp(t, `\nsplit +<= +\S`, out)
	out, errs, err = runCLI(t, "--config", cfg, "explain", "--offline", "-", "10.0.0.1:25")
	require.NoError(t, err)
	assert.Empty(t, errs)
	assert.Regexp(t, `\nsplit +[^<]*exclude`, out)
}

func TestExplainInterface(t *testing.T) {
	cfg := configFile(t, "mode: enforce\nglobal: [{id: loops, interfaces: [lo], action: block}]\n")
	out, _, err := runCLI(t, "--config", cfg, "explain", "--offline", "--interface", "lo", "-", "192.0.2.1:25")
	require.NoError(t, err)
	assert.Contains(t, out, "because  rule loops")
	out, _, err = runCLI(t, "--config", cfg, "explain", "--offline", "-", "192.0.2.1:25")
	require.NoError(t, err)
	assert.NotContains(t, out, "because  rule loops")
	_, _, err = runCLI(t, "--config", cfg, "explain", "--offline", "--interface", "wlan9", "-", "192.0.2.1:25")
	assert.ErrorContains(t, err, `no "wlan9": see `)
}

func TestRunRefusesBadConfigurationAndOrdinaryUsers(t *testing.T) {
	_, _, err := runCLI(t, "--config", configFile(t, "mode: x\n"), "run")
	assert.ErrorContains(t, err, ":2:7:")
	_, _, err = runCLI(t, "--config", filepath.Join(t.TempDir(), "none.yaml"), "cleanup")
	assert.ErrorContains(t, err, "leave out --config")
	_, _, err = runCLI(t, "--config", configFile(t, ""), "--socket", "/"+strings.Repeat("s", 107), "run")
	assert.ErrorContains(t, err, "use at most 107 bytes")
}

func TestShellWord(t *testing.T) {
	testutil.RequireTool(t, "bash")
	for _, word := range []string{"/etc/weir/refd.yaml", "/a b/c.yaml", "/it's.yaml", "/$HOME", "/a;b"} {
		out, err := exec.CommandContext(t.Context(), "bash", "-c", "printf %s "+shellWord(word)).Output()
		require.NoError(t, err)
		assert.Equal(t, word, string(out))
	}
	assert.Equal(t, "/etc/weir/refd.yaml", shellWord("/etc/weir/refd.yaml"))
	assert.Equal(t, "sudo refd cleanup", (&app{cli: &cli{}}).cleanupCommand())
	assert.Equal(t, "sudo refd --config '/a b.yaml' cleanup", (&app{cli: &cli{Config: "/a b.yaml"}}).cleanupCommand())
}

func TestCompletion(t *testing.T) {
	testutil.RequireTool(t, "bash")
	script, _, err := runCLI(t, "completion", "bash")
	require.NoError(t, err)
	complete := func(words ...string) string {
		line := script + `
COMP_WORDS=(refd "$@"); COMP_CWORD=$#; _refd; echo "${COMPREPLY[@]}"`
		out, err := exec.CommandContext(t.Context(), "bash", append([]string{"-c", line, "bash"}, words...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return strings.TrimSpace(string(out))
	}
	assert.Equal(t, "conns confirm completion", complete("co"))
	assert.Equal(t, "--watch", complete("conns", "--wa"))
	assert.Regexp(t, "^query cache flush --", complete("dns", ""))
	assert.Equal(t, "query", complete("dns", "q"))
	assert.Contains(t, complete("dns", "flush", "--"), "--json")
	assert.NotContains(t, complete(""), "man")
	zsh, _, err := runCLI(t, "completion", "zsh")
	require.NoError(t, err)
	assert.Contains(t, zsh, "bashcompinit")
	fish, _, err := runCLI(t, "completion", "fish")
	require.NoError(t, err)
	assert.Contains(t, fish, "complete -c refd -n '__fish_seen_subcommand_from conns' -l watch")
}

// What prints data prints it as JSON, too.
func TestEveryCommandThatPrintsDataHasJSON(t *testing.T) {
	parser, err := kong.New(&cli{}, kong.Vars{"config": "x"})
	require.NoError(t, err)
	without := []string{}
	for _, n := range parser.Model.Leaves(true) {
		if !slices.ContainsFunc(n.Flags, func(f *kong.Flag) bool { return f.Name == "json" }) {
			without = append(without, n.Name)
		}
	}
	// these print nothing, text that has a format of its own, or what a person answers
	assert.ElementsMatch(t, []string{
		"run", "watch", "desktop", "answer", "act", "dismiss", "sleep", "export", "confirm", "resume", "stop", "completion",
		"install", "start", "uninstall", "stop",
	}, without)
}

func TestVersion(t *testing.T) {
	out, _, err := runCLI(t, "version")
	require.NoError(t, err)
	assert.Regexp(t, `^refd \S+\n$`, out)
	help, _, err := runCLI(t, "--help")
	require.NoError(t, err)
	assert.Contains(t, help, "explain")
}

// fake is a refd that answers.
type fake struct {
	api.Backend // what no test asks for

	status api.Status
	page   connstore.Page
	query  connstore.Query
	asked  []string

	mu      sync.Mutex // guards what follows
	prompts []prompt.Prompt
	answers []api.AnswerRequest
}

func (f *fake) Status(context.Context) (api.Status, error) { return f.status, nil }

func (f *fake) Connections(_ context.Context, q connstore.Query) (connstore.Page, error) {
	f.query = q
	return f.page, nil
}

func (f *fake) Reload(context.Context) (api.ReloadResult, error) {
	return api.ReloadResult{Rules: 4, Changed: 2, NeedRestart: []string{"mode"}}, nil
}

func (f *fake) Pause(_ context.Context, d time.Duration) error {
	f.asked = append(f.asked, "pause "+d.String())
	return nil
}

func (f *fake) Resume(context.Context) error {
	f.asked = append(f.asked, "resume")
	return nil
}

func (f *fake) DNSCache(_ context.Context, r api.DNSRequest) ([]api.DNSEntry, error) {
	f.asked = append(f.asked, "cache "+r.Domain)
	return []api.DNSEntry{
		{Name: "a.test", Type: "A", RCode: "NOERROR", CNAMEs: []string{"b.test"}, Addresses: []string{"192.0.2.1", "192.0.2.2"}, Left: 61499 * time.Millisecond},
		{Name: "no.test", Type: "AAAA", RCode: "NXDOMAIN", Left: time.Second},
	}, nil
}

func (f *fake) DNSFlush(_ context.Context, r api.DNSRequest) (api.DNSFlushed, error) {
	f.asked = append(f.asked, "flush "+r.Domain)
	return api.DNSFlushed{Answers: 2}, nil
}

func (f *fake) Confirm(context.Context) error { return errors.New("nothing waits") }

func (f *fake) Exit(_ context.Context, how string) error {
	f.asked = append(f.asked, how)
	return nil
}

func (f *fake) Rules(context.Context) ([]api.Rule, error) {
	return []api.Rule{{ID: "no-smtp", Layer: "global", Action: "drop", Hits: 12, Comment: "nobody mails from here"}}, nil
}

// serve serves f and returns the flag that names its socket.
func serve(t *testing.T, f *fake) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- api.Serve(ctx, api.Config{Socket: socket, Backend: f, Logger: slog.New(slog.DiscardHandler)}, func() { close(ready) })
	}()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	<-ready
	return "--socket=" + socket
}

func TestStatus(t *testing.T) {
	f := &fake{status: api.Status{
		Version: "v9", PID: 42, Mode: "enforce", Rules: 3, Worst: module.Warning,
		Modules: []api.Module{{Name: "packets", Phase: "running"}},
		States:  []api.State{{Module: "firewall", ID: "x", Message: "a handler is slow", Severity: module.Warning}},
	}}
	f.status.Firewall.Verdicts[verdict.Accept] = 8
	socket := serve(t, f)
	out, _, err := runCLI(t, socket, "status")
	var status statusError
	require.ErrorAs(t, err, &status)
	assert.Equal(t, statusError(11), status)
	for _, want := range []string{"a handler is slow", "enforce", "(pid 42)", "8 accepted", "module packets"} {
		assert.Contains(t, out, want)
	}
	f.status.Worst, f.status.States = 0, nil
	out, _, err = runCLI(t, socket, "status", "--json")
	require.NoError(t, err)
	var s api.Status
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	assert.Equal(t, 42, s.PID)
}

func TestConns(t *testing.T) {
	s := conn.Snapshot{ID: 5, Process: &conn.Process{PID: 77, Path: "/tmp/evil\x1b[2J"}, Domain: "example.org"}
	s.Tuple = packet.Tuple{
		Protocol: packet.TCP,
		Local:    netip.MustParseAddrPort("192.0.2.1:5000"), Remote: netip.MustParseAddrPort("198.51.100.7:443"),
	}
	s.Decision = verdict.Decision{Verdict: verdict.Block, Reason: verdict.Reason{Rule: "r1", Text: "not\there"}}
	f := &fake{page: connstore.Page{Sums: connstore.Sums{Total: 9}, Connections: []conn.Snapshot{s}}}
	socket := serve(t, f)
	out, _, err := runCLI(t, socket, "conns", "--app", "evil", "--verdict", "bLock", "--remote", "198.51.100.0/24", "--direction", "out", "--live")
	require.NoError(t, err)
	assert.Regexp(t, `example\.org +198\.51\.100\.7:443`, out)
	assert.Contains(t, out, "would be blocked", "the decision was not enforced")
	assert.Contains(t, out, "1 of 9; --limit 0 shows all")
	assert.NotContains(t, out, "\x1b", "programs choose their names")
	assert.Equal(t, connstore.Query{
		Kind: connstore.OnlyConnections, App: "evil", Verdicts: []verdict.Verdict{verdict.Block}, Remote: netip.MustParsePrefix("198.51.100.0/24"),
		Direction: connstore.OnlyOutbound, Life: connstore.OnlyLive, Limit: 100,
	}, f.query)

	out, _, err = runCLI(t, socket, "conns", "--json")
	require.NoError(t, err)
	var p connstore.Page
	require.NoError(t, json.Unmarshal([]byte(out), &p))
	require.Len(t, p.Connections, 1)
	assert.Equal(t, s.Tuple, p.Connections[0].Tuple)
}

func TestConnsWatch(t *testing.T) {
	socket := serve(t, &fake{})
	ctx, cancel := context.WithCancel(t.Context())
	shown := &cancelAfter{n: 2, cancel: cancel}
	require.NoError(t, run(ctx, []string{socket, "conns", "--watch"}, shown, shown))
	assert.Equal(t, 2, strings.Count(shown.String(), "VERDICT"))
	assert.NotContains(t, shown.String(), "\x1b", "no terminal")
}

// terminal returns both ends of one with this size (pty(7)).
func terminal(t *testing.T, rows, columns uint16) (screen, program *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		testutil.Unavailable(t, "no terminals here: %v", err)
	}
	t.Cleanup(func() { assert.NoError(t, screen.Close()) })
	require.NoError(t, unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}))
	return screen, program
}

// A watch fits onto its terminal, newest first, and is drawn over itself.
func TestConnsWatchOnATerminal(t *testing.T) {
	const rows, columns = 8, 50
	t.Setenv("NO_COLOR", "1")
	f := &fake{page: connstore.Page{Sums: connstore.Sums{Total: 30}, Connections: make([]conn.Snapshot, 6)}}
	for i := range f.page.Connections {
		f.page.Connections[i] = conn.Snapshot{ID: conn.ID(30 - i), Domain: strings.Repeat("long", 30)}
	}
	socket := serve(t, f)
	screen, program := terminal(t, rows, columns)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{socket, "conns", "--watch"}, program, io.Discard) }()
	var text strings.Builder
	b := make([]byte, 4096)
	for strings.Count(text.String(), wrap) < 2 {
		n, err := screen.Read(b)
		require.NoError(t, err)
		text.Write(b[:n])
	}
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, program.Close())
	assert.Equal(t, rows-2, f.query.Limit)
	drawn, _, _ := strings.Cut(text.String(), wrap)
	assert.True(t, strings.HasPrefix(drawn, noWrap+home), "%q", drawn)
	assert.True(t, strings.HasSuffix(drawn, "the newest 6 of 30"+clearLine+clearRest), "%q", drawn)
	lines := strings.Split(drawn, "\r\n")
	assert.Len(t, lines, rows)
	assert.Contains(t, lines[1], "30 ")
	for _, line := range lines[1:] {
		assert.LessOrEqual(t, len([]rune(strings.TrimSuffix(strings.TrimSuffix(line, clearRest), clearLine))), columns-1)
	}
}

// cancelAfter is a screen whose watcher goes away after n headings.
type cancelAfter struct {
	bytes.Buffer
	n      int
	cancel func()
}

func (c *cancelAfter) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("VERDICT")) {
		if c.n--; c.n == 0 {
			c.cancel()
		}
	}
	return c.Buffer.Write(b)
}

func TestSplitStatus(t *testing.T) {
	f := &fake{status: api.Status{SplitTunnel: &splittunnel.Status{On: true, Engine: "kroute"}}}
	socket := serve(t, f)
	out, _, err := runCLI(t, socket, "split")
	require.NoError(t, err)
	assert.Equal(t, "on, engine kroute, not in use\nno app uses it: set split.use in the configuration\n", out)

	f.status.SplitTunnel.Took, f.status.SplitTunnel.Refused = 1, 3
	f.status.SplitTunnel.Selections = []splittunnel.Selection{
		{Family: "IPv4", Interface: "eth0", Source: "192.0.2.2", Gateway: "192.0.2.1"},
		{Selector: "wlan0", Family: "IPv6", Problem: `select interface "wlan0" for IPv6: netif: no such interface; connect it`},
	}
	f.status.SplitTunnel.Figures = kroute.Figures{Routes: []kroute.RouteFigures{{Interface: "eth0", Problems: []string{"no room"}}}}
	out, _, err = runCLI(t, socket, "split", "status")
	require.NoError(t, err)
	assert.Contains(t, out, "on, engine kroute, 1 of 2 ways can be used, 1 decision split, 3 failed\n")
	assert.Regexp(t, `\(best physical\) +IPv4 +eth0 +192.0.2.2 +192.0.2.1\n`, out)
	assert.Regexp(t, `wlan0 +IPv6 +- +- +- +no such interface; connect it\n`, out)
	assert.Contains(t, out, "engine: eth0: no room\n")

	f.status.SplitTunnel = nil
	out, _, err = runCLI(t, socket, "split")
	require.NoError(t, err)
	assert.Equal(t, "no engine\n", out)
}

func TestControl(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	out, _, err := runCLI(t, socket, "reload")
	require.NoError(t, err)
	assert.Equal(t, "reloaded: 4 rules; 2 running connections got another verdict\ntakes effect at the next start: mode\n", out)
	out, _, err = runCLI(t, socket, "rules")
	require.NoError(t, err)
	assert.Regexp(t, `no-smtp +global +drop +12 +nobody mails`, out)
	for _, args := range [][]string{{"pause", "90s"}, {"resume"}, {"stop"}, {"stop", "--restart"}} {
		_, _, err := runCLI(t, append([]string{socket}, args...)...)
		require.NoError(t, err, "%q", args)
	}
	assert.Equal(t, []string{"pause 1m30s", "resume", "shutdown", "restart"}, f.asked)
	_, _, err = runCLI(t, socket, "confirm")
	assert.ErrorContains(t, err, "nothing waits")
}

func TestServiceUnit(t *testing.T) {
	unit, err := os.ReadFile("refd.service")
	require.NoError(t, err)
	assert.Contains(t, string(unit), fmt.Sprintf("\nRestartForceExitStatus=%d\n", module.ExitRestart))
	assert.Contains(t, string(unit), "\nType=notify\n")
	assert.Contains(t, string(unit), "\nExecStart=/usr/local/bin/refd run\n")
	assert.Contains(t, string(unit), "\nRuntimeDirectory="+filepath.Base(filepath.Dir(config.Default().API.Socket))+"\n")
	capabilities := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindStringSubmatch(string(unit))
	require.NotNil(t, capabilities)
	assert.Equal(t, []string{
		"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_CHOWN",
	}, strings.Fields(capabilities[1]))
	makefile, err := os.ReadFile("../../Makefile")
	require.NoError(t, err)
	assert.Contains(t, string(makefile), "$(DESTDIR)/usr/local/bin/refd\n")
}

func TestDNSCommands(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	out, _, err := runCLI(t, socket, "dns", "cache", "test")
	require.NoError(t, err)
	assert.Regexp(t, `NAME +TYPE +LEFT +ANSWER\na.test +A +1m1s +b.test 192.0.2.1 192.0.2.2\nno.test +AAAA +1s +NXDOMAIN\n`, out)
	out, _, err = runCLI(t, socket, "dns", "flush")
	require.NoError(t, err)
	assert.Equal(t, "forgot 2 answers\n", out)
	assert.Equal(t, []string{"cache test", "flush "}, f.asked)
}
