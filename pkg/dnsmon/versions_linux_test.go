package dnsmon_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/dnsmon"
)

// versions are those of systemd in which something about its events differs, as testdata/typed has them, and what is to be heard.
//
//nolint:gochecknoglobals // a table
var versions = map[string][]string{
	"v252": {
		"[a.example.test]; a.example.test 192.0.2.10",
		"[www.example.test edge.cdn.test node1.cdn.test]; node1.cdn.test 198.51.100.7",
		"[svc.example.test]; svc.example.test 192.0.2.20; svc.example.test 2001:db8::10",
		"[x.example.test]; errno",
		"[x.example.test]; timeout",
		"[x.example.test]; no-servers",
		"[bogus.example.test]; dnssec-failed",
		"[nas.local]; nas.local 192.0.2.30; nas.local 2001:db8::10",
		"[printer]; printer 192.0.2.31",
	},
	"v255": {
		"[a.example.test]; a.example.test edge.cdn.test; edge.cdn.test 198.51.100.7; edge.cdn.test 2001:db8::10",
		"[svc.example.test]; svc.example.test svc.cdn.test",
		"[filtered.example.test]; NXDOMAIN",
		"[bogus.example.test]; dnssec-failed",
		"[10.2.0.192.in-addr.arpa]",
	},
	"v257": {
		"[svc.example.test]; svc.example.test 192.0.2.20; svc.example.test 2001:db8::10",
		"[svc.example.test]; svc.example.test svc.cdn.test",
		"[e164.example.test]",
		"[part.example.test node1.cdn.test]; node1.cdn.test 198.51.100.7",
		"[blocked.example.test]; REFUSED",
	},
}

// Each version's events are understood.
func TestVersions(t *testing.T) {
	files, err := filepath.Glob("testdata/typed/*.jsonl")
	if err != nil || len(files) != len(versions) {
		t.Fatalf("got %d files, %v; want %d", len(files), err, len(versions))
	}
	for version, want := range versions {
		t.Run(version, func(t *testing.T) {
			testutil.NoLeaks(t)
			b, err := os.ReadFile(filepath.Join("testdata/typed", version+".jsonl"))
			if err != nil {
				t.Fatal(err)
			}
			events := slices.Collect(bytes.Lines(b))
			r := stand(t, filepath.Join(t.TempDir(), "s"))
			r.Greet(string(bytes.TrimSpace(events[0])))
			l := listen(t, r.Path())
			await(t, "subscription", r.Subscribed())
			if len(events)-1 != len(want) {
				t.Fatalf("got %d events; want %d", len(events)-1, len(want))
			}
			for i, e := range events[1:] {
				r.Send(string(bytes.TrimSpace(e)))
				if got := describe(await(t, version, l.answers)); got != want[i] {
					t.Errorf("event %d:\ngot  %s\nwant %s", i+1, got, want[i])
				}
			}
			if s := l.Stats(); s.Bad != 0 || s.Connects != 1 {
				t.Errorf("got %+v; want all of it understood", s)
			}
		})
	}
}

// Versions before 252 answer queries and tell nobody about it: their socket for that is not there.
func TestVersionThatDoesNotTell(t *testing.T) {
	testutil.NoLeaks(t)
	dir := t.TempDir()
	stand(t, filepath.Join(dir, "io.systemd.Resolve"))
	l := listen(t, filepath.Join(dir, filepath.Base(dnsmon.DefaultSocket)))
	if c := await(t, "condition", l.conditions); c.ID != dnsmon.ResolverAbsent || !strings.Contains(c.Text, "252 or newer") {
		t.Errorf("got %+v; want %s, and which version could", c, dnsmon.ResolverAbsent)
	}
}

// Of older versions the socket is root's alone; of newer ones anybody may open it, and polkit decides.
func TestAccessRules(t *testing.T) {
	const action = "org.freedesktop.resolve1.subscribe-query-results"
	for name, tt := range map[string]struct{ greet, id string }{
		"not root, polkit would ask": {`{"error":"io.systemd.InteractiveAuthenticationRequired","parameters":{}}`, dnsmon.ResolverRefuses},
		"not root, polkit says no":   {`{"error":"org.varlink.service.PermissionDenied","parameters":{}}`, dnsmon.ResolverRefuses},
		"a system error of rights":   {`{"error":"io.systemd.System","parameters":{"errno":13}}`, dnsmon.ResolverRefuses},
		"said in a newer way":        {`{"error":"io.systemd.System","parameters":{"origin":"linux","errno":1,"errnoName":"EPERM"}}`, dnsmon.ResolverRefuses},
		"another system error":       {`{"error":"io.systemd.System","parameters":{"errno":12}}`, dnsmon.ResolverUnknown},
		"a system error of nothing":  {`{"error":"io.systemd.System"}`, dnsmon.ResolverUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			testutil.NoLeaks(t)
			r := stand(t, filepath.Join(t.TempDir(), "s"))
			r.Greet(tt.greet)
			l := listen(t, r.Path())
			c := await(t, "condition", l.conditions)
			if c.ID != tt.id || c.Over || strings.Contains(c.Text, action) != (tt.id == dnsmon.ResolverRefuses) {
				t.Errorf("got %+v; want %s, and how to allow it where that helps", c, tt.id)
			}
		})
	}
}
