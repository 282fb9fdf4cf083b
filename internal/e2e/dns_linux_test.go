package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall/dnsguard"
	"github.com/weirfw/weir/pkg/verdict"
)

// digs reports whether dig gets an answer from a server, with these flags.
func (r *rig) digs(name string, flags ...string) bool {
	out, err := r.client.Try("dig", append([]string{"+time=2", "+tries=1", "+short", name}, flags...)...)
	return err == nil && strings.Contains(out, testnet.ServerV4)
}

// newest returns the newest connection to a port of the server.
func (r *rig) newest(t *testing.T, remote string, port int, flags ...string) conn.Snapshot {
	t.Helper()
	return r.conn(t, netip.MustParseAddr(remote), uint16(port), flags...)
}

// Without a nameserver of refd's, the system's DNS passes, programs' own is inspected, and what goes round it is blocked.
func TestIntegrationDisabledDNS(t *testing.T) {
	testutil.NoLeaks(t)
	r := newNamesRig(t)
	resolved := r.client.Resolved(t, netip.AddrPortFrom(netip.MustParseAddr(testnet.ServerV4), 53))
	r.client.Etc(t, "resolv.conf", "nameserver "+testnet.ServerV4+"\n")
	for _, port := range []int{853, 443} {
		r.server.TCPEcho(t, fmt.Sprintf("[::]:%d", port))
	}
	endpoints := filepath.Join(r.dir, "doh")
	if err := os.WriteFile(endpoints, []byte("# of the lab\n"+sharedV4+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start(t, settings{rules: fmt.Sprintf(`dns: {resolved_socket: %s, packets: false, prevent_bypass: true, endpoints: [%s]}
apps:
  - {id: curl, match: [{path: /usr/bin/curl}], prevent_dns_bypass: false}
`, resolved.Monitor(), endpoints)})
	t.Run("DNS passes", func(t *testing.T) {
		for _, server := range []string{testnet.ServerV4, testnet.ResolvedStub} {
			if !r.digs("open.test", "@"+server) {
				t.Errorf("no answer from %s\n%s", server, r.cli(t, "conns"))
			}
		}
		if got := r.fetch("curl", "open.test", "-4"); got != answered {
			t.Errorf("curl: got %s; want it answered", got)
		}
		if c := r.newest(t, testnet.ServerV4, 53, "--app", "systemd-resolved"); c.Decision.Reason.Code != dnsguard.CodeSystemDNS {
			t.Errorf("got %+v; want the resolver known", c)
		}
		if c := r.newest(t, testnet.ServerV4, 53, "--app", "/usr/bin/dig"); c.Verdict() != verdict.Accept || c.Packets < 2 {
			t.Errorf("got %+v; want each packet seen", c)
		}
	})
	t.Run("real resolvers are known", r.knowsResolvers)
	t.Run("what is not DNS is blocked for good", func(t *testing.T) {
		const from = "5353"
		r.client.Try("sh", "-c", "printf 'GET / HTTP/1.1\\r\\n\\r\\n' | socat -t1 - UDP:"+testnet.ServerV4+":53,sourceport="+from)
		c := r.newest(t, testnet.ServerV4, 53, "--app", "socat")
		if c.Verdict() != verdict.Block || c.Decision.Reason.Code != dnsguard.CodeNotDNS || c.Decision.Scope != verdict.ScopePermanent {
			t.Errorf("got %+v; want it blocked for good", c)
		}
		r.client.Try("sh", "-c", "printf 'GET / HTTP/1.1\\r\\n\\r\\n' | socat -t1 - UDP6:["+testnet.ServerV6+"]:53")
		if c := r.newest(t, testnet.ServerV6, 53, "--app", "socat"); c.Decision.Reason.Code != dnsguard.CodeNotDNS || c.Decision.Scope != verdict.ScopePermanent {
			t.Errorf("IPv6: got %+v; want it blocked for good", c)
		}
		if r.digs("open.test", "@"+testnet.ServerV4, "-b", testnet.ClientV4+"#"+from) {
			t.Error("got an answer on the connection that is blocked")
		}
		if !r.digs("open.test", "@"+testnet.ServerV4) {
			t.Error("got no answer on another one")
		}
	})
	t.Run("bypasses are blocked", func(t *testing.T) {
		if r.digs("open.test", "@"+testnet.ServerV4, "+tcp") {
			t.Error("got an answer over TCP")
		}
		for _, to := range []string{"TCP:" + testnet.ServerV4 + ":853", "UDP:" + testnet.ServerV4 + ":853", "TCP:" + sharedV4 + ":443", "TCP:[" + testnet.ServerV6 + "]:853"} {
			out, err := r.client.Try("sh", "-c", "echo hello | socat -t1 - "+to)
			if strings.Contains(out, "hello") || err == nil && strings.HasPrefix(to, "TCP") {
				t.Errorf("%s: got %q, %v; want a refusal", to, out, err)
			}
		}
		for _, c := range []conn.Snapshot{
			r.newest(t, testnet.ServerV4, 53, "--app", "/usr/bin/dig"), r.newest(t, testnet.ServerV4, 853), r.newest(t, testnet.ServerV6, 853),
			r.newest(t, sharedV4, 443),
		} {
			if c.Verdict() != verdict.Block || c.Decision.Reason.Code != dnsguard.CodeBypass {
				t.Errorf("got %+v; want it blocked", c)
			}
		}
		if _, err := r.client.Try("curl", "-sS", "-m", "2", "telnet://"+testnet.ServerV4+":853"); strings.Contains(fmt.Sprint(err), "refused") {
			t.Errorf("got %v; want the app that may", err)
		}
		if c := r.newest(t, testnet.ServerV4, 853, "--app", "curl"); c.Verdict() != verdict.Accept {
			t.Errorf("got %+v; want the app that may", c)
		}
		r.eventually(t, startLimit, "people are told", func() bool {
			out, _ := r.client.Try(r.binary, "--config", r.configPath(), "status") // its exit status tells of the state
			return strings.Contains(out, "DNS over TLS by") && strings.Contains(out, "plain DNS by")
		})
	})
	t.Run("nobody passes for the resolver", func(t *testing.T) {
		for _, resolver := range []string{"/usr/lib/systemd/systemd-resolved", "/usr/sbin/unbound"} {
			out, err := r.client.Try("unshare", "--mount", "sh", "-c", "mount --bind /usr/bin/dig "+resolver+" && exec "+resolver+
				" +time=2 +tries=1 +tcp @"+testnet.ServerV4+" open.test")
			if err == nil && strings.Contains(out, "ANSWER SECTION") {
				t.Errorf("%s: got %s; want no answer", resolver, out)
			}
			if c := r.newest(t, testnet.ServerV4, 53); c.Process == nil || c.Process.Path != "" || c.Process.InnerPath != resolver || c.Decision.Reason.Code != dnsguard.CodeBypass {
				t.Errorf("got %+v of %+v; want it blocked", c.Decision, c.Process)
			}
		}
	})
}

// checks are the results of `refd selfcheck`, by their ids.
func (r *rig) checks(t *testing.T) map[string]api.CheckResult {
	t.Helper()
	out, _ := r.client.Try(r.binary, "--config", r.configPath(), "selfcheck", "--json") // its exit status tells of failures
	var list []api.CheckResult
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("refd selfcheck: %v\n%s", err, out)
	}
	all := map[string]api.CheckResult{}
	for _, c := range list {
		all[c.ID] = c
	}
	return all
}

func (r *rig) wantChecks(t *testing.T, interception, monitor, nameserver api.CheckOutcome) {
	t.Helper()
	got := r.checks(t)
	for id, want := range map[string]api.CheckOutcome{"interception": interception, "monitor": monitor, "nameserver": nameserver} {
		if got[id].Result != want {
			t.Errorf("%s: got %+v; want it %s\n%s", id, got[id], want, r.refd.Output())
		}
	}
}

// refd finds out whether packets are intercepted, the resolver is heard, and programs reach its nameserver.
func TestIntegrationSelfCheck(t *testing.T) {
	testutil.NoLeaks(t)
	r := newNamesRig(t)
	resolved := r.client.Resolved(t, netip.AddrPortFrom(netip.MustParseAddr(testnet.ServerV4), 53))
	r.client.Etc(t, "resolv.conf", "nameserver "+testnet.ResolvedStub+"\n")
	config := func(nameserver string) settings {
		return settings{rules: fmt.Sprintf("dns: {resolved_socket: %s, self_check: false, nameserver: {%s}}\n", resolved.Monitor(), nameserver)}
	}
	r.start(t, config("upstreams: []"))
	r.eventually(t, startLimit, "the resolver is heard", func() bool { return r.checks(t)["monitor"].Result == api.CheckPassed })
	r.wantChecks(t, api.CheckPassed, api.CheckPassed, api.CheckSkipped)
	reload := func(nameserver string) {
		t.Helper()
		r.configure(t, config(nameserver))
		r.cli(t, "reload")
		r.listens(t, true)
	}
	reload("upstreams: [" + testnet.ServerV4 + "]")
	r.wantChecks(t, api.CheckPassed, api.CheckPassed, api.CheckPassed)
	reload("upstreams: [" + testnet.ServerV4 + "], seamless: false")
	r.wantChecks(t, api.CheckPassed, api.CheckPassed, api.CheckFailed)
	r.wantChecks(t, api.CheckPassed, api.CheckPassed, api.CheckFailed)
	const told = "Programs do not reach refd's nameserver"
	if out, _ := r.client.Try(r.binary, "--config", r.configPath(), "status"); !strings.Contains(out, told) || !strings.Contains(out, "seamless") {
		t.Errorf("got %s; want the failure with its remedy", out)
	}
	if out, err := r.client.Try(r.binary, "--config", r.configPath(), "selfcheck"); err == nil || !strings.Contains(out, "seamless") {
		t.Errorf("got %s, %v; want a failure with its remedy", out, err)
	}
	reload("upstreams: [" + testnet.ServerV4 + "]")
	r.wantChecks(t, api.CheckPassed, api.CheckPassed, api.CheckPassed)
	if out := r.cli(t, "status"); strings.Contains(out, told) {
		t.Errorf("got %s; want the state withdrawn", out)
	}
	// somebody else's rule is in front of all others
	tool := r.tool(netip.IPv4Unspecified(), "")
	rule := []string{"OUTPUT", "-p", "udp", "--dport", "9", "-j", "DROP"}
	r.client.Run(t, tool, append([]string{"-t", "raw", "-I"}, rule...)...)
	if got := r.checks(t)["interception"]; got.Result != api.CheckFailed || got.Remedy == "" {
		t.Errorf("got %+v; want that a packet was not seen", got)
	}
	r.client.Run(t, tool, append([]string{"-t", "raw", "-D"}, rule...)...)
	r.cli(t, "pause", "1m")
	if got := r.checks(t)["interception"]; got.Result != api.CheckSkipped {
		t.Errorf("paused: got %+v; want it skipped", got)
	}
	r.stop(t)
	t.Run("by itself on start", func(t *testing.T) { r.checkedOnStart(t, resolved) })
}

// checkedOnStart wants each part to be checked on start, first with nothing broken, then with all of it.
func (r *rig) checkedOnStart(t *testing.T, resolved *testnet.Resolved) {
	t.Helper()
	start := func(more string) {
		t.Helper()
		r.start(t, settings{rules: fmt.Sprintf("dns: {resolved_socket: %s, self_check: true, nameserver: {upstreams: [%s]%s}}\n",
			resolved.Monitor(), testnet.ServerV4, more)})
		r.listens(t, true)
	}
	const failed = "self-check failed"
	start("")
	r.eventually(t, startLimit, "refd has checked by itself", func() bool {
		s, ok := r.tryStatus()
		return ok && s.Nameserver.Stats.Queries > 0 && len(r.conns(t, "--remote", "127.17.17.17", "--port", "9")) > 0
	})
	r.wantChecks(t, api.CheckPassed, api.CheckPassed, api.CheckPassed) // begins when those of the start have ended
	if out := r.refd.Output(); strings.Contains(out, failed) {
		t.Errorf("got %s; want all of them to pass", out)
	}
	r.stop(t)

	rule := []string{"OUTPUT", "-p", "udp", "--dport", "9", "-j", "DROP"}
	tool := r.tool(netip.IPv4Unspecified(), "")
	r.client.Run(t, tool, append([]string{"-t", "raw", "-I"}, rule...)...)
	defer r.client.Run(t, tool, append([]string{"-t", "raw", "-D"}, rule...)...)
	if err := os.Remove(resolved.Varlink()); err != nil { // it is heard, but cannot be asked
		t.Fatal(err)
	}
	start(", seamless: false")
	r.eventually(t, startLimit, "each part has failed", func() bool { return strings.Count(r.refd.Output(), failed) >= 3 })
	parts := []string{"Packets are not intercepted", "Names are not heard", "Programs do not reach refd's nameserver"}
	told := func() (n int) {
		out, _ := r.client.Try(r.binary, "--config", r.configPath(), "status") // its exit status tells of the states
		for _, part := range parts {
			if strings.Contains(out, part) {
				n++
			}
		}
		return n
	}
	if n := told(); n != 0 {
		t.Errorf("got %d states; want none yet: it may pass", n)
	}
	r.wantChecks(t, api.CheckFailed, api.CheckFailed, api.CheckFailed) // the second time, if they ran on start
	if n := told(); n != len(parts) {
		t.Errorf("got %d states; want one for each part\n%s", n, r.refd.Output())
	}
}

// Two refds of two hosts, one the other's server, both of which redirect DNS: neither takes the other's queries, or its own, for a program's.
func TestIntegrationNameserversInARow(t *testing.T) {
	testutil.NoLeaks(t)
	r := newNamesRig(t)
	const listen, last = sharedV4, "10.78.0.2" // of the far one, and of whom it asks in turn
	third := r.lab.Host("third")
	r.lab.Link(r.server, "eth1", testnet.Prefixes("10.78.0.1/24"), third, "eth0", testnet.Prefixes(last+"/24"))
	third.DNS(t, last+":53", namesZone...)
	r.server.Run(t, "ip", "route", "replace", "10.77.0.0/24", "dev", "eth0", "src", listen) // it asks from where it is asked
	r.client.Etc(t, "resolv.conf", "nameserver "+nobodyV4+"\n")
	far := &rig{lab: r.lab, variant: r.variant, client: r.server, server: third, dir: filepath.Join(r.dir, "far"), binary: r.binary}
	if err := os.Mkdir(far.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	farSettings := func(upstream string) settings {
		return settings{rules: fmt.Sprintf(`dns: {monitor: false, nameserver: {upstreams: [%s], listen: ["127.0.0.17:53", "%s:53"], any_client: true}}
default: {in: allow}
`, upstream, listen)}
	}
	far.start(t, farSettings(last))
	far.listens(t, true)
	nearSettings := settings{rules: fmt.Sprintf(`dns: {monitor: false, nameserver: {upstreams: [%s], listen: ["127.0.0.17:53", "%s:53"], any_client: true}}
default: {in: allow}
`, listen, testnet.ClientV4)}
	r.start(t, nearSettings)
	r.listens(t, true)
	for _, how := range []string{"+notcp", "+tcp"} {
		if !r.digs("open.test", "@"+nobodyV4, how) {
			t.Errorf("dig %s: no answer\n%s\n%s", how, r.refd.Output(), far.refd.Output())
		}
	}
	if out := r.server.Run(t, "dig", "+short", "@10.78.0.99", "fine.test"); !strings.Contains(out, sharedV4) {
		t.Errorf("got %s; want the far host's programs redirected, too", out)
	}
	for name, x := range map[string]*rig{"near": r, "far": far} {
		s, _ := x.tryStatus()
		if st := s.Nameserver.Stats; st.Loops != 0 || st.Queries == 0 || st.Failed != 0 {
			t.Errorf("%s: got %+v; want queries, and no loop", name, st)
		}
	}
	if s, _ := far.tryStatus(); s.Nameserver.Stats.Queries > 3 {
		t.Errorf("got %+v; want no query twice", s.Nameserver.Stats)
	}
	// wantLoop has a query go round, and wants that to be noticed: so it would have been before.
	wantLoop := func(name, how string) {
		t.Helper()
		if r.digs(name, "@"+nobodyV4) {
			t.Errorf("%s: got an answer; want none", how)
		}
		s, _ := r.tryStatus()
		out, _ := r.client.Try(r.binary, "--config", r.configPath(), "status") // its exit status tells of the state
		if s.Nameserver.Stats.Loops == 0 || !strings.Contains(out, "error: The ") || !strings.Contains(out, name) {
			t.Errorf("%s: got %+v; want the loop noticed\n%s", how, s.Nameserver.Stats, out)
		}
	}
	t.Run("each asks the other", func(t *testing.T) {
		far.configure(t, farSettings(testnet.ClientV4))
		far.cli(t, "reload")
		wantLoop("example.test", "a circle of two")
	})
	t.Run("somebody redirects refd's own queries", func(t *testing.T) {
		r.stop(t)
		r.start(t, nearSettings)
		r.listens(t, true)
		r.client.Run(t, r.tool(netip.IPv4Unspecified(), ""), "-t", "nat", "-I", "OUTPUT", "-p", "udp", "-d", listen, "--dport", "53",
			"-j", "DNAT", "--to-destination", "127.0.0.17:53")
		wantLoop("www.example.test", "its own query")
	})
}

// While the network wants a login, what leads there passes whatever the rules say, and is asked of the network's own nameserver.
func TestIntegrationPortal(t *testing.T) {
	testutil.NoLeaks(t)
	r := newNamesRig(t)
	r.client.Etc(t, "resolv.conf", "nameserver "+testnet.ServerV4+"\n")
	const portalPort = 8181
	login := fmt.Sprintf("http://login.test:%d/", webPort)
	r.server.HTTP(t, fmt.Sprintf("%s:%d", testnet.ServerV4, portalPort), http.RedirectHandler(login, http.StatusFound))
	// what refd is told to ask, which says something else than the network's own
	r.server.DNS(t, sharedV4+":53", "open.test. 60 IN A "+sharedV4, "fine.test. 60 IN A "+sharedV4, "login.test. 60 IN A "+blockedV4)
	start := func(probes string) {
		t.Helper()
		r.start(t, settings{rules: fmt.Sprintf(`dns: {monitor: false, nameserver: {upstreams: [%s]}}
connectivity: {probes: [%s], domains: [open.test, login.test]}
default: {out: block}
`, sharedV4, probes)})
		r.listens(t, true)
	}
	start(fmt.Sprintf("'http://%s:%d/'", testnet.ServerV4, portalPort))
	r.eventually(t, startLimit, "the portal is told of", func() bool {
		out, _ := r.client.Try(r.binary, "--config", r.configPath(), "status") // its exit status tells of the state
		return strings.Contains(out, login)
	})
	if got := r.fetch("curl", "open.test", "-4"); got != answered {
		t.Errorf("got %s; want it to pass\n%s", got, r.cli(t, "conns"))
	}
	if c := r.newest(t, testnet.ServerV4, webPort, "--app", "curl"); c.Domain != "open.test" {
		t.Errorf("got %+v; want the address that the network's nameserver has", c)
	}
	if got := r.fetch("curl", "fine.test", "-4"); got != refused {
		t.Errorf("got %s; want the rule to hold", got)
	}
	r.stop(t)
	start("")
	if got := r.fetch("curl", "open.test", "-4"); got != refused {
		t.Errorf("online: got %s; want the rule to hold\n%s", got, r.cli(t, "conns"))
	}
}
