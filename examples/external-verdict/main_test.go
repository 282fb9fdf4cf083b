package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

func TestIntegrationAllowance(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.RequireNFQUEUE(t)
	testutil.RequireTool(t, "curl", "nc")
	lab := testnet.New(t)
	client, server := lab.Pair()
	server.HTTP(t, "[::]:8080", http.NotFoundHandler())
	before := client.Snapshot(t)

	p := client.Start(t, lab.Program(t, "github.com/weirfw/weir/examples/external-verdict"), "2")
	p.WaitOutput(t, "filtering", 20*time.Second)
	for i, addr := range []string{testnet.ServerV4, "[" + testnet.ServerV6 + "]", testnet.ServerV4} {
		start := time.Now()
		out, _ := client.Try("curl", "-gsS", "--noproxy", "*", "-m8", "http://"+addr+":8080/")
		took, want := time.Since(start), "404 page not found"
		if i == 2 {
			want = "onnect to"
		}
		if !strings.Contains(out, want) || i == 2 && took > 3*time.Second {
			t.Errorf("connection %d of curl: got %q after %v; want the third refused, and at once", i+1, out, took)
		}
	}
	// Another program has an allowance of its own.
	client.Run(t, "nc", "-z", "-w8", testnet.ServerV4, "8080")

	if err := p.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	for _, want := range []string{
		"accepted tcp " + testnet.ServerV4 + ":8080 because curl: connection 1 of 2",
		"accepted tcp [" + testnet.ServerV6 + "]:8080 because curl: connection 2 of 2",
		"blocked tcp " + testnet.ServerV4 + ":8080 because curl has used its 2 connections",
		": connection 1 of 2\naccepted tcp", // in order
	} {
		if !strings.Contains(p.Output(), want) {
			t.Errorf("got no line with %q", want)
		}
	}
	if got := strings.Count(p.Output(), "connection 1 of 2"); got != 2 {
		t.Errorf("got %d first connections; want 2, of curl and of nc", got)
	}
	if diff := testnet.Diff(before, client.Snapshot(t)); diff != "" {
		t.Errorf("it left behind:\n%s", diff)
	}
	if t.Failed() {
		t.Logf("it printed:\n%s", p.Output())
	}
}

func TestDecide(t *testing.T) {
	a := newAllowance(1)
	of := func(id conn.ID, path string, d packet.Direction) *conn.Snapshot {
		s := &conn.Snapshot{ID: id, Direction: d}
		if path != "" {
			s.Process = &conn.Process{PID: 1, Path: path}
		}
		return s
	}
	for _, tt := range []struct {
		name string
		s    *conn.Snapshot
		want verdict.Verdict
	}{
		{"first", of(1, "/bin/a", packet.Outbound), verdict.Accept},
		{"first again", of(1, "/bin/a", packet.Outbound), verdict.Accept},
		{"second", of(2, "/bin/a", packet.Outbound), verdict.Block},
		{"another program", of(3, "/bin/b", packet.Outbound), verdict.Accept},
		{"unknown program", of(4, "", packet.Outbound), verdict.Undecided},
		{"inbound", of(5, "/bin/a", packet.Inbound), verdict.Undecided},
	} {
		if got := a.decide(t.Context(), tt.s); got.Verdict != tt.want {
			t.Errorf("%s: got %v (%s); want %v", tt.name, got.Verdict, got.Reason, tt.want)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"many"}, {"70000"}, {"1", "2"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%q: got no error; want one", args)
		}
	}
}
