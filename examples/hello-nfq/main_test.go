package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

func TestIntegrationHello(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.RequireNFQUEUE(t)
	testutil.RequireTool(t, "curl", "ping")
	lab := testnet.New(t)
	client, server := lab.Pair()
	server.HTTP(t, "[::]:8080", http.NotFoundHandler())
	server.HTTP(t, "[::]:8081", http.NotFoundHandler())
	before := client.Snapshot(t)

	p := client.Start(t, lab.Program(t, "github.com/weirfw/weir/examples/hello-nfq"), "8080")
	p.WaitOutput(t, "filtering", 20*time.Second)
	for _, addr := range []string{testnet.ServerV4, "[" + testnet.ServerV6 + "]"} {
		curl := func(port string) (out string, took time.Duration) {
			start := time.Now()
			out, _ = client.Try("curl", "-gsS", "--noproxy", "*", "-m8", "http://"+addr+":"+port+"/")
			return out, time.Since(start)
		}
		if out, took := curl("8080"); !strings.Contains(out, "onnect to") || took > 3*time.Second {
			t.Errorf("%s, the refused port: got %q after %v; want a refusal at once", addr, out, took)
		}
		if out, _ := curl("8081"); !strings.Contains(out, "404 page not found") {
			t.Errorf("%s, another port: got %q; want an answer", addr, out)
		}
	}
	client.Run(t, "ping", "-n", "-c3", "-i0.2", "-W5", testnet.ServerV4)

	if err := p.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	for _, want := range []string{
		"block out tcp " + testnet.ClientV4, "block out tcp [" + testnet.ClientV6, "accept out tcp " + testnet.ClientV4,
		"accept out icmp " + testnet.ClientV4,
	} {
		// Once each: the verdicts are permanent.
		if got := strings.Count(p.Output(), want); got != 1 {
			t.Errorf("got %d lines with %q; want 1", got, want)
		}
	}
	if diff := testnet.Diff(before, client.Snapshot(t)); diff != "" {
		t.Errorf("it left behind:\n%s", diff)
	}
	if t.Failed() {
		t.Logf("it printed:\n%s", p.Output())
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"http"}, {"70000"}, {"1", "2"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%q: got no error; want one", args)
		}
	}
}
