package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/connstore"
)

// fakeRefd answers queries from a store, on the socket whose path it returns.
func fakeRefd(t *testing.T, store *connstore.Live) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/connections/query", func(w http.ResponseWriter, r *http.Request) {
		var q connstore.Query
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.App == "trouble" {
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = io.WriteString(w, `{"error":"that makes no sense"}`)
			return
		}
		_ = json.NewEncoder(w).Encode(store.Query(q))
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return socket
}

func TestRun(t *testing.T) {
	testutil.NoLeaks(t)
	socket := fakeRefd(t, storeWith("192.0.2.1:443", "192.0.2.2:25", "198.51.100.1:443"))
	for _, tt := range []struct {
		name string
		args []string
		want []string // lines in the answer, or the error
		fail bool
	}{
		{"all", nil, []string{"192.0.2.1:443", "192.0.2.2:25", "198.51.100.1:443", "3 of 3 connections", "2 accepted", "1 blocked"}, false},
		{"a page", []string{"-limit", "1"}, []string{"198.51.100.1:443", "1 of 3 connections"}, false},
		{"refused", []string{"-refused"}, []string{"192.0.2.2:25", "no mail", "1 of 1 connections"}, false},
		{"a network", []string{"-remote", "198.51.100.0/24"}, []string{"198.51.100.1:443", "1 of 1 connections"}, false},
		{"no such app", []string{"-app", "curl"}, []string{"0 of 0 connections"}, false},
		{"refd's objection", []string{"-app", "trouble"}, []string{"that makes no sense"}, true},
		{"no refd", []string{"-socket", filepath.Join(t.TempDir(), "none")}, []string{"ask refd"}, true},
		{"a bad network", []string{"-remote", "x"}, []string{"command line"}, true},
		{"help", []string{"-help"}, []string{"where refd answers"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			err := run(t.Context(), append([]string{"-socket", socket}, tt.args...), &out)
			got := out.String()
			if err != nil {
				got = err.Error()
			}
			if (err != nil) != tt.fail {
				t.Errorf("got error %v; want one: %t", err, tt.fail)
			}
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("got %q; want %q in it", got, want)
				}
			}
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	socket := fakeRefd(t, storeWith())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, []string{"-socket", socket}, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; want %v", err, context.Canceled)
	}
}
