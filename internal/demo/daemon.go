package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
)

// policy is what refd enforces, but for the rules of curl.
const policy = `default: {in: block, out: allow}
apps:
  - id: curl
    match: [{path: %s}]
    rules:
%s
global:
  - {id: ads, remote: [` + adsV4 + `, "` + adsV6 + `"], action: block,
     comment: no advertisements}
  - {id: trackers, remote: [` + trackerV4 + `, "` + trackerV6 + `"], action: drop,
     comment: trackers get no answer}
  - {id: ssh, direction: out, remote_ports: "2222", action: ask,
     comment: ask me first}
  - {id: db, direction: out, remote: [host], remote_ports: "5432",
     action: block, comment: not for everybody}
  - {id: our-web, direction: in, local_ports: "80", action: allow,
     comment: our pages are for everybody}
`

// The rules of curl, before and after the change that cuts its download.
const (
	curlMayBrowse = `      - {id: web-only, direction: out, remote_ports: "1-79,81-65535",
         action: block, comment: curl may only browse}`
	curlMayNot = `      - {id: no-web, direction: out, action: block, comment: no more curl}`
)

// daemon is refd on the client.
type daemon struct {
	s      *stage
	host   *testnet.Host
	binary string
	dir    string
	curl   string // the executable that the kernel tells
	client *api.Client
	proc   *testnet.Process // nil while none runs
}

func newDaemon(s *stage, lab *testnet.Lab, host *testnet.Host) *daemon {
	d := &daemon{s: s, host: host, dir: lab.Dir(), binary: lab.Program(s, "github.com/weirfw/weir/cmd/refd")}
	d.client = api.NewClient(d.socket())
	path, err := exec.LookPath("curl")
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		s.Fatalf("find curl: %v", err)
	}
	d.curl = path
	return d
}

func (d *daemon) config() string { return filepath.Join(d.dir, "refd.yaml") }
func (d *daemon) socket() string { return filepath.Join(d.dir, "refd.sock") }

// policy returns the rules of the configuration with these for curl.
func (d *daemon) policy(curlRules string) string { return fmt.Sprintf(policy, d.curl, curlRules) }

// configure writes the configuration; settings are more lines of it.
func (d *daemon) configure(curlRules string, settings ...string) {
	d.write(strings.Join(settings, "\n") + "\n" + d.policy(curlRules))
}

// write writes a configuration that enforces, with these settings and rules.
func (d *daemon) write(rest string) {
	text := fmt.Sprintf("mode: enforce\non_exit: open\napi: {socket: %s}\nnetfilter: {state_dir: %s}\n%s",
		d.socket(), filepath.Join(d.dir, "state"), rest)
	if err := os.WriteFile(d.config(), []byte(text), 0o600); err != nil {
		d.s.Fatalf("write refd's configuration: %v", err)
	}
}

// start starts refd and waits until all of it runs. It returns how long that took.
func (d *daemon) start(ctx context.Context, flags ...string) time.Duration {
	began := time.Now()
	d.proc = d.host.Start(d.s, d.binary, append([]string{"--config", d.config(), "run"}, flags...)...)
	for !d.running(ctx) {
		select {
		case <-ctx.Done():
			d.s.Fatalf("start refd: %v", context.Cause(ctx))
		case <-d.proc.Done():
			d.s.Fatalf("refd ended: %v\n%s", d.proc.Wait(), d.proc.Output())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Since(began) > startLimit {
			d.s.Fatalf("refd does not intercept after %v\n%s", startLimit, d.proc.Output())
		}
	}
	return time.Since(began)
}

// running says whether all parts of the refd that was started last run.
func (d *daemon) running(ctx context.Context) bool {
	status, err := d.client.Status(ctx)
	if err != nil || status.PID != d.proc.PID() {
		return false
	}
	for _, m := range status.Modules {
		if m.Phase != "running" {
			return false
		}
	}
	return len(status.Modules) > 0
}

// stop ends refd as a service manager would, if one runs.
func (d *daemon) stop() {
	if d.proc == nil {
		return
	}
	if err := d.proc.Stop(); err != nil {
		d.s.Fatalf("stop refd: %v\n%s", err, d.proc.Output())
	}
	d.proc = nil
}

// kill ends refd as a crash would.
func (d *daemon) kill() {
	d.proc.Kill()
	d.proc = nil
}

// reload makes refd read its configuration again.
func (d *daemon) reload(ctx context.Context) api.ReloadResult {
	r, err := d.client.Reload(ctx)
	if err != nil {
		d.s.Fatalf("refd reload: %v", err)
	}
	return r
}

var errNoConnection = errors.New("refd knows no such connection")

// connection returns the oldest connection that the query selects and that is decided.
func (d *daemon) connection(ctx context.Context, q connstore.Query) (conn.Snapshot, error) {
	q.Order = connstore.OldestFirst
	for tries := 0; ; tries++ {
		page, err := d.client.Connections(ctx, q)
		if err != nil {
			return conn.Snapshot{}, err
		}
		if len(page.Connections) > 0 && page.Connections[0].Decision.Reason.Text != "" {
			return page.Connections[0], nil
		}
		// a program may be done before its decision is on record
		const patience = 500
		if tries == patience {
			return conn.Snapshot{}, errNoConnection
		}
		time.Sleep(10 * time.Millisecond)
	}
}
