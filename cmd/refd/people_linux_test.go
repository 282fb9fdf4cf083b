package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/prompt"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

func (f *fake) History(_ context.Context, q connstore.Query) (connstore.Page, error) {
	f.query = q
	f.asked = append(f.asked, "history")
	return f.page, nil
}

func (f *fake) Notifications(context.Context) ([]api.Notification, error) {
	return []api.Notification{{Module: "firewall", ID: "slow", Severity: module.Warning, Title: "Slow", Message: "a handler is slow", Time: time.Now(), Actions: []api.NotificationAction{{ID: "never"}}}}, nil
}

func (f *fake) Act(_ context.Context, r api.NoticeRequest) error {
	f.asked = append(f.asked, r.Action+" "+r.ID)
	return nil
}

func (f *fake) Dismiss(_ context.Context, r api.NoticeRequest) error {
	f.asked = append(f.asked, "dismiss "+r.Module+" "+r.ID)
	return nil
}

func (f *fake) Prompts(context.Context) ([]prompt.Prompt, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]prompt.Prompt{}, f.prompts...), nil
}

// Answer notes the answer; the question is gone then.
func (f *fake) Answer(_ context.Context, r api.AnswerRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers = append(f.answers, r)
	f.prompts = f.prompts[1:]
	return nil
}

func (f *fake) Forget(context.Context) (api.Forgotten, error) { return api.Forgotten{Answers: 2}, nil }

func (f *fake) Sleep(_ context.Context, r api.SleepRequest) error {
	if r.On {
		f.asked = append(f.asked, "sleep")
	}
	return nil
}

func question(id uint64) prompt.Prompt {
	return prompt.Prompt{
		ID: id, App: "/usr/bin/cu\x1brl", Direction: packet.Outbound, Waiting: 1, Asked: time.Now(),
		Targets: []prompt.Target{{Domain: "example.org", Remote: netip.MustParseAddrPort("192.0.2.1:443"), Protocol: packet.TCP}},
	}
}

func TestNotificationsAndSleep(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	out, _, err := runCLI(t, socket, "notifications")
	require.NoError(t, err)
	assert.Regexp(t, `warning +\S+ +firewall +slow +never +a handler is slow`, out)
	out, _, err = runCLI(t, socket, "notifications", "list", "--json")
	require.NoError(t, err)
	assert.Contains(t, out, `"severity": "warning"`)
	for _, args := range [][]string{{"notifications", "dismiss", "firewall", "slow"}, {"notifications", "act", "firewall", "slow", "never"}, {"sleep", "on"}, {"sleep", "off"}} {
		_, _, err = runCLI(t, append([]string{socket}, args...)...)
		require.NoError(t, err)
	}
	assert.Equal(t, []string{"dismiss firewall slow", "never slow", "sleep"}, f.asked)
}

func TestPromptCommands(t *testing.T) {
	f := &fake{prompts: []prompt.Prompt{question(3)}}
	socket := serve(t, f)
	out, _, err := runCLI(t, socket, "prompt", "list")
	require.NoError(t, err)
	assert.Regexp(t, `3 +\S+ +/usr/bin/cu\x{FFFD}rl +out +1 +example\.org`, out)
	_, _, err = runCLI(t, socket, "prompt", "answer", "3", "block", "--for", "always", "--target", "example.org")
	require.NoError(t, err)
	assert.Equal(t, []api.AnswerRequest{{ID: 3, Answer: prompt.Answer{Action: rules.Block, For: prompt.Always, Target: "example.org"}}}, f.answers)
	out, _, err = runCLI(t, socket, "prompt", "forget")
	require.NoError(t, err)
	assert.Equal(t, "2 answers forgotten\n", out)
}

// Somebody answers in a terminal.
func TestPromptWatch(t *testing.T) {
	testutil.NoLeaks(t)
	f := &fake{prompts: []prompt.Prompt{question(3), question(4), question(5)}}
	socket := serve(t, f)
	var out bytes.Buffer
	in := strings.NewReader("what\naa\nd\nbs\n")
	require.NoError(t, runWith(t.Context(), in, &out, socket, "prompt"))
	assert.Contains(t, out.String(), "3: /usr/bin/cu\ufffdrl wants to connect to\n   tcp 192.0.2.1:443 example.org\n")
	assert.Contains(t, out.String(), `what is "what"?`)
	assert.Equal(t, []api.AnswerRequest{
		{ID: 3, Answer: prompt.Answer{Action: rules.Allow, For: prompt.Always}}, {ID: 4, Dismiss: true},
		{ID: 5, Answer: prompt.Answer{Action: rules.Block, For: prompt.Session}},
	}, f.answers)
}

// runWith is runCLI with something to read.
func runWith(ctx context.Context, in io.Reader, out io.Writer, args ...string) error {
	return runFrom(ctx, args, in, out, io.Discard, func() {})
}

func TestConnsHistory(t *testing.T) {
	f := &fake{page: connstore.Page{Sums: connstore.Sums{Total: 3}, TotalGroups: 2, Groups: []connstore.Group{
		{Key: "/bin/a", Sums: connstore.Sums{Total: 2, ByVerdict: map[verdict.Verdict]int{verdict.Accept: 1, verdict.Drop: 1}, ReceivedBytes: 2048}},
	}}}
	socket := serve(t, f)
	out, _, err := runCLI(t, socket, "conns", "--history", "--by", "app", "--since", "24h")
	require.NoError(t, err)
	assert.Regexp(t, `2 +1 +1 +2\.0 KiB +0 B +.* /bin/a\n`, out)
	assert.Contains(t, out, "1 of 2")
	assert.Equal(t, []string{"history"}, f.asked)
	assert.Equal(t, connstore.ByApp, f.query.GroupBy)
	_, _, err = runCLI(t, socket, "conns", "--history", "--watch")
	assert.ErrorContains(t, err, "--watch")
	_, _, err = runCLI(t, socket, "conns", "--live", "--ended")
	assert.ErrorContains(t, err, "use one of them")

	f.page = connstore.Page{Series: []connstore.Point{{Start: time.Unix(0, 0), Sums: connstore.Sums{Total: 7}}}}
	out, _, err = runCLI(t, socket, "conns", "--every", "1h")
	require.NoError(t, err)
	assert.Regexp(t, `FROM .*\n.* 7 +0 +0 +0 B +0 B\n`, out)
}

// What does not fit into one answer comes page by page.
func TestAllPages(t *testing.T) {
	for _, tt := range []struct{ limit, has, want, asks int }{
		{0, 25_000, 25_000, 3}, {0, 10_000, 10_000, 2}, {15_000, 25_000, 15_000, 2}, {100, 25_000, 100, 1}, {100, 7, 7, 1}, {0, 0, 0, 1},
	} {
		asks := 0
		p, err := allPages(t.Context(), func(_ context.Context, q connstore.Query) (p connstore.Page, _ error) {
			asks++
			require.Positive(t, q.Limit)
			require.LessOrEqual(t, q.Limit, api.MaxPage)
			p.Total = tt.has
			for i := q.Offset; i < min(tt.has, q.Offset+q.Limit); i++ {
				p.Connections = append(p.Connections, conn.Snapshot{ID: conn.ID(i)})
			}
			return p, nil
		}, connstore.Query{Limit: tt.limit})
		require.NoError(t, err)
		assert.Len(t, p.Connections, tt.want)
		assert.Equal(t, tt.asks, asks, "limit %d of %d", tt.limit, tt.has)
		for i := range p.Connections {
			require.Equal(t, conn.ID(i), p.Connections[i].ID)
		}
	}
}

func TestTop(t *testing.T) {
	f := &fake{page: connstore.Page{Groups: []connstore.Group{{Key: "/bin/a", Sums: connstore.Sums{Total: 2}}}, TotalGroups: 1}}
	socket := serve(t, f)
	out, _, err := runCLI(t, socket, "top", "--once", "--interval", "100ms")
	require.NoError(t, err)
	assert.Regexp(t, `RECEIVED/S .*\n0 B +0 B +2 .*/bin/a\n`, out)
	assert.NotContains(t, out, "\x1b")
	assert.Equal(t, connstore.ByApp, f.query.GroupBy)
	_, _, err = runCLI(t, socket, "top", "--interval", "1ms")
	assert.ErrorContains(t, err, "--interval")

	g := func(key string, received uint64) connstore.Group {
		return connstore.Group{Key: key, Sums: connstore.Sums{ReceivedBytes: received}}
	}
	rows := topRows([]connstore.Group{g("a", 100), g("b", 10)}, []connstore.Group{g("a", 50), g("b", 30), g("c", 5)}, 2*time.Second)
	assert.Equal(t, []topRow{
		{Key: "b", Received: 10, ReceivedBytes: 30}, {Key: "c", Received: 2.5, ReceivedBytes: 5}, {Key: "a", ReceivedBytes: 50},
	}, rows)
}

func TestPaint(t *testing.T) {
	assert.Equal(t, "7 12:00 "+red+"blocked"+noColor+"  curl", paint("7 12:00 blocked  curl"))
	assert.Equal(t, "7 "+blue+"split tunneled"+noColor+" x", paint("7 split tunneled x"))
	assert.Equal(t, "7 would be "+red+"dropped"+noColor+" accepted.example", paint("7 would be dropped accepted.example"))
	assert.Equal(t, "nothing", paint("nothing"))
}

// Colours are for terminals whose user wants them.
func TestColours(t *testing.T) {
	s := conn.Snapshot{ID: 5, Decision: verdict.Decision{Verdict: verdict.Accept}}
	socket := serve(t, &fake{page: connstore.Page{Sums: connstore.Sums{Total: 1}, Connections: []conn.Snapshot{s}}})
	t.Setenv("TERM", "xterm")
	for noColour, want := range map[string]bool{"": true, "1": false} {
		t.Setenv("NO_COLOR", noColour)
		screen, program := terminal(t, 10, 100)
		require.NoError(t, run(t.Context(), []string{socket, "conns"}, program, io.Discard))
		require.NoError(t, program.Close())
		b := make([]byte, 4096)
		n, err := screen.Read(b)
		require.NoError(t, err)
		for !bytes.Contains(b[:n], []byte("accepted")) {
			more, err := screen.Read(b[n:])
			require.NoError(t, err)
			n += more
		}
		assert.Equal(t, want, bytes.Contains(b[:n], []byte(green)), "NO_COLOR=%q: %q", noColour, b[:n])
	}
}

// What is allowed on a machine is nobody else's business, whatever was there before.
func TestExportIsPrivate(t *testing.T) {
	dir := t.TempDir()
	file, link, other := filepath.Join(dir, "all.yaml"), filepath.Join(dir, "refd.yaml.bak"), filepath.Join(dir, "other")
	for _, path := range []string{file, other} {
		require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
		require.NoError(t, os.Chmod(path, 0o644)) //nolint:gosec // that is the point
	}
	require.NoError(t, os.Symlink(other, link))
	_, _, err := runCLI(t, "--config", configFile(t, "mode: enforce\n"), "export", file)
	require.NoError(t, err)
	to := filepath.Join(dir, "refd.yaml")
	require.NoError(t, os.WriteFile(to, []byte("# old\n"), 0o600))
	_, _, err = runCLI(t, "--config", to, "import", file)
	require.NoError(t, err)
	for _, path := range []string{file, link} {
		info, err := os.Lstat(path)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode(), path)
	}
	b, err := os.ReadFile(other)
	require.NoError(t, err)
	assert.Equal(t, "old", string(b), "the backup went through a link")
}

func TestExportAndImport(t *testing.T) {
	from := configFile(t, "# mine\nmode: enforce\nglobal:\n  - {id: a, action: block}\n")
	file := filepath.Join(t.TempDir(), "all.yaml")
	_, _, err := runCLI(t, "--config", from, "export", file)
	require.NoError(t, err)
	to := configFile(t, "# others\n")
	out, _, err := runCLI(t, "--config", to, "import", "--dry-run", file)
	require.NoError(t, err)
	assert.Contains(t, out, "good: mode enforce, no apps, 1 rule")
	out, _, err = runCLI(t, "--config", to, "import", file)
	require.NoError(t, err)
	assert.Contains(t, out, "refd does not run")
	was, err := os.ReadFile(from)
	require.NoError(t, err)
	is, err := os.ReadFile(to)
	require.NoError(t, err)
	assert.Equal(t, string(was), string(is))
	old, err := os.ReadFile(to + ".bak")
	require.NoError(t, err)
	assert.Contains(t, string(old), "# others")

	bad := configFile(t, "mode: nonsense\n")
	_, _, err = runCLI(t, "--config", to, "import", bad)
	require.ErrorContains(t, err, "nonsense")
	_, _, err = runCLI(t, "--config", bad, "export")
	require.ErrorContains(t, err, "not good")
	still, err := os.ReadFile(to)
	require.NoError(t, err)
	assert.Equal(t, string(is), string(still))
}

// The manual page has every command and every flag, and groff finds nothing wrong with it.
func TestMan(t *testing.T) {
	out, _, err := runCLI(t, "man")
	require.NoError(t, err)
	for _, want := range []string{`.SS "refd prompt answer <id> <action>"`, `\fB\-\-history\fR`, `\fB\-\-since\fR=\fI`} {
		assert.Contains(t, out, want)
	}
	testutil.RequireTool(t, "groff")
	cmd := exec.CommandContext(t.Context(), "groff", "-man", "-Tutf8", "-ww", "-z")
	cmd.Stdin = strings.NewReader(out)
	said, err := cmd.CombinedOutput()
	require.NoError(t, err)
	assert.Empty(t, string(said))
}

func TestVersionAsJSON(t *testing.T) {
	out, _, err := runCLI(t, "version", "--json")
	require.NoError(t, err)
	var v struct{ Version string }
	require.NoError(t, json.Unmarshal([]byte(out), &v))
	assert.NotEmpty(t, v.Version)
}
