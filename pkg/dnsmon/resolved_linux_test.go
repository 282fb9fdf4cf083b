package dnsmon_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/internal/varlink"
	"github.com/weirfw/weir/pkg/dnsmon"
)

// zone is what the server of these tests knows.
var zone = []string{
	"a.example.test. 60 IN A 192.0.2.10",
	"aaaa.example.test. 60 IN AAAA 2001:db8::10",
	"www.example.test. 60 IN CNAME edge.cdn.test.",
	"edge.cdn.test. 30 IN CNAME node1.cdn.test.",
	"node1.cdn.test. 20 IN A 198.51.100.7",
	"partial part.example.test. 60 IN CNAME node1.cdn.test.",
	"txt.example.test. 60 IN TXT hello",
	`svc.example.test. 60 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.20`,
	"xn--bcher-kva.test. 60 IN A 192.0.2.40",
	"*.burst.test. 60 IN A 192.0.2.50",
}

// resolvedLab is a host with systemd-resolved, which asks another host.
func resolvedLab(t *testing.T) (*testnet.Host, *testnet.Resolved) {
	t.Helper()
	lab := testnet.New(t)
	testutil.RequireTool(t, "dig")
	client, server := lab.Pair()
	addr := netip.AddrPortFrom(netip.MustParseAddr(testnet.ServerV4), 53)
	server.DNS(t, addr.String(), zone...)
	return client, client.Resolved(t, addr)
}

// digs asks the stub, many names at once.
func digs(t *testing.T, h *testnet.Host, args ...string) {
	t.Helper()
	h.Run(t, "dig", append([]string{"+time=10", "+tries=3", "@" + testnet.ResolvedStub}, args...)...)
}

// told waits for an answer about a name, and skips those about others.
func told(t *testing.T, l *listener, name string) string {
	t.Helper()
	for {
		a := await(t, "answer for "+name, l.answers)
		if len(a.Asked) > 0 && a.Asked[len(a.Asked)-1] == name {
			return describe(a)
		}
	}
}

// describe tells an answer in a line, without the TTLs, which go down in the cache.
func describe(a dnsmon.Answer) string {
	parts := []string{fmt.Sprint(a.Asked)}
	if a.Failure != "" {
		parts = append(parts, a.Failure)
	}
	for _, r := range a.Records {
		to := r.Target
		if r.Addr.IsValid() {
			to = r.Addr.String()
		}
		parts = append(parts, r.Name+" "+to)
	}
	return strings.Join(parts, "; ")
}

// The real resolver tells every kind of answer, from its cache, too, and after it was killed and started again.
func TestIntegrationResolved(t *testing.T) {
	testutil.NoLeaks(t)
	host, resolved := resolvedLab(t)
	l := listen(t, resolved.Monitor())
	await(t, "ready", l.ready)
	ask := func(name, kind, want string) {
		t.Helper()
		digs(t, host, name, kind)
		last := strings.ToLower(name)
		if last == "part.example.test" {
			told(t, l, last) // the first step
			last = "node1.cdn.test"
		}
		if got := told(t, l, last); got != want {
			t.Errorf("%s %s:\ngot  %s\nwant %s", name, kind, got, want)
		}
	}
	all := func() {
		t.Helper()
		for range 2 { // the second time from its cache
			ask("a.example.test", "A", "[a.example.test]; a.example.test 192.0.2.10")
		}
		ask("A.ExAmple.TEST", "A", "[a.example.test]; a.example.test 192.0.2.10")
		ask("aaaa.example.test", "AAAA", "[aaaa.example.test]; aaaa.example.test 2001:db8::10")
		ask("www.example.test", "A", "[www.example.test]; www.example.test edge.cdn.test; edge.cdn.test node1.cdn.test; node1.cdn.test 198.51.100.7")
		ask("part.example.test", "A", "[part.example.test node1.cdn.test]; node1.cdn.test 198.51.100.7")
		ask("nope.example.test", "A", "[nope.example.test]; NXDOMAIN")
		ask("txt.example.test", "A", "[txt.example.test]")
		ask("svc.example.test", "HTTPS", "[svc.example.test]; svc.example.test 192.0.2.20")
		ask("xn--bcher-kva.test", "A", "[xn--bcher-kva.test]; xn--bcher-kva.test 192.0.2.40")
	}
	all()
	idn(t, resolved, l)

	resolved.Kill(t)
	if c := await(t, "condition", l.conditions); c.ID != dnsmon.ResolverAbsent || c.Over {
		t.Errorf("killed: got %+v; want %s", c, dnsmon.ResolverAbsent)
	}
	resolved.Start(t)
	if c := await(t, "end of the condition", l.conditions); c.ID != dnsmon.ResolverAbsent || !c.Over {
		t.Errorf("started again: got %+v; want %s to be over", c, dnsmon.ResolverAbsent)
	}
	all()
	if s := l.Stats(); s.Bad != 0 || s.Connects != 2 {
		t.Errorf("got %+v; want all understood, from two connections", s)
	}
}

// idn asks for an international name, as programs do that use no DNS.
func idn(t *testing.T, resolved *testnet.Resolved, l *listener) {
	t.Helper()
	c, err := varlink.Dial(t.Context(), resolved.Varlink())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Send(varlink.Call{Method: "io.systemd.Resolve.ResolveHostname", Parameters: map[string]any{"name": "bücher.test", "family": 2}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receive(); err != nil {
		t.Fatal(err)
	}
	if got, want := told(t, l, "xn--bcher-kva.test"), "[xn--bcher-kva.test]; xn--bcher-kva.test 192.0.2.40"; got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}

// Of 4,000 answers in a burst, none is lost.
func TestIntegrationResolvedBurst(t *testing.T) {
	testutil.NoLeaks(t)
	host, resolved := resolvedLab(t)
	l := listen(t, resolved.Monitor())
	await(t, "ready", l.ready)
	const n, together = 4000, 8
	failed := make(chan error, together)
	for part := range together {
		go func() {
			args := []string{"+time=10", "+tries=3", "+short", "@" + testnet.ResolvedStub}
			for i := part; i < n; i += together {
				args = append(args, fmt.Sprintf("n%d.burst.test", i))
			}
			_, err := host.Try("dig", args...)
			failed <- err
		}()
	}
	for range together {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	left := n
	heard := make(map[string]bool, n)
	for deadline := time.After(patience); left > 0; {
		select {
		case a := <-l.answers:
			addr := slices.ContainsFunc(a.Records, func(r dnsmon.Record) bool { return r.Addr == netip.MustParseAddr("192.0.2.50") })
			if name := a.Asked[0]; addr && strings.HasSuffix(name, ".burst.test") && !heard[name] {
				heard[name] = true
				left--
			}
		case <-deadline:
			t.Fatalf("%d of %d answers did not come", left, n)
		}
	}
}
