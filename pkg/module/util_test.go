package module_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/module"
)

var errTest = errors.New("test error")

// bubble runs fn with fake time. The test fails if a goroutine is left.
func bubble(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, fn)
}

// logs collects log records.
type logs struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// records returns those records that have the message.
func (l *logs) records(t *testing.T, msg string) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []map[string]any
	for line := range bytes.Lines(l.buf.Bytes()) {
		var r map[string]any
		mustNoError(t, json.Unmarshal(line, &r))
		if r["msg"] == msg {
			out = append(out, r)
		}
	}
	return out
}

func newUnit(t *testing.T, cfg module.Config) *module.Unit {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "unit"
	}
	u, err := module.New(cfg)
	mustNoError(t, err)
	return u
}

// startUnit returns a unit that runs until the test ends.
func startUnit(t *testing.T, cfg module.Config) *module.Unit {
	t.Helper()
	u := newUnit(t, cfg)
	start(t, u)
	return u
}

// start starts a module, and stops it when the test ends.
func start(t *testing.T, m module.Module) {
	t.Helper()
	mustNoError(t, m.Start(t.Context()))
	t.Cleanup(func() { stop(t, m) })
}

func stop(t *testing.T, m module.Module) {
	t.Helper()
	// The test's own context has ended when clean-ups run.
	if err := m.Stop(context.WithoutCancel(t.Context())); err != nil {
		t.Errorf("stop %s: got %v; want no error", m.Name(), err)
	}
}

func untilDone(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// after lets fake time go by, and everything happen that is due by then.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// diary notes what happens, in order.
type diary struct {
	mu    sync.Mutex // guards notes
	notes []string
}

func (d *diary) note(s string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notes = append(d.notes, s)
}

// take returns the notes and forgets them.
func (d *diary) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.notes
	d.notes = nil
	return n
}

// member is a config that writes into the diary.
func (d *diary) member(name string) module.Config {
	return module.Config{
		Name:  name,
		Start: func(context.Context) error { d.note("start " + name); return nil },
		Stop:  func(context.Context) error { d.note("stop " + name); return nil },
	}
}

func newGroup(t *testing.T, name string, ms ...module.Module) *module.Group {
	t.Helper()
	g, err := module.NewGroup(module.GroupConfig{Name: name}, ms...)
	mustNoError(t, err)
	return g
}
