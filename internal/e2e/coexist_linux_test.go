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

// vpnChains are those of a VPN with a strict kill switch: only what goes by its interface or to its endpoint passes, not even what stays
// on this host. HOW says where the jumps go: -I is in front of everything, -A behind.
const vpnChains = `*filter
:VPN-OUT - [0:0]
:VPN-IN - [0:0]
:VPN-FWD - [0:0]
-A VPN-OUT -o tun9 -j ACCEPT
-A VPN-OUT -p udp --dport 2049 -j ACCEPT
-A VPN-OUT -j DROP
-A VPN-IN -i tun9 -j ACCEPT
-A VPN-IN -p udp --sport 2049 -j ACCEPT
-A VPN-IN -j DROP
-A VPN-FWD -o tun9 -j ACCEPT
-A VPN-FWD -j DROP
HOW OUTPUT -j VPN-OUT
HOW INPUT -j VPN-IN
HOW FORWARD -j VPN-FWD
COMMIT
`

// vpnChainsAgain is what such a VPN does when it finds that others have put rules above its own.
const vpnChainsAgain = `*filter
-D OUTPUT -j VPN-OUT
-D INPUT -j VPN-IN
-D FORWARD -j VPN-FWD
-I OUTPUT -j VPN-OUT
-I INPUT -j VPN-IN
-I FORWARD -j VPN-FWD
COMMIT
`

const noVPNChains = `*filter
-D OUTPUT -j VPN-OUT
-D INPUT -j VPN-IN
-D FORWARD -j VPN-FWD
-F VPN-OUT
-F VPN-IN
-F VPN-FWD
-X VPN-OUT
-X VPN-IN
-X VPN-FWD
COMMIT
`

// restore loads rules of both families in one step each, beside those that are there.
func (r *rig) restore(t *testing.T, rules string) {
	t.Helper()
	for _, a := range both() {
		r.client.Run(t, "sh", "-c", `printf %s "$1" | `+r.tool(a, "-restore")+" -w -n", "sh", rules)
	}
}

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
		for _, c := range []struct{ when, how string }{{"before", "-I"}, {"after", "-I"}, {"after", "-A"}} {
			t.Run(c.when+" "+c.how, func(t *testing.T) {
				switchOn := func() {
					r.restore(t, strings.ReplaceAll(vpnChains, "HOW", c.how))
					t.Cleanup(func() { r.restore(t, noVPNChains) })
				}
				if c.when == "before" {
					switchOn()
				}
				e := r.embed(t)
				want := r.ours(t)
				if c.when == "after" {
					switchOn()
				}
				r.waitRepaired(t, c.how, want)
				foreign := r.foreign(t)
				if c.when == "after" && c.how == "-I" {
					for range 3 {
						r.restore(t, vpnChainsAgain)
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
				foreign = r.foreign(t) // bothJudge has changed them
				if err := e.Stop(); err != nil {
					t.Errorf("stop: %v", err)
				}
				r.wantForeign(t, "after the firewall's end", foreign)
			})
		}
	})
}

// bothJudge makes the kill switch let the web through, so that the firewall's opinion counts.
func (r *rig) bothJudge(t *testing.T, e *embedded) {
	t.Helper()
	port := fmt.Sprint(webPort)
	r.restore(t, fmt.Sprintf("*filter\n-I VPN-OUT -p tcp --dport %s -j ACCEPT\n-I VPN-IN -p tcp --sport %s -j ACCEPT\nCOMMIT\n", port, port))
	for _, a := range both() {
		r.wantCurl(t, "curl", a, answered)
	}
	e.ask(t, "/handler")
	e.ask(t, "/port/"+port)
	for _, a := range both() {
		r.wantCurl(t, "curl", a, silent) // the kill switch drops what tells programs of refusals, too
	}
}

// ufw runs commands where ufw has settings of its own and the rig's variant of iptables: nothing of the machine's is touched.
func (r *rig) ufw(t *testing.T, commands ...string) {
	t.Helper()
	script := `set -e
		if ! test -d "$1"; then
			mkdir "$1"
			cp -a /etc/ufw "$1/etc"
			cp -a /etc/default/ufw "$1/default"
		fi
		mount --bind "$1/etc" /etc/ufw
		mount --bind "$1/default" /etc/default/ufw
		for v in nft legacy; do # ufw calls iptables, which is one of these by two links
			test "$v" = "$2" || mount --bind "/usr/sbin/xtables-$2-multi" "/usr/sbin/xtables-$v-multi"
		done
	` + strings.Join(commands, "\n")
	r.client.Run(t, "unshare", "-m", "sh", "-c", script, "sh", filepath.Join(r.dir, "ufw"), string(r.variant))
}

// Debian's ufw and refd both judge, ufw's rules stay as they are, and its reloading them lets nothing through that refd forbids.
func TestIntegrationUFW(t *testing.T) {
	testutil.NoLeaks(t)
	testutil.RequireTool(t, "ufw")
	eachVariant(t, func(t *testing.T, r *rig) {
		addVerdictAddresses(t, r)
		serveBoth(t, r)
		r.ufw(t, "ufw default deny outgoing", fmt.Sprintf("ufw allow out %d/tcp", webPort), "ufw allow out 10000:10999/udp",
			"sed -i s/ENABLED=no/ENABLED=yes/ /etc/ufw/ufw.conf", "/lib/ufw/ufw-init start") // as at boot; `ufw enable` starts hundreds of programs
		foreign := r.foreign(t)
		if !strings.Contains(foreign[0], "ufw-user-output") || !strings.Contains(foreign[1], "ufw6-user-output") {
			t.Fatalf("ufw made no rules:\n%s", foreign)
		}
		r.start(t, settings{rules: forbidFourth})
		want := r.ours(t)
		r.judgedWithUFW(t)
		r.wantForeign(t, "beside ufw", foreign)
		flood := floodForbidden(t, r)
		r.ufw(t, "/lib/ufw/ufw-init force-reload")
		took := r.waitRepaired(t, "ufw reload", want)
		r.wantInTime(t, []time.Duration{took})
		flood.none(t)
		r.wantForeign(t, "after ufw reload", foreign)
		r.judgedWithUFW(t)
		r.stop(t)
		r.wantForeign(t, "after refd's end", foreign)
	})
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
					known, _ := r.client.Try("sh", "-c", "conntrack -L 2>&1 | grep -v 10.77.0.4; ss -tanpi; ip neigh; uptime") //nolint:errcheck // for people
					t.Errorf("%s: %s: %v\n%s\nthe host knows:\n%s", when, name, err, out, known)
					if r.refd != nil {
						t.Logf("refd knows:\n%s\n%s", r.cli(t, "conns", "--limit", "40"), r.cli(t, "status", "--json"))
					}
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

// firewalldTable is what firewalld makes, in small: what comes in passes if its zone says so, and what goes out passes.
const firewalldTable = `
table inet firewalld
delete table inet firewalld
table inet firewalld {
	chain filter_PREROUTING {
		type filter hook prerouting priority filter + 10
		icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
		meta nfproto ipv6 fib saddr . mark . iif oif missing drop
	}
	chain filter_INPUT {
		type filter hook input priority filter + 10
		ct state established,related accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		jump filter_IN_public
		reject with icmpx admin-prohibited
	}
	chain filter_OUTPUT {
		type filter hook output priority filter + 10
		ct state established,related accept
		oifname "lo" accept
	}
	chain filter_FORWARD {
		type filter hook forward priority filter + 10
		reject with icmpx admin-prohibited
	}
	chain filter_IN_public {
		meta l4proto { icmp, ipv6-icmp } accept
		%s accept
	}
	chain nat_POSTROUTING {
		type nat hook postrouting priority srcnat + 10
	}
}`

// Rules like firewalld's and refd both judge; firewalld's reload leaves refd's rules alone, and refd leaves firewalld's alone. A chain
// of nftables that drops is asked even about the firewall's own connections: docs/interop.md says so.
func TestIntegrationFirewalld(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		addVerdictAddresses(t, r)
		serveBoth(t, r)
		load := func(accepted string) (table string) {
			t.Helper()
			r.client.Run(t, "nft", fmt.Sprintf(firewalldTable, accepted))
			return r.client.Run(t, "nft", "list", "table", "inet", "firewalld")
		}
		unchanged := func(when, want string) {
			t.Helper()
			if got := r.client.Run(t, "nft", "list", "table", "inet", "firewalld"); got != want {
				t.Errorf("%s: got\n%s\nwant\n%s", when, got, want)
			}
		}
		var web, echo []verdictCase
		for i, from := range both() {
			to := clientOf(from)
			name := []string{" over IPv4", " over IPv6"}[i]
			web = append(web, verdictCase{name: "web" + name, probe: probe{host: r.server, protocol: "tcp", from: from, to: to}})
			echo = append(echo, verdictCase{name: "echo" + name, probe: probe{host: r.server, protocol: "udp", from: from, to: to}})
		}
		onlyWeb := load(fmt.Sprintf("tcp dport %d", webPort))
		wantAll(t, web, answered)
		wantAll(t, echo, refused)
		r.start(t, settings{rules: forbidFourth + fmt.Sprintf("  - {id: no-web, direction: in, local_ports: \"%d\", protocols: [tcp], action: drop}\n", webPort)})
		want := r.ours(t)
		wantAll(t, echo, refused) // by firewalld
		wantAll(t, web, silent)   // by refd
		unchanged("beside refd", onlyWeb)
		flood := floodForbidden(t, r)
		onlyEcho := load(fmt.Sprintf("udp dport %d", echoPort))
		wantAll(t, echo, answered)
		wantAll(t, web, silent)
		for _, a := range both() {
			r.wantCurl(t, "curl", a, answered)
		}
		if r.variant == testutil.VariantNFT {
			r.client.Run(t, "nft", "flush", "ruleset")
			r.waitRepaired(t, "a flush", want)
			if out := r.client.Run(t, "nft", "list", "tables"); strings.Contains(out, "firewalld") {
				t.Errorf("refd brought back what is not its own:\n%s", out)
			}
			onlyEcho = load(fmt.Sprintf("udp dport %d", echoPort))
		}
		flood.none(t)
		unchanged("after a flush", onlyEcho)
		r.stop(t)
		unchanged("after refd's end", onlyEcho)
		r.notOverridden(t)
	})
}

// notOverridden wants a base chain of nftables to stop the firewall's own connections, as the documentation says, and no longer than it
// is there.
func (r *rig) notOverridden(t *testing.T) {
	t.Helper()
	e := r.embed(t)
	r.client.Run(t, "nft", "table inet strict { chain output { type filter hook output priority 10; policy drop; }; }")
	for _, a := range both() {
		if got := e.ask(t, "/echo/"+hostPort(a, echoPort)+"?timeout=500ms"); got == "hello" {
			t.Errorf("an own connection to %v passed a chain of nftables that drops: docs/interop.md says that it does not", a)
		}
	}
	r.client.Run(t, "nft", "delete table inet strict")
	for _, a := range both() {
		e.wantFetch(t, a)
	}
}
