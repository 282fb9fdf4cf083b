package main

import (
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
