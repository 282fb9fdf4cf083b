package dnsmon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/internal/varlink"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/dnsmon/dnsmontest"
)

const patience = 20 * time.Second

// listener is a Monitor that runs, and what it told.
type listener struct {
	*dnsmon.Monitor
	answers    chan dnsmon.Answer
	conditions chan dnsmon.Condition
	ready      chan struct{}
}

// listen runs a Monitor until the test ends.
func listen(t *testing.T, socket string) *listener {
	t.Helper()
	l := &listener{answers: make(chan dnsmon.Answer, 1<<14), conditions: make(chan dnsmon.Condition, 64), ready: make(chan struct{})}
	var err error
	l.Monitor, err = dnsmon.New(dnsmon.Config{
		Handle: func(a dnsmon.Answer) { l.answers <- a }, Report: func(c dnsmon.Condition) { l.conditions <- c },
		Socket: socket, MinPause: time.Millisecond, MaxPause: 20 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, func() { close(l.ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v; want nil when its context is done", err)
		}
		if l.Stats().Connected {
			t.Error("connected after Run")
		}
	})
	return l
}

// await takes the next value of a channel.
func await[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("%s: nothing within %v", what, patience)
	}
	return v
}

func stand(t *testing.T, path string) *dnsmontest.Resolver {
	t.Helper()
	r, err := dnsmontest.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func event(name string) string {
	return fmt.Sprintf(`{"parameters":{"state":"success","question":[{"class":1,"type":1,"name":%q}]},"continues":true}`, name)
}

func TestMonitor(t *testing.T) {
	testutil.NoLeaks(t)
	r := stand(t, filepath.Join(t.TempDir(), "s"))
	l := listen(t, r.Path())
	await(t, "subscription", r.Subscribed())
	await(t, "ready", l.ready)
	files, err := filepath.Glob("testdata/varlink/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatal("no recorded events", err)
	}
	sent := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			if r.Send(string(bytes.TrimSpace(line))) != 1 {
				t.Fatal("not one subscriber")
			}
			if !strings.Contains(string(line), `"ready"`) {
				sent++
				await(t, file, l.answers)
			}
		}
	}
	// what is bad is left out, and the next one is not
	for _, bad := range []string{"{", "[]", `{"parameters":{},"continues":true}`, strings.Repeat(" ", varlink.MaxMessage) + "{}"} {
		r.Send(bad)
	}
	r.Send(event("after.test"))
	if a := await(t, "answer after bad messages", l.answers); len(a.Asked) != 1 || a.Asked[0] != "after.test" {
		t.Errorf("got %+v", a)
	}
	if s := l.Stats(); s.Bad != 4 || s.Answers != uint64(sent+1) || s.Connects != 1 || !s.Connected {
		t.Errorf("got %+v; want 4 bad messages and %d answers", s, sent+1)
	}
	if len(l.conditions) != 0 {
		t.Errorf("got condition %v; want none", <-l.conditions)
	}
}

// A resolver that goes away and comes back is heard again.
func TestReconnect(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(t.TempDir(), "s")
	l := listen(t, path)
	await(t, "ready without a resolver", l.ready)
	if c := await(t, "condition", l.conditions); c.ID != dnsmon.ResolverAbsent || c.Over || !strings.Contains(c.Text, "does not run") {
		t.Errorf("got %+v; want %s", c, dnsmon.ResolverAbsent)
	}
	for i := range 3 {
		r := stand(t, path)
		await(t, "subscription", r.Subscribed())
		if c := await(t, "end of the condition", l.conditions); c.ID != dnsmon.ResolverAbsent || !c.Over {
			t.Errorf("got %+v; want %s to be over", c, dnsmon.ResolverAbsent)
		}
		name := fmt.Sprintf("n%d.test", i)
		r.Send(event(name))
		if a := await(t, "answer", l.answers); a.Asked[0] != name {
			t.Errorf("got %+v; want %s", a, name)
		}
		r.Drop() // and, sometimes heard, sometimes not, the same resolver again
		await(t, "subscription again", r.Subscribed())
		r.Close()
		if c := await(t, "condition", l.conditions); c.ID != dnsmon.ResolverAbsent || c.Over {
			t.Errorf("got %+v; want %s", c, dnsmon.ResolverAbsent)
		}
	}
}

// Who is refused says so, and what helps; and no longer when it is allowed.
func TestRefused(t *testing.T) {
	for name, tt := range map[string]struct{ greet, id, words string }{
		"polkit":         {`{"error":"io.systemd.InteractiveAuthenticationRequired","parameters":{}}`, dnsmon.ResolverRefuses, "polkit"},
		"varlink":        {`{"error":"org.varlink.service.PermissionDenied"}`, dnsmon.ResolverRefuses, "root"},
		"no such method": {`{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"x"}}`, dnsmon.ResolverUnknown, "MethodNotFound"},
		"something else": {`{"parameters":{"hello":1},"continues":true}`, dnsmon.ResolverUnknown, "not understood"},
	} {
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			r := stand(t, filepath.Join(t.TempDir(), "s"))
			r.Greet(tt.greet)
			l := listen(t, r.Path())
			await(t, "ready", l.ready)
			if c := await(t, "condition", l.conditions); c.ID != tt.id || c.Over || !strings.Contains(c.Text, tt.words) {
				t.Errorf("got %+v; want %s with %q", c, tt.id, tt.words)
			}
			r.Greet(dnsmontest.Ready)
			if c := await(t, "end of the condition", l.conditions); c.ID != tt.id || !c.Over {
				t.Errorf("got %+v; want %s to be over, and nothing told twice", c, tt.id)
			}
		})
	}
}

// A path that leads nowhere is told of, too.
func TestNoSocket(t *testing.T) {
	testutil.NoLeaks(t)
	l := listen(t, "/proc/self/mem/s")
	await(t, "ready", l.ready)
	if c := await(t, "condition", l.conditions); c.ID != dnsmon.ResolverAbsent {
		t.Errorf("got %+v; want %s", c, dnsmon.ResolverAbsent)
	}
}

// Nobody waits long for a resolver that takes connections and says nothing.
func TestSilentResolver(t *testing.T) {
	testutil.NoLeaks(t)
	path := filepath.Join(t.TempDir(), "s")
	silent, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	l := listen(t, path)
	await(t, "ready", l.ready)
	if c := await(t, "condition", l.conditions); c.ID != dnsmon.ResolverAbsent || !strings.Contains(c.Text, "said nothing") {
		t.Errorf("got %+v; want %s", c, dnsmon.ResolverAbsent)
	}
}

// A burst is heard whole.
func TestBurst(t *testing.T) {
	testutil.NoLeaks(t)
	r := stand(t, filepath.Join(t.TempDir(), "s"))
	l := listen(t, r.Path())
	await(t, "subscription", r.Subscribed())
	const n = 4000
	var sender sync.WaitGroup
	sender.Go(func() {
		for i := range n {
			r.Send(event(fmt.Sprintf("n%d.test", i)))
		}
	})
	for i := range n {
		if a := await(t, "answer", l.answers); a.Asked[0] != fmt.Sprintf("n%d.test", i) {
			t.Fatalf("got %v; want n%d.test", a.Asked, i)
		}
	}
	sender.Wait()
}

func TestConfig(t *testing.T) {
	handle := func(dnsmon.Answer) {}
	for _, cfg := range []dnsmon.Config{{}, {Handle: handle, MinPause: -1}, {Handle: handle, MinPause: time.Hour, MaxPause: time.Minute}} {
		if _, err := dnsmon.New(cfg); !errors.Is(err, dnsmon.ErrConfig) {
			t.Errorf("got %v; want ErrConfig", err)
		}
	}
}
