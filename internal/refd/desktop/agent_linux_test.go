package desktop_test

import (
	"bufio"
	"context"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/desktop"
	"github.com/weirfw/weir/internal/refd/prompt"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

const patience = time.Minute

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// bus starts a session bus of its own and returns its address.
func bus(t *testing.T) string {
	t.Helper()
	testutil.RequireTool(t, "dbus-daemon")
	cmd := exec.CommandContext(t.Context(), "dbus-daemon", "--session", "--nofork", "--print-address",
		"--address=unix:path="+filepath.Join(t.TempDir(), "bus"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func dial(t *testing.T, address string) *dbus.Conn {
	t.Helper()
	c, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the bus may be gone
	return c
}

// server is a desktop that shows notifications: the methods are those of the specification.
type server struct {
	conn *dbus.Conn

	mu     sync.Mutex // guards what follows
	last   uint32
	open   map[uint32]note
	closed int
}

type note struct {
	summary, body string
	actions       []string
	replaced      bool
}

func desktopOn(t *testing.T, address string) *server {
	t.Helper()
	s := &server{conn: dial(t, address), open: map[uint32]note{}}
	if err := s.conn.Export(s, "/org/freedesktop/Notifications", "org.freedesktop.Notifications"); err != nil {
		t.Fatal(err)
	}
	if r, err := s.conn.RequestName("org.freedesktop.Notifications", 0); err != nil || r != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(r, err)
	}
	return s
}

// Notify is called over the bus.
func (s *server) Notify(_ string, replaces uint32, _, summary, body string, actions []string, _ map[string]dbus.Variant, _ int32) (uint32, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := replaces
	if id == 0 {
		s.last++
		id = s.last
	}
	s.open[id] = note{summary, body, actions, replaces != 0}
	return id, nil
}

// CloseNotification is called over the bus.
func (s *server) CloseNotification(id uint32) *dbus.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.open[id]; !ok {
		return dbus.NewError("org.freedesktop.Notifications.Error", []any{"no such notification"})
	}
	delete(s.open, id)
	s.closed++
	return nil
}

func (s *server) notes() map[uint32]note {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[uint32]note{}
	for id, n := range s.open {
		out[id] = n
	}
	return out
}

func (s *server) click(t *testing.T, id uint32, key string) {
	t.Helper()
	if err := s.conn.Emit("/org/freedesktop/Notifications", "org.freedesktop.Notifications.ActionInvoked", id, key); err != nil {
		t.Fatal(err)
	}
}

// store is a prompter with a real store.
type store struct {
	*prompt.Store

	always *atomic.Int64 // rules written
}

func (s store) Prompts(context.Context) ([]prompt.Prompt, error) { return s.All(), nil }

func (s store) Answer(ctx context.Context, r api.AnswerRequest) error {
	return s.Store.Answer(ctx, r.ID, r.Answer)
}

func asking(t *testing.T) store {
	t.Helper()
	set, err := rules.Compile(rules.Config{Default: rules.Defaults{Out: rules.Ask}})
	if err != nil {
		t.Fatal(err)
	}
	var live rules.Live
	live.Swap(set)
	always := &atomic.Int64{}
	s := store{prompt.New(prompt.Config{Rules: &live, DenyAfter: patience, Timeout: patience, Write: func(context.Context, *conn.Snapshot, prompt.Answer) error {
		always.Add(1)
		return nil
	}}), always}
	t.Cleanup(s.Reset)
	s.All() // somebody is there
	return s
}

func connection(app, domain string) *conn.Snapshot {
	s := &conn.Snapshot{Domain: domain, Tuple: packet.Tuple{Protocol: packet.TCP, Remote: netip.MustParseAddrPort("192.0.2.1:443")}}
	s.Process = &conn.Process{PID: 7, Path: app}
	return s
}

// run runs an agent until the end of the test.
func run(t *testing.T, address string, p desktop.Prompter) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	cfg := desktop.Config{Bus: dial(t, address), Prompter: p, Every: 10 * time.Millisecond}
	go func() { done <- desktop.Run(ctx, cfg) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	return stop
}

func TestDesktop(t *testing.T) {
	address := bus(t)
	server, prompts := desktopOn(t, address), asking(t)
	stop := run(t, address, prompts)
	answers := make(chan error, 2)
	ask := func(domain string) {
		go func() {
			_, err := prompts.Ask(t.Context(), connection("/usr/bin/<b>curl", domain))
			answers <- err
		}()
	}
	ask("one.example")
	eventually(t, "it is shown", func() bool { return len(server.notes()) == 1 })
	n := server.notes()[1]
	stranger := dial(t, address)
	if err := stranger.Emit("/org/freedesktop/Notifications", "org.freedesktop.Notifications.ActionInvoked", uint32(1), "allow-always"); err != nil {
		t.Fatal(err)
	}
	if n.summary != "<b>curl wants to connect" || !strings.Contains(n.body, "one.example (192.0.2.1:443), tcp") || strings.Contains(n.body, "<b>") || len(n.actions) != 10 {
		t.Errorf("got %+v", n)
	}
	ask("two.example")
	eventually(t, "it is merged into the one there is", func() bool {
		n := server.notes()[1]
		return len(server.notes()) == 1 && n.replaced && strings.Contains(n.body, "two.example")
	})
	if n := len(prompts.All()); n != 1 || len(answers) != 0 || prompts.always.Load() != 0 {
		t.Errorf("%d questions are left: another program on the bus answered", n)
	}
	server.click(t, 77, "allow-once") // somebody else's
	server.click(t, 1, "default")
	server.click(t, 1, "allow-once")
	for range 2 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if prompts.always.Load() != 0 {
		t.Error("another program on the bus answered")
	}
	eventually(t, "it is closed", func() bool { return len(server.notes()) == 0 })
	ask("three.example")
	eventually(t, "another one is shown", func() bool { return len(server.notes()) == 1 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if len(server.notes()) != 0 {
		t.Errorf("left behind: %+v", server.notes())
	}
}

// A bus on which nobody shows notifications is an error that says so.
func TestNoDesktop(t *testing.T) {
	address, prompts := bus(t), asking(t)
	go func() { _, _ = prompts.Ask(t.Context(), connection("/bin/a", "")) }() // ends with the test
	eventually(t, "there is a prompt", func() bool { return len(prompts.All()) == 1 })
	err := desktop.Run(t.Context(), desktop.Config{Bus: dial(t, address), Prompter: prompts, Every: time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "notifications of the desktop") {
		t.Errorf("got %v", err)
	}
}

// Names are shown as what they are: programs, and those who answer for domains, do not write on the desktop.
func TestTextIsOfOneLineEach(t *testing.T) {
	s := connection("/tmp/a\nyour bank", "")
	s.Process.Script = "/srv/\u202egpj.exe"
	p := prompt.Prompt{App: s.Process.Script, Process: s.Process, Targets: []prompt.Target{{Domain: "x\ny\u202e", Remote: s.Tuple.Remote}}}
	title, body := desktop.Text(&p)
	if all := title + body; strings.ContainsAny(title, "\n\u202e") || strings.Count(all, "\n") != 1 || strings.Contains(all, "\u202e") {
		t.Errorf("got %q and %q", title, body)
	}
	if !strings.Contains(body, "/tmp/a\ufffdyour bank, which runs /srv/") {
		t.Errorf("got %q; want the program and its script", body)
	}
}
