package refd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/internal/varlink"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/dnsmon/dnsmontest"
)

// resolverRig is a daemon of which only the monitor runs, beside a resolver that can be asked and that tells what it was asked for, or
// does not.
type resolverRig struct {
	*Daemon
	tells *dnsmontest.Resolver
	quiet chan bool // is it to be quiet about the next question?
}

func newResolverRig(t *testing.T) *resolverRig {
	t.Helper()
	dir := t.TempDir()
	r := &resolverRig{Daemon: &Daemon{}, quiet: make(chan bool, 1)}
	r.opt.Config = &config.Loaded{File: config.Default()}
	r.opt.Config.DNS.ResolvedSocket = filepath.Join(dir, "io.systemd.Resolve.Monitor")
	var err error
	if r.tells, err = dnsmontest.Listen(r.opt.Config.DNS.ResolvedSocket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.tells.Close)
	l, err := net.Listen("unix", filepath.Join(dir, "io.systemd.Resolve")) //nolint:noctx // it is closed
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		r.serve(l)
	}()
	t.Cleanup(func() {
		_ = l.Close() // ends serve
		<-served
	})
	r.naming.monitor, err = dnsmon.New(dnsmon.Config{
		Handle: func(a dnsmon.Answer) { r.check.heardName(&a) }, Socket: r.opt.Config.DNS.ResolvedSocket, MinPause: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// serve answers one question of each client.
func (r *resolverRig) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		var call struct{ Parameters struct{ Name string } }
		b, err := varlink.NewReader(c).Next()
		if err == nil && json.Unmarshal(b, &call) == nil && !<-r.quiet {
			r.tells.Send(fmt.Sprintf(`{"parameters":{"state":"rcode-failure","rcode":3,"question":[{"class":1,"type":1,"name":%q}]},"continues":true}`, call.Parameters.Name))
		}
		_ = c.Close() // the check does not wait for the answer
	}
}

// A resolver that answers and does not tell is found out, and one that is not listened to is no failure.
func TestMonitorIsChecked(t *testing.T) {
	testutil.NoLeaks(t)
	r := newResolverRig(t)
	if err := r.checkMonitor(t.Context()); !errors.Is(err, errNothingToCheck) {
		t.Errorf("not listened to: got %v; want that there is nothing to check", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- r.naming.monitor.Run(ctx, func() { close(ready) }) }()
	<-ready
	r.quiet <- false
	if err := r.checkMonitor(ctx); err != nil {
		t.Errorf("got %v; want it heard", err)
	}
	r.quiet <- true
	short, end := context.WithTimeout(ctx, 300*time.Millisecond)
	defer end()
	if err := r.checkMonitor(short); err == nil || !strings.Contains(err.Error(), "did not tell") {
		t.Errorf("got %v; want that the resolver did not tell", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
