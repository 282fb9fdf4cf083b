package e2e_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// foreign are the others' rules of both families.
func (r *rig) foreign(t *testing.T) (rules [2]string) {
	t.Helper()
	for i, a := range both() {
		rules[i] = r.rules(t, a).foreign()
	}
	return rules
}

func (r *rig) wantForeign(t *testing.T, when string, want [2]string) {
	t.Helper()
	for i, got := range r.foreign(t) {
		if got != want[i] {
			t.Errorf("foreign rules %s: got\n%s\nwant\n%s", when, got, want[i])
		}
	}
}

// vpnChains are those of a VPN with a strict kill switch: only what goes by its interface or to its endpoint passes.
const vpnChains = `
for t in "$1" "$2"; do
	for c in OUT IN FWD; do $t -w -N VPN-$c; done
	$t -w -A VPN-OUT -o tun9 -j ACCEPT
	$t -w -A VPN-OUT -p udp --dport 2049 -j ACCEPT
	$t -w -A VPN-IN -i tun9 -j ACCEPT
	$t -w -A VPN-IN -p udp --sport 2049 -j ACCEPT
	$t -w -A VPN-FWD -o tun9 -j ACCEPT
	for c in OUT IN FWD; do $t -w -A VPN-$c -j DROP; done
	$t -w "$3" OUTPUT -j VPN-OUT
	$t -w "$3" INPUT -j VPN-IN
	$t -w "$3" FORWARD -j VPN-FWD
done`

// vpnChainsAgain is what such a VPN does when it finds that others have put rules above its own.
const vpnChainsAgain = `
for t in "$1" "$2"; do
	$t -w -D OUTPUT -j VPN-OUT; $t -w -I OUTPUT -j VPN-OUT
	$t -w -D INPUT -j VPN-IN; $t -w -I INPUT -j VPN-IN
	$t -w -D FORWARD -j VPN-FWD; $t -w -I FORWARD -j VPN-FWD
done`

const noVPNChains = `
for t in "$1" "$2"; do
	$t -w -D OUTPUT -j VPN-OUT; $t -w -D INPUT -j VPN-IN; $t -w -D FORWARD -j VPN-FWD
	for c in OUT IN FWD; do $t -w -F VPN-$c; $t -w -X VPN-$c; done
done`

// script runs a shell script with the iptables programs of both families, and what else it wants.
func (r *rig) script(t *testing.T, script string, args ...string) {
	t.Helper()
	tools := []string{"-ec", script, "sh", r.tool(both()[0], ""), r.tool(both()[1], "")}
	r.client.Run(t, "sh", append(tools, args...)...)
}

// A VPN's kill switch, wherever it stands and however often it comes back to the top, does not stop the firewall's own
// connections; other programs are judged by both; and the VPN's rules stay as they are.
func TestIntegrationStrictKillSwitch(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		for _, when := range []string{"before", "after, on top", "after, at the end"} {
			t.Run(when, func(t *testing.T) {
				if when == "before" {
					r.script(t, vpnChains, "-I")
					defer r.script(t, noVPNChains)
				}
				e := r.embed(t)
				want := r.ours(t)
				switch when {
				case "after, on top":
					r.script(t, vpnChains, "-I")
					defer r.script(t, noVPNChains)
				case "after, at the end":
					r.script(t, vpnChains, "-A")
					defer r.script(t, noVPNChains)
				}
				r.waitRepaired(t, when, want)
				foreign := r.foreign(t)
				if when == "after, on top" {
					for range 5 {
						r.script(t, vpnChainsAgain)
						r.waitRepaired(t, "the VPN's rules came back to the top", want)
					}
				}
				for _, a := range both() {
					r.forgetNeighbours(t)
					e.wantFetch(t, a)
				}
				r.othersSilent(t)
				r.wantForeign(t, "with the firewall", foreign)
				r.bothJudge(t, e)
			})
		}
	})
}

// bothJudge makes the kill switch let the web through, so that the firewall's opinion counts.
func (r *rig) bothJudge(t *testing.T, e *embedded) {
	t.Helper()
	port := fmt.Sprint(webPort)
	r.script(t, `for t in "$1" "$2"; do
		$t -w -I VPN-OUT -p tcp --dport "$3" -j ACCEPT; $t -w -I VPN-IN -p tcp --sport "$3" -j ACCEPT
		case $t in ip6*) $t -w -I VPN-OUT -p icmpv6 -j ACCEPT; $t -w -I VPN-IN -p icmpv6 -j ACCEPT;; esac
	done`, port)
	for _, a := range both() {
		r.wantCurl(t, "curl", a, answered)
	}
	e.ask(t, "/handler")
	e.ask(t, "/port/"+port)
	for _, a := range both() {
		r.wantCurl(t, "curl", a, refused)
	}
}

// ufw runs commands of ufw with settings of their own: none of the machine's is touched. Debian's ufw calls iptables by its
// path, which is the variant of the machine's choice.
func (r *rig) ufw(t *testing.T, commands ...string) string {
	t.Helper()
	var script strings.Builder
	script.WriteString(`set -e
		if ! test -d "$1"; then mkdir "$1"; cp -a /etc/ufw "$1/ufw"; cp -a /etc/default/ufw "$1/default"; fi
		mount --bind "$1/ufw" /etc/ufw
		mount --bind "$1/default" /etc/default/ufw
	`)
	for _, c := range commands {
		script.WriteString("ufw " + c + "\n")
	}
	return r.client.Run(t, "unshare", "-m", "sh", "-c", script.String(), "sh", filepath.Join(r.dir, "ufw"))
}

// Debian's ufw and refd both judge, ufw's rules stay as they are, and its reloading them lets nothing through that refd forbids.
func TestIntegrationUFW(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.RequireTool(t, "ufw")
	r := newRig(t, testutil.VariantNFT)
	if out := r.client.Run(t, "sh", "-c", "iptables --version"); !strings.Contains(out, "nf_tables") {
		t.Skipf("ufw uses %s; this test is about the other variant", strings.TrimSpace(out))
	}
	addVerdictAddresses(t, r)
	serveBoth(t, r)
	r.ufw(t, "--force reset", "default deny outgoing", "default deny incoming", fmt.Sprintf("allow out %d/tcp", webPort),
		fmt.Sprintf("allow in %d/tcp", webPort), "allow out 10000:10999/udp", "--force enable")
	t.Cleanup(func() { r.ufw(t, "disable") })
	foreign := r.foreign(t)
	if !strings.Contains(foreign[0], "ufw-user-output") || !strings.Contains(foreign[1], "ufw6-user-output") {
		t.Fatalf("ufw made no rules:\n%s", foreign)
	}
	r.start(t, settings{rules: forbidFourth})
	want := r.ours(t)
	r.judgedWithUFW(t)
	r.wantForeign(t, "beside ufw", foreign)
	flood := floodForbidden(t, r)
	var took []time.Duration
	for range 3 {
		r.ufw(t, "reload")
		took = append(took, r.waitRepaired(t, "ufw reload", want))
	}
	r.wantInTime(t, took)
	flood.none(t)
	r.wantForeign(t, "after ufw reload", foreign)
	r.judgedWithUFW(t)
	r.stop(t)
	r.wantForeign(t, "after refd's end", foreign)
}

// judgedWithUFW wants what both allow to pass, and what one of them refuses not to.
func (r *rig) judgedWithUFW(t *testing.T) {
	t.Helper()
	var refusedByUFW, refusedByUs []verdictCase
	for i, a := range both() {
		r.wantCurl(t, "curl", a, answered)
		refusedByUFW = append(refusedByUFW, verdictCase{name: "udp", probe: probe{host: r.client, protocol: "udp", from: clientOf(a), to: a}})
		forbidden := netip.MustParseAddr([]string{"10.77.0.4", "fd77::4"}[i])
		refusedByUs = append(refusedByUs, verdictCase{name: "forbidden", probe: probe{host: r.client, protocol: "tcp", from: clientOf(a), to: forbidden}})
	}
	wantAll(t, refusedByUFW, silent)
	wantAll(t, refusedByUs, silent)
}

// dockerChains are those of Docker for one container whose port 8080 is published as 18080.
const dockerChains = `
t=$1
$t -w -t nat -N DOCKER
$t -w -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
$t -w -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
$t -w -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
$t -w -t nat -A DOCKER -i docker0 -j RETURN
$t -w -t nat -A DOCKER ! -i docker0 -p tcp --dport 18080 -j DNAT --to-destination 172.17.0.2:8080
for c in DOCKER DOCKER-USER; do $t -w -N $c; done
$t -w -P FORWARD DROP
$t -w -A FORWARD -j DOCKER-USER
$t -w -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
$t -w -A FORWARD -o docker0 -j DOCKER
$t -w -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
$t -w -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp --dport 8080 -j ACCEPT
$t -w -A DOCKER-USER -j RETURN
nft add table inet other
nft add chain inet other input '{ type filter hook input priority 10; policy accept; }'
nft add rule inet other input tcp dport 9 drop comment '"not ours"'`

// A container behind the client's address translation is reached, and reaches others, as without refd, whose rules come back
// after a flush while everybody else's stay as they are.
func TestIntegrationDocker(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		addVerdictAddresses(t, r)
		serveBoth(t, r)
		container := r.lab.Host("container")
		r.lab.Link(r.client, "docker0", testnet.Prefixes("172.17.0.1/16"), container, "eth0", testnet.Prefixes("172.17.0.2/16"))
		container.Run(t, "ip", "route", "add", "default", "via", "172.17.0.1")
		r.client.Forward(t)
		container.HTTP(t, "172.17.0.2:8080", http.HandlerFunc(page))
		r.script(t, dockerChains)
		check := func(when string) {
			t.Helper()
			for name, c := range map[string]struct {
				from *testnet.Host
				to   string
			}{
				"published port":           {r.server, testnet.ClientV4 + ":18080"},
				"container from this host": {r.client, "172.17.0.2:8080"},
				"out of the container":     {container, fmt.Sprintf("%s:%d", testnet.ServerV4, webPort)},
			} {
				if out, err := c.from.Try("curl", "-sS", "-m", "20", "http://"+c.to+"/"); err != nil {
					t.Errorf("%s: %s: %v\n%s", when, name, err, out)
				}
			}
		}
		check("without refd")
		foreign, other := r.foreign(t), r.client.Run(t, "nft", "list", "table", "inet", "other")
		r.start(t, settings{rules: forbidFourth})
		want := r.ours(t)
		check("with refd")
		flood := floodForbidden(t, r)
		for range 3 {
			r.script(t, `for t in "$1" "$2"; do $t -w -t mangle -F; $t -w -F OUTPUT; $t -w -F INPUT; done`)
			r.waitRepaired(t, "a flush", want)
		}
		flood.none(t)
		check("after flushes")
		r.wantForeign(t, "after flushes", foreign)
		if got := r.client.Run(t, "nft", "list", "table", "inet", "other"); got != other {
			t.Errorf("foreign table: got\n%s\nwant\n%s", got, other)
		}
		r.stop(t)
		r.wantForeign(t, "after refd's end", foreign)
		check("after refd's end")
	})
}
