package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// endLimit is how long refd may take to end.
const endLimit = 8 * time.Second

// exitStatus returns what a program ended with.
func exitStatus(err error) int {
	var failed *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &failed):
		return failed.ExitCode()
	}
	return -1
}

// wantEnd waits for refd to end with this status.
func (r *rig) wantEnd(t *testing.T, status int) {
	t.Helper()
	p := r.refd
	r.refd = nil
	select {
	case <-p.Done():
	case <-time.After(endLimit):
		t.Fatalf("refd runs after %v; want it to end\n%s", endLimit, p.Output())
	}
	if got := exitStatus(p.Wait()); got != status {
		t.Errorf("refd ended with status %d; want %d\n%s", got, status, p.Output())
	}
}

// wantAsBefore compares the client with a snapshot.
func (r *rig) wantAsBefore(t *testing.T, before string) {
	t.Helper()
	if diff := testnet.Diff(before, r.client.Snapshot(t)); diff != "" {
		t.Errorf("refd left or took something:\n%s", diff)
	}
}

// busy makes the client open connections, one after the other, until the test ends or the returned function is called.
func (r *rig) busy(t *testing.T) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			c, err := r.client.Dial(ctx, "tcp", hostPort(both()[0], webPort))
			if err == nil {
				_ = c.Close() // nothing to lose
			}
		}
	}()
	end = func() { cancel(); <-done }
	t.Cleanup(end)
	return end
}

// However refd is told to end, idle or busy, it does so soon and leaves nothing.
func TestIntegrationStop(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		r.primeTables(t)
		before := r.client.Snapshot(t)
		for _, c := range []struct {
			name   string
			end    func(t *testing.T)
			status int
		}{
			{"SIGTERM", func(t *testing.T) { r.signal(t, syscall.SIGTERM) }, 0},
			{"SIGINT", func(t *testing.T) { r.signal(t, syscall.SIGINT) }, 0},
			{"refd stop", func(t *testing.T) { r.cli(t, "stop") }, 0},
			{"refd stop --restart", func(t *testing.T) { r.cli(t, "stop", "--restart") }, 75},
		} {
			t.Run(c.name, func(t *testing.T) {
				r.start(t, settings{rules: blockCurl})
				end := r.busy(t)
				watch := r.client.Start(t, r.binary, "--config", r.configPath(), "conns", "--watch")
				watch.WaitOutput(t, "REMOTE", startLimit)
				start := time.Now()
				c.end(t)
				r.wantEnd(t, c.status)
				t.Logf("ended after %v", time.Since(start))
				end()
				r.wantAsBefore(t, before)
			})
		}
	})
}

func (r *rig) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := r.refd.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// A SIGTERM that comes while refd starts is as good as any other.
func TestIntegrationStopWhileStarting(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		r.primeTables(t)
		before := r.client.Snapshot(t)
		r.configure(t, settings{onExit: "open"})
		for i := range 8 {
			r.refd = r.client.Start(t, r.binary, "--config", r.configPath(), "run")
			// The Go runtime ends a program that has not yet asked for the signal: it has changed nothing then.
			time.Sleep(time.Duration(10+15*i) * time.Millisecond)
			r.signal(t, syscall.SIGTERM)
			if err := waitEnd(t, r.refd); exitStatus(err) > 0 {
				t.Errorf("SIGTERM at the start: %v\n%s", err, r.refd.Output())
			}
			r.refd = nil
			r.wantAsBefore(t, before)
		}
	})
}

func waitEnd(t *testing.T, p *testnet.Process) error {
	t.Helper()
	select {
	case <-p.Done():
		return p.Wait()
	case <-time.After(endLimit):
		t.Fatalf("still runs after %v\n%s", endLimit, p.Output())
		return nil
	}
}

// With on_exit: closed nothing new passes after the end, what was accepted for good goes on, and the next start or cleanup
// opens again.
func TestIntegrationExitClosed(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		addVerdictAddresses(t, r)
		cases := bothWays(r)
		serveVerdicts(t, r, cases)
		r.primeTables(t)
		before := r.client.Snapshot(t)
		r.start(t, settings{onExit: "closed", rules: allowAll})
		wantAll(t, cases, answered)
		r.cli(t, "stop")
		r.wantEnd(t, 0)
		wantAll(t, cases, silent)
		r.launch(t)
		wantAll(t, cases, answered)
		r.stop(t)
		r.cli(t, "cleanup")
		wantAll(t, cases, answered)
		r.wantAsBefore(t, before)
	})
}

// Without a confirmation all is undone; with one it stays.
func TestIntegrationConfirm(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		r.primeTables(t)
		before := r.client.Snapshot(t)
		r.configure(t, settings{onExit: "closed"})
		r.launch(t, "--confirm", "1s")
		p := r.refd
		r.wantEnd(t, 1)
		if !strings.Contains(p.Output(), "not confirmed in time") {
			t.Errorf("refd printed %q; want it to say that nobody confirmed", p.Output())
		}
		r.wantAsBefore(t, before)

		r.configure(t, settings{})
		r.launch(t, "--confirm", "1s")
		if out := r.cli(t, "status", "--json"); !strings.Contains(out, "confirmUntil") {
			t.Errorf("status does not tell of the confirmation:\n%s", out)
		}
		r.cli(t, "confirm")
		time.Sleep(1200 * time.Millisecond) // it would be rolled back now
		if _, ok := r.tryStatus(); !ok {
			t.Errorf("refd does not run though it was confirmed:\n%s", r.refd.Output())
		}
		if out, err := r.client.Try(r.binary, "--config", r.configPath(), "confirm"); exitStatus(err) != 1 {
			t.Errorf("second confirm: %v\n%s; want status 1", err, out)
		}
	})
}

// A pause lets everything pass, without rules, until it ends.
func TestIntegrationPause(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		r.primeTables(t)
		before := r.client.Snapshot(t)
		r.start(t, settings{onExit: "closed", rules: blockCurl})
		r.wantCurl(t, "/usr/bin/curl", both()[0], refused)
		r.cli(t, "pause", "10m")
		r.wantCurl(t, "/usr/bin/curl", both()[0], answered)
		r.wantAsBefore(t, before)
		r.cli(t, "resume")
		r.wantCurl(t, "/usr/bin/curl", both()[0], refused)
		r.cli(t, "pause", "1s")
		r.wantCurl(t, "/usr/bin/curl", both()[1], answered)
		r.eventually(t, startLimit, "the pause ends", func() bool {
			return r.rules(t, both()[0]).onTop() && r.rules(t, both()[1]).onTop()
		})
		r.wantCurl(t, "/usr/bin/curl", both()[1], refused)
		r.stop(t)
		r.cli(t, "cleanup")
		r.wantAsBefore(t, before)
	})
}

// A second refd is refused, whatever it has in common with the first, and does the first no harm.
func TestIntegrationSecondRefd(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		r.primeTables(t)
		before := r.client.Snapshot(t)
		r.start(t, settings{rules: blockCurl})
		rules := r.ours(t)
		for name, config := range map[string]string{
			"the same file": "",
			"another socket": fmt.Sprintf("api: {socket: %s}\nnetfilter: {variant: %s, state_dir: %s}\n",
				filepath.Join(r.dir, "b.sock"), r.variant, filepath.Join(r.dir, "state")),
			"another socket and folder": fmt.Sprintf("api: {socket: %s}\nnetfilter: {variant: %s, state_dir: %s}\n",
				filepath.Join(r.dir, "b.sock"), r.variant, filepath.Join(r.dir, "other")),
			"other queues": fmt.Sprintf(`api: {socket: %s}
netfilter: {variant: %s, state_dir: %s, queues: {out4: 1, in4: 2, out6: 3, in6: 4}}
`, filepath.Join(r.dir, "b.sock"), r.variant, filepath.Join(r.dir, "other")),
		} {
			path := r.configPath()
			if config != "" {
				path = filepath.Join(r.dir, "b.yaml")
				if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			wantRefusal(t, r.client.Start(t, r.binary, "--config", path, "run"), "another")
			if r.ours(t) != rules {
				t.Errorf("%s: the second refd changed the rules of the first", name)
			}
			r.wantCurl(t, "/usr/bin/curl", both()[0], refused)
			r.wantCurl(t, r.copyOfCurl(t), both()[0], answered)
		}
		wantRefusal(t, r.client.Start(t, r.binary, "--config", r.configPath(), "cleanup"), "another")
		if r.ours(t) != rules {
			t.Error("refd cleanup changed the rules of a refd that runs")
		}
		r.stop(t)
		r.wantAsBefore(t, before)
	})
}

// wantRefusal waits for refd to end with status 1 and an error that has all these words in its last line.
func wantRefusal(t *testing.T, p *testnet.Process, words ...string) {
	t.Helper()
	err := waitEnd(t, p)
	out := strings.TrimSpace(p.Output())
	last := out[strings.LastIndexByte(out, '\n')+1:]
	if exitStatus(err) != 1 || !strings.HasPrefix(last, "refd: ") {
		t.Errorf("got %v; want status 1 and an error\n%s", err, out)
	}
	for _, word := range words {
		if !strings.Contains(out, word) {
			t.Errorf("the error does not say %q:\n%s", word, out)
		}
	}
	t.Log(last)
}

// What cannot work is refused with an error that says what to do, and nothing was changed.
func TestIntegrationRefusals(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.RequireTool(t, "setpriv")
	eachVariant(t, func(t *testing.T, r *rig) {
		r.primeTables(t)
		before := r.client.Snapshot(t)
		r.configure(t, settings{})
		args := []string{"--config", r.configPath(), "run"}
		for _, c := range []struct {
			name  string
			via   []string
			words []string
		}{
			{"an ordinary user", []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, []string{"root", "sudo"}},
			{"root without the capability", []string{"setpriv", "--bounding-set=-net_admin"}, []string{"CAP_NET_ADMIN"}},
			{"no iptables", []string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs none /usr/sbin && exec "$@"`, "sh"}, []string{"iptables", "install"}},
		} {
			command := append(append(c.via, r.binary), args...)
			p := r.client.Start(t, command[0], command[1:]...)
			t.Run(c.name, func(t *testing.T) { wantRefusal(t, p, c.words...) })
			r.wantAsBefore(t, before)
		}
		if err := os.WriteFile(r.configPath(), []byte("mode: enforce\nglobal:\n  - {id: a, remote: [10.0.0.0/99], action: block}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p := r.client.Start(t, r.binary, args...)
		wantRefusal(t, p, "refd.yaml:3:", "10.0.0.0/99")
		p = r.client.Start(t, r.binary, "--config", "/nonexistent/refd.yaml", "run")
		wantRefusal(t, p, "/nonexistent/refd.yaml", "no such file")
		r.wantAsBefore(t, before)
	})
}
