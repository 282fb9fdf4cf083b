package e2e_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/firewall/dnsguard"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Where no nameserver is: only a redirected query is answered.
const nobodyV4, nobodyV6 = "10.77.0.99", "fd77::99"

// unresolved is what a program sees of a name that does not exist.
const unresolved outcome = "unresolved"

// ownNameserver are the settings of a refd whose nameserver asks the server of the rig, and that hears of names in no other way.
func ownNameserver(more string) string {
	return fmt.Sprintf("dns: {monitor: false, packets: false, nameserver: {upstreams: [%s]%s}}\n", testnet.ServerV4, more)
}

// appRules are against a name for one program.
const appRules = `apps:
  - {id: dig, match: [{path: /usr/bin/dig}], rules: [{id: no-dig, action: block, remote: [fine.test], comment: not for dig}]}
`

// lookUp is fetch of a name that may not exist.
func (r *rig) lookUp(name, family string) outcome {
	got := r.fetch("curl", name, family)
	if strings.HasPrefix(string(got), "exit status 6:") {
		return unresolved
	}
	return got
}

// wantLookups wants programs to reach names, or not even their addresses, over both families.
func (r *rig) wantLookups(t *testing.T, want map[string]outcome) {
	t.Helper()
	for name, outcome := range want {
		for _, family := range []string{"-4", "-6"} {
			got := r.lookUp(name, family)
			if got != outcome {
				t.Errorf("curl %s %s: got %s; want %s\n%s\n%s", family, name, got, outcome, r.cli(t, "conns"), r.refd.Output())
			}
			list := r.conns(t, "--domain", name, "--port", fmt.Sprint(webPort))
			if outcome == answered && (len(list) == 0 || list[0].Domain != name || list[0].Verdict() != verdict.Accept) {
				t.Errorf("curl %s %s: got %+v; want a connection that shows the domain", family, name, list)
			}
		}
	}
}

// listens waits until refd's nameserver does, or no longer does.
func (r *rig) listens(t *testing.T, want bool) {
	t.Helper()
	r.eventually(t, startLimit, fmt.Sprintf("the nameserver listens: %v", want), func() bool {
		s, ok := r.tryStatus()
		return ok && s.Nameserver != nil && len(s.Nameserver.Addresses) > 0 == want
	})
}

// wantNoLoop wants refd to have asked others, by itself, and never itself.
func (r *rig) wantNoLoop(t *testing.T) {
	t.Helper()
	s, _ := r.tryStatus()
	if s.Nameserver == nil || s.Nameserver.Stats.Queries == 0 || s.Nameserver.Stats.Loops != 0 || s.Nameserver.Stats.Failed != 0 {
		t.Errorf("got %+v; want queries, and no loop", s.Nameserver)
	}
	upstream := r.conns(t, "--remote", testnet.ServerV4, "--port", "53")
	for _, c := range upstream {
		if c.Verdict() != verdict.Accept || !c.Internal {
			t.Errorf("got %+v; want refd's own queries only", c)
		}
	}
	if len(upstream) == 0 {
		t.Error("refd asked nobody")
	}
}

// wantQueries wants the queries of dig to be records of their own kind, and what `refd dns query` says to be what it was told.
func (r *rig) wantQueries(t *testing.T) {
	t.Helper()
	for name, want := range map[string]verdict.Verdict{"fine.test": verdict.Block, "open.test": verdict.Accept} {
		list := r.conns(t, "--queries", "--app", "/usr/bin/dig", "--domain", name)
		if len(list) == 0 {
			t.Errorf("%s: dig's query is not stored", name)
			continue
		}
		q := list[0]
		if q.Verdict() != want || q.Query == nil || q.Query.Type != "A" || q.Query.Answered.IsZero() || q.Ended.IsZero() || !q.Tuple.Remote.Addr().IsValid() {
			t.Errorf("%s: got %+v, %+v; want a query with verdict %v", name, q, q.Query, want)
		}
	}
	if out := r.cli(t, "conns", "--queries", "--domain", "open.test"); !strings.Contains(out, "open.test A") {
		t.Errorf("got %s; want name and type", out)
	}
	if out := r.cli(t, "dns", "query", "fine.test", "--app", "/usr/bin/dig"); !strings.Contains(out, sharedV4) || !strings.Contains(out, "would be blocked: rule no-dig") {
		t.Errorf("got %s; want the answer, and dig's rule", out)
	}
	if out := r.cli(t, "dns", "query", "alias.test", "AAAA"); !strings.Contains(out, "node.example.test "+blockedV6) || !strings.Contains(out, "no-example") {
		t.Errorf("got %s; want the alias, its address and the rule", out)
	}
}

// wantCache wants the cache to list what was asked, and to forget what it is told to.
func (r *rig) wantCache(t *testing.T) {
	t.Helper()
	if out := r.cli(t, "dns", "cache"); !strings.Contains(out, "open.test") || !strings.Contains(out, testnet.ServerV6) || !strings.Contains(out, "fine.test") {
		t.Errorf("dns cache: got %s; want what was asked", out)
	}
	if out := r.cli(t, "dns", "cache", "open.test"); !strings.Contains(out, testnet.ServerV4) || strings.Contains(out, "fine.test") {
		t.Errorf("dns cache open.test: got %s; want nothing else", out)
	}
	if out := r.cli(t, "dns", "flush", "open.test"); !strings.Contains(out, "forgot 2 answers") {
		t.Errorf("dns flush open.test: got %s; want both answers forgotten", out)
	}
	if out := r.cli(t, "dns", "cache"); strings.Contains(out, "open.test") || !strings.Contains(out, "fine.test") {
		t.Errorf("dns cache: got %s; want the rest", out)
	}
	if out := r.cli(t, "dns", "flush"); !strings.Contains(out, "forgot ") || strings.Contains(out, "forgot 0") {
		t.Errorf("dns flush: got %s; want the rest forgotten", out)
	}
	if out := r.cli(t, "dns", "cache"); strings.Contains(out, ".test") {
		t.Errorf("dns cache: got %s; want nothing", out)
	}
}

// wantStub wants what systemd-resolved asks to be known as its own, not as that of the program which asked it: rules of dig neither
// refuse what others may have asked for, nor let pass what dig means to connect to.
func (r *rig) wantStub(t *testing.T) {
	t.Helper()
	for _, how := range []string{"+notcp", "+tcp"} {
		if out := r.client.Run(t, "dig", "@"+testnet.ResolvedStub, how, "fine.test"); !strings.Contains(out, sharedV4) {
			t.Errorf("dig %s: got %s; want the stub's answer", how, out)
		}
	}
	if list := r.conns(t, "--queries", "--app", "/usr/bin/dig"); len(list) > 0 {
		t.Errorf("got %+v; want no query taken for dig's", list[0])
	}
	if list := r.conns(t, "--queries", "--app", "systemd-resolved", "--domain", "fine.test"); len(list) == 0 || list[0].Verdict() != verdict.Accept {
		t.Errorf("got %+v; want resolved's query", list)
	}
	list := r.conns(t, "--remote", nobodyV4, "--port", "53")
	if len(list) == 0 {
		t.Error("resolved asked nobody")
	}
	for _, c := range list {
		if c.Process == nil || filepath.Base(c.Process.Path) != "systemd-resolved" || c.Verdict() != verdict.RerouteToNameserver {
			t.Errorf("got %+v of %+v; want resolved's queries redirected", c, c.Process)
		}
	}
}

// Programs that ask any nameserver are answered by refd's, after their rules were looked at.
func TestIntegrationNameserver(t *testing.T) {
	testutil.NoLeaks(t)
	r := newNamesRig(t)
	r.primeTables(t)
	before := r.client.Snapshot(t)
	all := map[string]outcome{
		"open.test": answered, "fine.test": answered, "example.test": unresolved, "www.example.test": unresolved, "alias.test": unresolved,
		"shared.example.test": unresolved, // at the address of fine.test
	}
	for _, server := range []string{nobodyV4, nobodyV6} {
		t.Run("redirected from "+server, func(t *testing.T) {
			r.client.Etc(t, "resolv.conf", "nameserver "+server+"\n")
			r.start(t, settings{rules: ownNameserver("") + appRules + namesRules + r.ownHistory()})
			defer r.stop(t)
			r.listens(t, true)
			r.wantLookups(t, all)
			for _, how := range []string{"+notcp", "+tcp"} {
				if out := r.client.Run(t, "dig", "@"+server, how, "example.test"); !strings.Contains(out, "NXDOMAIN") || !strings.Contains(out, "not this site") {
					t.Errorf("dig %s: got %s; want a refusal with its reason", how, out)
				}
				if out := r.client.Run(t, "dig", "@"+server, how, "open.test"); !strings.Contains(out, testnet.ServerV4) {
					t.Errorf("dig %s: got %s; want an answer", how, out)
				}
				if out := r.client.Run(t, "dig", "@"+server, how, "fine.test"); !strings.Contains(out, "not for dig") {
					t.Errorf("dig %s: got %s; want the refusal of its own rule", how, out)
				}
			}
			for _, app := range []string{"/usr/bin/curl", "/usr/bin/dig"} {
				list := r.conns(t, "--remote", server, "--port", "53", "--app", app)
				if len(list) == 0 || list[0].Verdict() != verdict.RerouteToNameserver {
					t.Errorf("%s: got %+v; want a redirected query", app, list)
				}
			}
			if list := r.conns(t, "--remote", server, "--port", "53", "--app", "/usr/bin/dig"); len(list) > 0 && list[0].Tuple.Protocol != packet.TCP {
				t.Errorf("got %+v; want the last one over TCP", list[0])
			}
			r.wantNoLoop(t)
			r.wantQueries(t)
			r.wantRemembered(t)
		})
	}
	r.wantAsBefore(t, before)
	t.Run("asked itself", func(t *testing.T) {
		r.client.Etc(t, "resolv.conf", "nameserver 127.0.0.17\nnameserver ::1\n")
		r.start(t, settings{rules: ownNameserver(", seamless: false, blocked: sinkhole") + appRules + namesRules})
		defer r.stop(t)
		r.listens(t, true)
		r.wantLookups(t, map[string]outcome{
			"open.test": answered, "example.test": refused, "www.example.test": refused, "alias.test": refused,
			"shared.example.test": refused, // at the sinkhole
		})
		other := r.copyOfCurl(t)
		held := r.client.Start(t, other, "-4", "-sS", "-N", fmt.Sprintf("http://fine.test:%d/stream", webPort), "-o", filepath.Join(r.dir, "held"))
		r.eventually(t, startLimit, "another program is connected to the shared address", func() bool {
			return len(r.conns(t, "--domain", "fine.test", "--app", other, "--live", "--port", fmt.Sprint(webPort))) > 0
		})
		r.wantLookups(t, map[string]outcome{"shared.example.test": refused, "fine.test": answered})
		held.Kill()
		r.wantCache(t)
		if out := r.client.Run(t, "dig", "@::1", "example.test"); !strings.Contains(out, "0.0.0.17") || !strings.Contains(out, "not this site") {
			t.Errorf("got %s; want the sinkhole with the reason", out)
		}
		for _, server := range []string{"127.0.0.17", "::1"} {
			for _, how := range []string{"+notcp", "+tcp"} {
				if out := r.client.Run(t, "dig", "@"+server, how, "fine.test"); !strings.Contains(out, "not for dig") {
					t.Errorf("dig @%s %s: got %s; want the refusal of its own rule", server, how, out)
				}
			}
		}
		r.wantNoLoop(t)
	})
	t.Run("through the stub resolver", func(t *testing.T) {
		resolved := r.client.Resolved(t, netip.AddrPortFrom(netip.MustParseAddr(nobodyV4), 53))
		defer resolved.Kill(t)
		r.client.Etc(t, "resolv.conf", "nameserver "+testnet.ResolvedStub+"\n")
		r.start(t, settings{rules: ownNameserver("") + appRules + namesRules})
		defer r.stop(t)
		r.listens(t, true)
		r.wantLookups(t, all)
		r.wantNoLoop(t)
		r.wantStub(t)
	})
	t.Run("bypass prevention", func(t *testing.T) {
		r.client.Etc(t, "resolv.conf", "nameserver "+nobodyV4+"\n")
		r.server.TCPEcho(t, "[::]:853")
		endpoints := filepath.Join(r.dir, "doh")
		if err := os.WriteFile(endpoints, []byte("fine.test\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.start(t, settings{rules: fmt.Sprintf(`dns: {monitor: false, packets: false, prevent_bypass: true, endpoints: [%s], nameserver: {upstreams: [%s]}}
apps:
  - {id: curl, match: [{path: /usr/bin/curl}], prevent_dns_bypass: false}
`, endpoints, testnet.ServerV4)})
		defer r.stop(t)
		r.listens(t, true)
		for name, want := range map[string]string{"fine.test": "DNS over HTTPS", nameserver.Canary: "NXDOMAIN", "open.test": testnet.ServerV4} {
			out := r.client.Run(t, "dig", "@"+nobodyV4, name)
			if !strings.Contains(out, want) || (want != testnet.ServerV4) != strings.Contains(out, "NXDOMAIN") {
				t.Errorf("dig %s: got %s; want %s", name, out, want)
			}
		}
		r.wantLookups(t, map[string]outcome{"fine.test": answered}) // the app that may
		for _, to := range []string{"TCP:" + testnet.ServerV4, "UDP:" + testnet.ServerV4, "TCP:[" + testnet.ServerV6 + "]"} {
			if out, _ := r.client.Try("sh", "-c", "echo hello | socat -t1 - "+to+":853"); strings.Contains(out, "hello") {
				t.Errorf("%s, port 853: got %q; want nothing", to, out)
			}
		}
		for _, server := range []string{testnet.ServerV4, testnet.ServerV6} {
			for _, c := range r.conns(t, "--remote", server, "--port", "853") {
				if c.Verdict() != verdict.Block || c.Decision.Reason.Code != dnsguard.CodeBypass {
					t.Errorf("got %+v; want it blocked", c)
				}
			}
			r.newest(t, server, 853)
		}
	})
	t.Run("a server of this host whose queries are redirected", func(t *testing.T) {
		r.dnsmasq(t, 53, nobodyV4)
		r.start(t, settings{rules: "dns: {monitor: false, packets: false, nameserver: {upstreams: [127.0.0.1]}}\n"})
		defer r.stop(t)
		r.listens(t, true)
		if out := r.client.Run(t, "dig", "@127.0.0.17", "open.test"); !strings.Contains(out, "SERVFAIL") {
			t.Errorf("got %s; want no answer", out)
		}
		s, _ := r.tryStatus()
		out, _ := r.client.Try(r.binary, "--config", r.configPath(), "status") // its exit status tells of the state
		if s.Nameserver.Stats.Loops == 0 || !strings.Contains(out, "127.0.0.1") || !strings.Contains(out, "seamless") {
			t.Errorf("got %+v; want the loop noticed, with a remedy\n%s", s.Nameserver.Stats, out)
		}
	})
	t.Run("lists", func(t *testing.T) {
		list := filepath.Join(r.dir, "list")
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(".example.test\n")
		r.client.Etc(t, "resolv.conf", "nameserver "+nobodyV4+"\n")
		r.start(t, settings{rules: ownNameserver("") + fmt.Sprintf(`lists: {bad: [%s]}
global:
  - {id: listed, action: block, remote: ["list:bad"]}
`, list)})
		defer r.stop(t)
		r.listens(t, true)
		r.wantLookups(t, map[string]outcome{"open.test": answered, "example.test": unresolved, "alias.test": unresolved})
		write("0.0.0.0 open.test # as in a hosts file\n" + sharedV4 + "\n")
		r.eventually(t, startLimit, "the list is read again", func() bool { return r.lookUp("open.test", "-4") == unresolved })
		r.wantLookups(t, map[string]outcome{"open.test": unresolved, "example.test": answered})
		if got := r.fetch("curl", "fine.test", "-4"); got != refused {
			t.Errorf("got %s; want the address refused", got)
		}
		if got := r.fetch("curl", "fine.test", "-6"); got != answered {
			t.Errorf("got %s; want the other address answered", got)
		}
	})
	t.Run("given, taken away and given back", func(t *testing.T) {
		r.client.Etc(t, "resolv.conf", "nameserver "+testnet.ServerV4+"\n")
		r.start(t, settings{rules: "dns: {monitor: false, packets: false}\n" + namesRules})
		defer r.stop(t)
		r.listens(t, false)
		r.configure(t, settings{rules: ownNameserver("") + namesRules})
		if out := r.cli(t, "reload"); strings.Contains(out, "nameserver") {
			t.Errorf("got %s; want no restart to be needed", out)
		}
		r.listens(t, true)
		r.wantLookups(t, map[string]outcome{"open.test": answered})
		r.configure(t, settings{rules: "dns: {monitor: false, packets: false}\n" + namesRules})
		r.cli(t, "reload")
		r.listens(t, false)
		if out := r.client.Run(t, "dig", "@"+testnet.ServerV4, "example.test"); !strings.Contains(out, blockedV4) {
			t.Errorf("got %s; want the server's own answer", out)
		}
		r.configure(t, settings{rules: ownNameserver("") + namesRules})
		r.cli(t, "reload")
		r.listens(t, true)
		if out := r.client.Run(t, "dig", "@"+testnet.ServerV4, "example.test"); !strings.Contains(out, "not this site") {
			t.Errorf("got %s; want a refusal", out)
		}
	})
}
