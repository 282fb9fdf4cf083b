package e2e_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/packet"
)

// Further addresses of the server, which only some names lead to.
const (
	blockedV4, blockedV6 = "10.77.0.20", "fd77::20"
	sharedV4, sharedV6   = "10.77.0.21", "fd77::21"
)

var namesZone = []string{
	"open.test. 60 IN A " + testnet.ServerV4, "open.test. 60 IN AAAA " + testnet.ServerV6,
	"example.test. 60 IN A " + blockedV4, "example.test. 60 IN AAAA " + blockedV6,
	"www.example.test. 60 IN A " + blockedV4, "www.example.test. 60 IN AAAA " + blockedV6,
	"alias.test. 60 IN CNAME node.example.test.",
	"node.example.test. 60 IN A " + blockedV4, "node.example.test. 60 IN AAAA " + blockedV6,
	"shared.example.test. 60 IN A " + sharedV4, "shared.example.test. 60 IN AAAA " + sharedV6,
	"fine.test. 60 IN A " + sharedV4, "fine.test. 60 IN AAAA " + sharedV6,
}

// namesRules block a domain; what the test itself needs stays open.
const namesRules = `global:
  - {id: no-example, action: block, remote: [.example.test], comment: not this site}
`

// newNamesRig is a rig with systemd-resolved on the client, whose programs use its stub.
func newNamesRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, testutil.VariantNFT)
	testutil.RequireTool(t, "dig")
	for _, a := range []string{blockedV4 + "/24", sharedV4 + "/24"} {
		r.server.Run(t, "ip", "address", "add", a, "dev", "eth0")
	}
	for _, a := range []string{blockedV6 + "/64", sharedV6 + "/64"} {
		r.server.Run(t, "ip", "address", "add", a, "dev", "eth0", "nodad")
	}
	serve(t, r.server)
	upstream := netip.AddrPortFrom(netip.MustParseAddr(testnet.ServerV4), 53)
	r.server.DNS(t, upstream.String(), namesZone...)
	return r
}

// names are the settings under dns.
func (r *rig) names(resolved *testnet.Resolved, more string) string {
	return fmt.Sprintf("dns: {resolved_socket: %s%s}\n", resolved.Monitor(), more)
}

// fetch has the client's curl, or a copy of it, ask for a name over one family.
func (r *rig) fetch(curl, name, family string) outcome {
	const couldNotConnect, timedOut = 7, 28
	p := probe{host: r.client, patience: answered.patience()}
	out, exit := p.try(curl, family, "-sS", "--noproxy", "*", "-m", seconds(p.patience), fmt.Sprintf("http://%s:%d/", name, webPort))
	switch {
	case exit == 0 && out == "hello":
		return answered
	case exit == couldNotConnect:
		return refused
	case exit == timedOut:
		return silent
	}
	return outcome(fmt.Sprintf("exit status %d: %s", exit, out))
}

// wantFetches wants names to be answered or refused, over both families, and the connections to show the name.
func (r *rig) wantFetches(t *testing.T, curl string, want map[string]outcome) {
	t.Helper()
	for name, outcome := range want {
		for _, family := range []string{"-4", "-6"} {
			if got := r.fetch(curl, name, family); got != outcome {
				t.Errorf("%s %s %s: got %s; want %s\n%s", filepath.Base(curl), family, name, got, outcome, r.cli(t, "conns"))
			}
			verdict := "Accept"
			if outcome == refused {
				verdict = "Block"
			}
			// what the resolver tells may come a moment after the first packet
			r.eventually(t, startLimit, fmt.Sprintf("a connection shows %s, %s", verdict, name), func() bool {
				list := r.conns(t, "--domain", name, "--port", fmt.Sprint(webPort), "--verdict", verdict)
				return len(list) > 0 && list[0].Domain == name
			})
		}
	}
}

// Programs that use the stub of systemd-resolved: connections show the domain, and a rule stops it, also through an alias, and also
// where another process uses the same address for a name that is allowed.
func TestIntegrationNames(t *testing.T) {
	testutil.NoLeaks(t)
	r := newNamesRig(t)
	resolved := r.client.Resolved(t, netip.AddrPortFrom(netip.MustParseAddr(testnet.ServerV4), 53))
	r.client.Etc(t, "resolv.conf", "nameserver "+testnet.ResolvedStub+"\n")
	other := r.copyOfCurl(t)
	all := map[string]outcome{
		"open.test": answered, "example.test": refused, "www.example.test": refused, "alias.test": refused,
	}
	// one address, two names: of which one a program means, only packets tell for certain
	shared := map[string]outcome{"fine.test": answered, "shared.example.test": refused}
	for name, more := range map[string]string{"both sources": "", "resolver only": ", packets: false", "packets only": ", monitor: false"} {
		t.Run(name, func(t *testing.T) {
			r.start(t, settings{rules: r.names(resolved, more) + namesRules})
			defer r.stop(t)
			r.wantFetches(t, "curl", all)
			if more != ", packets: false" {
				r.wantFetches(t, "curl", shared)
				// who asks for what is known, whatever the other has asked since
				held := r.client.Start(t, other, "-4", "-sS", "-N", fmt.Sprintf("http://fine.test:%d/stream", webPort), "-o", filepath.Join(r.dir, "held"))
				r.eventually(t, startLimit, "the other program is connected", func() bool {
					return len(r.conns(t, "--domain", "fine.test", "--app", other, "--live", "--port", fmt.Sprint(webPort))) > 0
				})
				r.wantFetches(t, "curl", map[string]outcome{"shared.example.test": refused})
				r.wantFetches(t, other, map[string]outcome{"fine.test": answered})
				held.Kill()
			}
		})
	}
	t.Run("another nameserver, over TCP", func(t *testing.T) {
		r.client.Etc(t, "resolv.conf", "nameserver "+testnet.ServerV4+"\noptions use-vc\n")
		defer r.client.Etc(t, "resolv.conf", "nameserver "+testnet.ResolvedStub+"\n")
		r.start(t, settings{rules: r.names(resolved, ", monitor: false") + namesRules})
		defer r.stop(t)
		r.wantFetches(t, "curl", all)
		r.wantFetches(t, "curl", shared)
		if list := r.conns(t, "--port", "53", "--remote", testnet.ServerV4); len(list) == 0 || list[0].Tuple.Protocol != packet.TCP {
			t.Errorf("got %v; want queries over TCP", list)
		}
	})
	t.Run("explain", func(t *testing.T) {
		r.start(t, settings{rules: r.names(resolved, "") + namesRules})
		defer r.stop(t)
		r.wantFetches(t, "curl", map[string]outcome{"www.example.test": refused})
		out := r.cli(t, "explain", "/usr/bin/curl", fmt.Sprintf("www.example.test:%d", webPort))
		if !strings.Contains(out, "would be blocked\nbecause  rule no-example: not this site") || !strings.Contains(out, "www.example.test at "+blockedV4) {
			t.Errorf("explain:\n%s", out)
		}
		r.wantFetches(t, "curl", map[string]outcome{"alias.test": refused})
		if out := r.cli(t, "explain", "/usr/bin/curl", "alias.test"); !strings.Contains(out, "rule no-example") || !strings.Contains(out, "alias.test at ") {
			t.Errorf("explain an alias:\n%s", out)
		}
		if out := r.cli(t, "status"); !strings.Contains(out, "systemd-resolved tells") {
			t.Errorf("status:\n%s", out)
		}
	})
	whole := t
	t.Run("the resolver is gone, and comes back", func(t *testing.T) {
		r.start(t, settings{rules: r.names(resolved, "") + namesRules})
		defer r.stop(t)
		says := func(text string) bool {
			out, _ := r.client.Try(r.binary, "--config", r.configPath(), "status") // its exit status tells of the state, too
			return strings.Contains(out, text)
		}
		const heard, missed = "systemd-resolved tells", "resolver: systemd-resolved 252 or newer does not run"
		r.eventually(t, startLimit, "the resolver is heard", func() bool { return says(heard) })
		resolved.Kill(t)
		r.eventually(t, startLimit, "the resolver is missed", func() bool { return says(missed) && !says(heard) })
		resolved.Start(whole) // it outlives this part
		r.eventually(t, startLimit, "the resolver is heard again", func() bool { return says(heard) && !says(missed) })
		r.wantFetches(t, "curl", map[string]outcome{"www.example.test": refused})
	})
	t.Run("aliases do not count", func(t *testing.T) {
		r.start(t, settings{rules: r.names(resolved, ", cnames: false") + namesRules})
		defer r.stop(t)
		r.wantFetches(t, "curl", map[string]outcome{"alias.test": answered, "example.test": refused})
	})
}
