package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/refd/prompt"
	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/verdict"
)

// The questions that refd asks, and what it remembers: a program waits for somebody's answer, which becomes a rule, and the history
// has its connections when refd was started again.
func TestIntegrationPromptAndHistory(t *testing.T) {
	t.Parallel()
	r := newRig(t, testutil.VariantNFT)
	serve(t, r.server)
	r.start(t, settings{rules: fmt.Sprintf(`
ask: {deny_after: 50s} # more than a busy machine takes
default: {in: allow, out: allow}
global:
  # the question
  - {id: web, direction: out, protocols: [tcp], remote_ports: "%d", action: ask}
%s`, webPort, r.ownHistory())})
	url := fmt.Sprintf("http://%s:%d/", testnet.ServerV4, webPort)
	r.cli(t, "prompt", "list") // now there is somebody to ask
	curl := r.client.Start(t, "/usr/bin/curl", "-sS", "--noproxy", "*", "-m", "60", url)
	var open []prompt.Prompt
	r.eventually(t, startLimit, "there is a question", func() bool {
		if err := json.Unmarshal([]byte(r.cli(t, "prompt", "list", "--json")), &open); err != nil {
			t.Fatal(err)
		}
		return len(open) == 1
	})
	if p := open[0]; p.App != "/usr/bin/curl" || p.Rule != "web" || p.Waiting != 1 || p.Targets[0].Remote.Port() != webPort {
		t.Errorf("got %+v; want curl", p)
	}
	select {
	case <-curl.Done():
		t.Errorf("curl did not wait: %s", curl.Output())
	default:
	}
	r.cli(t, "prompt", "answer", fmt.Sprint(open[0].ID), "allow", "--for", "always")
	if err := curl.Wait(); err != nil || !strings.Contains(curl.Output(), "hello") {
		t.Errorf("curl: %v: %s; want it answered", err, curl.Output())
	}
	b, err := os.ReadFile(r.configPath())
	if err != nil || !strings.Contains(string(b), "# the question\n") || !strings.Contains(string(b), "allow-curl") {
		t.Errorf("got %v\n%s\nwant the rule, and the comments that were there", err, b)
	}
	// as if it had always been so
	if out := r.client.Run(t, "/usr/bin/curl", "-sS", "--noproxy", "*", "-m", "60", url); out != "hello" {
		t.Errorf("curl again: %s", out)
	}

	r.stop(t)
	r.launch(t)
	var p connstore.Page
	if err := json.Unmarshal([]byte(r.cli(t, "conns", "--history", "--json", "--app", "curl", "--port", fmt.Sprint(webPort))), &p); err != nil {
		t.Fatal(err)
	}
	if p.Total != 2 || p.Connections[0].Live() || p.Connections[0].Decision.Reason.Rule != "allow-curl" {
		t.Errorf("got %d connections in the history: %+v; want both, and why", p.Total, p.Connections)
	}
	if out := r.cli(t, "conns", "--history", "--by", "app"); !strings.Contains(out, "/usr/bin/curl") {
		t.Errorf("by app: %s", out)
	}
}

// ownHistory is the setting of a history in the folder of the test.
func (r *rig) ownHistory() string {
	return fmt.Sprintf("history: {path: %s}\n", filepath.Join(r.dir, "history.db"))
}

// wantRemembered wants the queries of dig to be in the history as queries, and not among its connections.
func (r *rig) wantRemembered(t *testing.T) {
	t.Helper()
	flags := []string{"--history", "--app", "/usr/bin/dig", "--domain", "open.test"}
	var list []conn.Snapshot
	r.eventually(t, startLimit, "the history has dig's query", func() bool {
		list = r.conns(t, append(flags, "--queries")...)
		return len(list) > 0 && !list[0].Live()
	})
	if q := list[0]; q.Query == nil || q.Query.Type != "A" || q.Query.RCode != "NOERROR" || q.Verdict() != verdict.Accept || q.Process == nil {
		t.Errorf("got %+v, %+v; want an answered query, and who asked", q, q.Query)
	}
	if list := r.conns(t, flags...); slices.ContainsFunc(list, func(c conn.Snapshot) bool { return c.Query != nil }) {
		t.Errorf("got %+v; want no query among the connections", list)
	}
}
