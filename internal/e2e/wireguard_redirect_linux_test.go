package e2e_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// killRule is what wg-quick writes for each address of a full tunnel, with nft and with iptables.
var killRule = regexp.MustCompile(`iifname != "` + clientTunnel + `" ip6? daddr \S+ fib saddr type != local drop|! -i ` +
	clientTunnel + ` .*! --src-type LOCAL .*-j DROP`)

// killSwitches counts the kill switches of wg-quick, wherever they are, and our exceptions to them.
func (w *tunnel) killSwitches(t *testing.T) (rules, exceptions int) {
	t.Helper()
	text := w.r.client.Run(t, "sh", "-c", `for f in ip ip6; do
		nft list table $f wg-quick-`+clientTunnel+` || true
		${f}tables-nft-save
		${f}tables-legacy-save
	done 2>/dev/null`)
	return len(killRule.FindAllString(text, -1)), strings.Count(text, "WEIR-redirect-replies")
}

// wantExceptions wants one exception for each kill switch, or none.
func (w *tunnel) wantExceptions(t *testing.T, want bool) {
	t.Helper()
	rules, exceptions := w.killSwitches(t)
	wanted := 0
	if want {
		wanted = rules
	}
	if rules < 2 || exceptions != wanted {
		t.Errorf("got %d exceptions to %d kill switches; want %d to 2 or more\n%s", exceptions, rules, wanted, w.r.client.Run(t, "nft", "list", "ruleset"))
	}
}

// withControl calls fn while there is a second copy of wg-quick's kill switch, for IPv4, which nobody knows as wg-quick's: replies of
// redirected connections are dropped. It shows what the exception to the first one is for.
func (w *tunnel) withControl(t *testing.T, fn func()) {
	t.Helper()
	w.r.client.Run(t, "nft", fmt.Sprintf(`table ip control {
		chain preraw {
			type filter hook prerouting priority raw; policy accept;
			iifname != "%s" ip daddr %s fib saddr type != local drop
		}
	}`, clientTunnel, tunnelAddresses.client[0]))
	fn()
	w.r.client.Run(t, "nft", "delete table ip control")
}

// Connections that a firewall redirects into a tunnel of its own (verdict 6) work beside a full tunnel of wg-quick's, whose kill switch
// would drop their replies; whichever rules wg-quick uses, before or after the firewall starts. The exceptions end with the firewall.
func TestIntegrationTunnelRedirectWireGuard(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		w := newTunnel(t, r)
		w.up(t, r.server)
		r.server.HTTP(t, fmt.Sprintf("[::]:%d", webPort), http.HandlerFunc(page))
		socks := r.server.SOCKS(t, hostPort(tunnelAddresses.server[0], 1080))
		kinds := []string{"nft", "iptables"}
		if r.variant == testutil.VariantLegacy {
			kinds = kinds[1:] // nft was tried by the other variant
		}
		for _, rules := range kinds {
			if rules == "iptables" {
				w.withoutNFT(t)
			}
			t.Run(rules, func(t *testing.T) {
				w.checkUp(t, w.up(t, r.client), rules)
				w.redirected(t, socks)
			})
		}
	})
}

// redirected runs a firewall that sends what is for two addresses behind the tunnel to a SOCKS server, and checks what that is about.
func (w *tunnel) redirected(t *testing.T, socks *testnet.SOCKS) {
	t.Helper()
	r := w.r
	var direct []*testnet.Sniffer
	for _, a := range tunnelAddresses.behind {
		f := testnet.Filter{Dst: netip.PrefixFrom(a, a.BitLen()), Direction: testnet.Incoming}
		direct = append(direct, r.server.Sniff(t, serverTunnel, f), r.server.Sniff(t, "eth0", f))
	}
	get := func(a netip.Addr, want outcome) {
		t.Helper()
		before := len(socks.Asked())
		r.wantCurl(t, "curl", a, want)
		if asked := len(socks.Asked()) - before; asked != 1 {
			t.Errorf("curl of %v: the SOCKS server was asked %d times; want once", a, asked)
		}
	}
	w.wantExceptions(t, false)
	firewall := r.client.Start(t, r.lab.Program(t, "github.com/weirfw/weir/examples/tunnel-socks5"),
		"-check", "200ms", "-socks", hostPort(tunnelAddresses.server[0], 1080), "-to", fmt.Sprintf("%v,%v", tunnelAddresses.behind[0], tunnelAddresses.behind[1]))
	firewall.WaitOutput(t, "filtering", startLimit)
	for _, a := range tunnelAddresses.behind {
		get(a, answered)
	}
	w.wantExceptions(t, true)
	w.withControl(t, func() {
		get(tunnelAddresses.behind[1], answered)
		r.wantCurl(t, "curl", tunnelAddresses.behind[0], silent)
	})
	get(tunnelAddresses.behind[0], answered)
	// the tunnel goes and comes back while the firewall runs
	w.quick(t, r.client, "down")
	r.eventually(t, startLimit, "no kill switch, no exception", func() bool {
		rules, exceptions := w.killSwitches(t)
		return rules == 0 && exceptions == 0
	})
	w.quick(t, r.client, "up")
	r.eventually(t, startLimit, "an exception to each new kill switch", func() bool {
		rules, exceptions := w.killSwitches(t)
		return rules >= 2 && exceptions == rules
	})
	r.eventually(t, startLimit, "the SOCKS server is found again", func() bool {
		return probe{host: r.client, to: tunnelAddresses.behind[0], patience: answered.patience()}.web("curl").outcome == answered
	})
	for _, a := range tunnelAddresses.behind {
		get(a, answered)
	}
	for _, s := range direct {
		if n := s.Count(); n != 0 {
			t.Errorf("%d packets went around the SOCKS server; want 0: %x", n, s.Packets())
		}
	}
	if err := firewall.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	w.wantExceptions(t, false)
}
