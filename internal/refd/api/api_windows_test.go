package api_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/refd/api"
)

// serve serves on a pipe of its own until the test ends.
func serve(t *testing.T, b api.Backend) (pipe string) {
	t.Helper()
	pipe = fmt.Sprintf(`\\.\pipe\weir-api-test-%d`, os.Getpid())
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- api.Serve(ctx, api.Config{Socket: pipe, Backend: b, Logger: slog.New(slog.DiscardHandler)}, func() { close(ready) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("Serve: %v", err)
	}
	return pipe
}

func client(t *testing.T, pipe string) *api.Client {
	t.Helper()
	c := api.NewClient(pipe)
	t.Cleanup(c.Close)
	return c
}

// fake is a Backend.
type fake struct{ api.Backend }

func (fake) Status(context.Context) (api.Status, error) {
	return api.Status{Version: "v1", PID: 7, Mode: "observe"}, nil
}

func TestPipe(t *testing.T) {
	pipe := serve(t, fake{})
	for range 3 {
		c := client(t, pipe)
		if s, err := c.Status(t.Context()); err != nil || s.Version != "v1" || s.PID != 7 {
			t.Errorf("got %+v, %v", s, err)
		}
	}
	err := api.Serve(t.Context(), api.Config{Socket: pipe, Backend: fake{}, Logger: slog.New(slog.DiscardHandler)}, func() { t.Error("ready") })
	if err == nil || !strings.Contains(err.Error(), "another program has this pipe") {
		t.Errorf("second server: got %v", err)
	}
}

func TestNobodyListens(t *testing.T) {
	if _, err := client(t, `\\.\pipe\weir-api-test-none`).Status(t.Context()); !errors.Is(err, api.ErrNotRunning) {
		t.Errorf("got %v; want %v", err, api.ErrNotRunning)
	}
}
