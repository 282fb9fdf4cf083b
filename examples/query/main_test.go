package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// A firewall of one's own has its store at hand, and asks it with the same query.
func Example_store() {
	store := storeWith("192.0.2.1:443", "192.0.2.2:25")
	if err := show(os.Stdout, store.Query(connstore.Query{Port: 25})); err != nil {
		panic(err)
	}
	// Output:
	// PROGRAM  DIRECTION  PROTOCOL  REMOTE        DECISION  BECAUSE
	// mailer   out        tcp       192.0.2.2:25  blocked   no mail
	// 1 of 1 connections
	// 1 blocked
}

// storeWith has a connection of the program mailer to each remote address; those to port 25 are blocked.
func storeWith(remotes ...string) *connstore.Live {
	store := connstore.NewLive(connstore.Config{})
	for _, r := range remotes {
		remote := netip.MustParseAddrPort(r)
		t := packet.Tuple{Protocol: packet.TCP, Local: netip.MustParseAddrPort("192.0.2.9:50000"), Remote: remote}
		store.GetOrAdd(t, func() *conn.Snapshot {
			s := &conn.Snapshot{Process: &conn.Process{PID: 7, Path: "/usr/bin/mailer"}, Enforced: true, Started: time.Now()}
			s.Decision = verdict.Decision{Verdict: verdict.Accept, Reason: verdict.Reason{Text: "nothing against it"}}
			if remote.Port() == 25 {
				s.Decision = verdict.Decision{Verdict: verdict.Block, Reason: verdict.Reason{Text: "no mail"}}
			}
			return s
		})
	}
	return store
}

// fakeRefd answers queries from a store, on the socket whose path it returns.
func fakeRefd(t *testing.T, store *connstore.Live) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
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

const config = `mode: enforce
on_exit: open
global: [{id: no-8081, remote_ports: "8081", action: block, comment: not this one}]
`

func TestIntegrationQuery(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.RequireNFQUEUE(t)
	testutil.RequireTool(t, "nc")
	lab := testnet.New(t)
	client, server := lab.Pair()
	server.TCPDiscard(t, "[::]:8080")
	socket, file := filepath.Join(lab.Dir(), "s"), filepath.Join(lab.Dir(), "refd.yaml")
	text := config + "api: {socket: " + socket + "}\nnetfilter: {state_dir: " + lab.Dir() + "}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	refd := client.Start(t, lab.Program(t, "github.com/weirfw/weir/cmd/refd"), "--config", file, "run")
	// query itself tells when refd answers; nc tells when it decides.
	query := lab.Program(t, "github.com/weirfw/weir/examples/query")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, _ = client.Try("nc", "-z", "-w2", testnet.ServerV6, "8081") // refused, with refd or without
		out, err := client.Try(query, "-socket", socket, "-app", "/nc", "-refused")
		if err == nil && strings.Contains(out, "blocked") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("refd blocks nothing: %v\n%s\n%s", err, out, refd.Output())
		}
	}
	client.Run(t, "nc", "-z", "-w8", testnet.ServerV4, "8080")
	out := client.Run(t, query, "-socket", socket, "-limit", "0")
	for _, want := range []string{testnet.ServerV4 + ":8080", "accepted", "[" + testnet.ServerV6 + "]:8081", "blocked", "not this one"} {
		if !strings.Contains(out, want) {
			t.Errorf("got no %q; want it in:\n%s", want, out)
		}
	}
	if err := refd.Stop(); err != nil {
		t.Errorf("stop refd: %v", err)
	}
}
