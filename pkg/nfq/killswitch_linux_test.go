package nfq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// Our variant, and then what wg-quick writes its rules with.
func TestIntegrationKillSwitchNFT(t *testing.T)       { killSwitchTest(t, VariantNFT, "nft") }
func TestIntegrationKillSwitchNFTTables(t *testing.T) { killSwitchTest(t, VariantNFT, "iptables-nft") }
func TestIntegrationKillSwitchNFTLegacy(t *testing.T) {
	killSwitchTest(t, VariantNFT, "iptables-legacy")
}
func TestIntegrationKillSwitchLegacyNFT(t *testing.T) { killSwitchTest(t, VariantLegacy, "nft") }
func TestIntegrationKillSwitchLegacy(t *testing.T) {
	killSwitchTest(t, VariantLegacy, "iptables-legacy")
}
func TestIntegrationKillSwitchCrash(t *testing.T)       { crashTest(t, VariantNFT, "nft") }
func TestIntegrationKillSwitchCrashTables(t *testing.T) { crashTest(t, VariantNFT, "iptables-nft") }
func TestIntegrationKillSwitchCrashLegacy(t *testing.T) {
	crashTest(t, VariantLegacy, "iptables-legacy")
}
func TestIntegrationKillSwitchForeignNFT(t *testing.T) {
	isolated(t, VariantNFT, testForeignKillSwitches)
}

func TestIntegrationKillSwitchForeignLegacy(t *testing.T) {
	isolated(t, VariantLegacy, testForeignKillSwitches)
}
func TestIntegrationKillSwitchFollow(t *testing.T) { isolatedAlone(t, VariantNFT, testFollow) }
func TestIntegrationKillSwitchMend(t *testing.T)   { isolated(t, VariantNFT, testMend) }

func killSwitchTest(t *testing.T, v Variant, branch string) {
	isolated(t, v, func(r *rig) {
		t := r.t
		r.cfg.Redirects = DefaultRedirects()
		r.listed()
		w := newWGTunnel(r, branch)
		tunnelDown := w.up(t)
		if theirs, ours, _ := w.chains(t); len(theirs) < len(tunnelAddrs()) || len(ours) != 0 {
			t.Fatalf("got %q of wg-quick and %q of ours; want a kill switch for each address", theirs, ours)
		}
		before := testnet.MachineSnapshot(t)
		h, stop := r.sourceOf(t, &markPolicy{trafficLog: newTrafficLog(), seen: map[uint16]int{}})
		if p := w.problem(t); p != "" {
			t.Errorf("started after the tunnel: %s", p)
		}
		serveSplit(t)
		askSplit(t, answered)
		// The control: without exceptions there are no answers.
		if err := h.kill.down(t.Context()); err != nil {
			t.Fatal(err)
		}
		askSplit(t, silence)
		if err := h.kill.up(t.Context()); err != nil {
			t.Fatal(err)
		}
		askSplit(t, answered)

		stop()
		if diff := testnet.Diff(before, testnet.MachineSnapshot(t)); diff != "" {
			t.Errorf("left behind:\n%s", diff)
		}
		testExits(t, r, w, before)

		_, stop = r.sourceOf(t, &markPolicy{trafficLog: newTrafficLog(), seen: map[uint16]int{}})
		tunnelDown()
		gone := w.want(t, "tunnel down", func() string { return w.none(t) })
		w.up(t)
		made := w.want(t, "tunnel up", func() string { return w.problem(t) })
		t.Logf("after wg-quick ended: exceptions gone within %v, made within %v", gone.Round(time.Millisecond), made.Round(time.Millisecond))
		askSplit(t, answered)
		stop()
		if p := w.none(t); p != "" {
			t.Error(p)
		}
	})
}

// testExits checks the other ways to end: rules that stay, and configurations without redirects, and with one that is not used.
func testExits(t *testing.T, r *rig, w *wgTunnel, before string) {
	redirects := r.cfg.Redirects
	defer func() { r.cfg.Redirects, r.cfg.OnExit = redirects, ExitOpen }()
	r.cfg.OnExit = ExitClosed
	r.child(t)() // leaves exceptions
	if p := w.problem(t); p != "" {
		t.Errorf("killed: %s", p)
	}
	_, stop := r.sourceOf(t, portPolicy{})
	if p := w.problem(t); p != "" {
		t.Errorf("started again: %s", p)
	}
	stop()
	if p := w.none(t); p != "" {
		t.Errorf("rules stay: %s", p)
	}
	r.child(t)()
	r.cfg.Redirects = Redirects{RouteSplitTun: true}
	r.cfg.OnExit = ExitOpen
	_, stop = r.sourceOf(t, portPolicy{})
	if p := w.none(t); p != "" {
		t.Errorf("nothing is redirected: %s", p)
	}
	stop()
	r.cfg.Redirects = Redirects{Nameserver: redirects.Nameserver}
	h, stop := r.sourceOf(t, portPolicy{})
	for _, used := range []bool{true, false, true} {
		if err := h.useNameserver(used, used); err != nil {
			t.Error(err)
		}
		p := w.none(t)
		if used {
			p = w.problem(t)
		}
		if p != "" {
			t.Errorf("the nameserver is used: %v: %s", used, p)
		}
	}
	stop()
	if diff := testnet.Diff(before, testnet.MachineSnapshot(t)); diff != "" {
		t.Errorf("left behind after exits:\n%s", diff)
	}
}

func crashTest(t *testing.T, v Variant, branch string) {
	isolated(t, v, func(r *rig) {
		t := r.t
		r.cfg.Redirects = DefaultRedirects()
		r.listed()
		w := newWGTunnel(r, branch)
		tunnelDown := w.up(t)
		before := testnet.MachineSnapshot(t)
		for _, what := range []string{"killed", "killed again"} {
			r.child(t)()
			if p := w.problem(t); p != "" {
				t.Errorf("%s: %s", what, p)
			}
		}
		if err := Cleanup(t.Context(), r.cfg); err != nil {
			t.Fatal(err)
		}
		if diff := testnet.Diff(before, testnet.MachineSnapshot(t)); diff != "" {
			t.Errorf("left behind after Cleanup:\n%s", diff)
		}
		if p := w.none(t); p != "" {
			t.Error(p)
		}
		// The tunnel ends while nobody watches.
		r.child(t)()
		tunnelDown()
		kill := r.child(t)
		if p := w.none(t); p != "" {
			t.Errorf("tunnel ended meanwhile: %s", p)
		}
		kill()
		if err := Cleanup(t.Context(), r.cfg); err != nil {
			t.Fatal(err)
		}
	})
}

// similarRules is what looks like a kill switch, or like an exception, but is something else. It stays alone.
var similarRules = map[family][]string{ //nolint:gochecknoglobals // a table that nobody writes
	family4: {
		`-A PREROUTING -d 10.99.0.1/32 ! -i wg9 -p tcp -m addrtype ! --src-type LOCAL -j DROP`,
		`-A PREROUTING -d 10.99.0.0/24 ! -i wg9 -m addrtype ! --src-type LOCAL -j DROP`,
		`-A PREROUTING -d 10.99.0.2/32 -i wg9 -m addrtype ! --src-type LOCAL -j DROP`,
		`-A PREROUTING -d 10.99.0.3/32 -i lo -m addrtype ! --src-type LOCAL -m comment --comment "WEIR-redirect-replies " -j ACCEPT`,
		`-A PREROUTING -d 10.99.0.4/32 ! -i wg9 -m addrtype --src-type LOCAL -j DROP`,
		`-A OUTPUT -d 10.99.0.5/32 -m addrtype ! --src-type LOCAL -j DROP`,
	},
	family6: {
		`-A PREROUTING -d fd99::1/128 ! -i wg9 -m addrtype ! --src-type LOCAL -j NOTRACK`,
		`-A PREROUTING -d fd99::2/128 -m addrtype ! --src-type LOCAL -j DROP`,
		`-A PREROUTING -d fd99::3/128 -i lo -m addrtype ! --src-type LOCAL -j ACCEPT`,
	},
}

const similarTables = `
table ip wg-quick-none {
	chain preraw {
		type filter hook prerouting priority -300;
		iifname "wg9" ip daddr 10.99.0.1 fib saddr type != local drop
		iifname != "wg9" ip saddr 10.99.0.1 fib saddr type != local drop
		iifname != "wg9" ip daddr 10.99.0.1 fib daddr type != local drop
		iifname != "wg9" ip daddr 10.99.0.0/24 fib saddr type != local drop
		iifname != "wg9" ip daddr 10.99.0.1 tcp dport 1 fib saddr type != local drop
		iifname "lo" ip daddr 10.99.0.1 fib saddr type != local accept comment "WEIR"
	}
	chain other {
		type filter hook prerouting priority -300;
		iifname != "wg9" ip daddr 10.99.0.1 fib saddr type != local drop
	}
}
table ip6 not-wg-quick {
	chain preraw {
		type filter hook prerouting priority -300;
		iifname != "wg9" ip6 daddr fd99::1 fib saddr type != local drop
	}
}
table inet wg-quick-inet {
	chain preraw {
		type filter hook prerouting priority -300;
		iifname != "wg9" ip daddr 10.99.0.1 fib saddr type != local drop
	}
}
`

// testForeignKillSwitches has what is similar beside what is not, and wants the first to stay as it is.
func testForeignKillSwitches(r *rig) {
	t := r.t
	testutil.RequireTool(t, "nft")
	r.cfg.Redirects = DefaultRedirects()
	r.listed()
	for f, rules := range similarRules {
		r.rules(f, "*raw\n"+strings.Join(rules, "\n")+"\nCOMMIT\n")
	}
	r.run("sh", "-ec", `echo "$0" | nft -f -`, similarTables)
	before := testnet.MachineSnapshot(t)
	h, stop := r.sourceOf(t, portPolicy{})
	for _, f := range []family{family4, family6} {
		got := r.run(r.tool(f, "-save"), "-t", "raw")
		for _, rule := range similarRules[f] {
			if strings.Count(got, rule) != 1 && !strings.Contains(rule, "NOTRACK") {
				t.Errorf("got %s\nwant it to have %s", got, rule)
			}
		}
		if n := strings.Count(got, "-A "); n != len(similarRules[f]) {
			t.Errorf("got %d rules in raw; want the %d of before:\n%s", n, len(similarRules[f]), got)
		}
	}
	// A real one among them: one exception, right in front of it.
	r.run(r.tool(family4, ""), "-w", "-t", "raw", "-I", "PREROUTING", "3", "-d", "10.99.0.9", "!", "-i", "wg9", "-m", "addrtype", "!", "--src-type", "LOCAL", "-j", "DROP")
	w := &wgTunnel{r: r}
	w.want(t, "a kill switch in the middle", func() string {
		lines := strings.Split(r.run(r.tool(family4, "-save"), "-t", "raw"), "\n")
		i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "10.99.0.9/32 -i lo") })
		if i < 0 || !strings.Contains(lines[i+1], "10.99.0.9/32 ! -i wg9") || strings.Count(strings.Join(lines, "\n"), exceptionComment("WEIR")+" -j") != 1 {
			return strings.Join(lines, "\n")
		}
		return ""
	})
	r.run(r.tool(family4, ""), "-w", "-t", "raw", "-D", "PREROUTING", "-d", "10.99.0.9", "!", "-i", "wg9", "-m", "addrtype", "!", "--src-type", "LOCAL", "-j", "DROP")
	stop()
	if diff := testnet.Diff(before, testnet.MachineSnapshot(t)); diff != "" {
		t.Errorf("foreign rules changed:\n%s", diff)
	}
	if err := h.kill.down(t.Context()); err != nil {
		t.Errorf("got %v the second time; want nil", err)
	}
}

// testFollow measures how long an exception takes, from the moment at which a kill switch is there.
func testFollow(r *rig) {
	t := r.t
	testutil.RequireTool(t, "nft")
	r.cfg.Redirects = DefaultRedirects()
	h, _ := r.sourceOf(t, portPolicy{})
	n, err := dialNFT()
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	var took []time.Duration
	for i := range 20 {
		proto, match := "ip", "ip daddr 10.88.0.1"
		number := uint8(nfproto4)
		if i%2 == 1 {
			proto, match, number = "ip6", "ip6 daddr fd88::1", nfproto6
		}
		name := fmt.Sprintf("wg-quick-f%d", i)
		r.run("sh", "-ec", `echo "$0" | nft -f -`, fmt.Sprintf(`table %s %s {
	chain preraw { type filter hook prerouting priority -300; iifname != "wg0" %s fib saddr type != local drop; }
}`, proto, name, match))
		start := time.Now()
		for {
			rules, err := n.preRules(number, name, wgChain)
			if err != nil {
				t.Fatal(err)
			}
			if len(rules) == 2 && rules[0].isException() && rules[0].comment == h.kill.comment && rules[1].isKillSwitch() {
				break
			}
			if len(rules) > 2 || time.Since(start) > patience {
				t.Fatalf("got %+v; want an exception and a kill switch", rules)
			}
			time.Sleep(time.Millisecond)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	median, most := took[len(took)/2], took[len(took)-1]
	t.Logf("exception after nft returned: %v (median of %d), %v (most)", median.Round(time.Microsecond), len(took), most.Round(time.Microsecond))
	if median > 100*time.Millisecond {
		t.Errorf("got exceptions after %v; want them within 100ms", median)
	}
}

// testMend wants what was moved, doubled, changed or lost to be put right.
func testMend(r *rig) {
	t := r.t
	r.cfg.Redirects = DefaultRedirects()
	r.sourceOf(t, portPolicy{})
	for _, branch := range []string{"nft", "iptables-nft"} {
		w := newWGTunnel(r, branch)
		down := w.up(t)
		w.want(t, branch, func() string { return w.problem(t) })
		ways := map[string]string{
			"flushed behind": `nft delete rule ip wg-quick-$0 preraw handle $(nft -a list table ip wg-quick-$0 | sed -n '/WEIR/s/.*handle //p' | head -n1)`,
			"doubled":        `nft insert rule ip wg-quick-$0 preraw iifname lo ip daddr 10.88.0.1 fib saddr type != local accept comment WEIR-redirect-replies`,
			"widened":        `nft insert rule ip wg-quick-$0 preraw ip daddr 10.88.0.1 accept comment WEIR-redirect-replies`,
			"behind":         `nft insert rule ip wg-quick-$0 preraw iifname != $0 ip daddr 10.88.0.1 fib saddr type != local drop; nft delete rule ip wg-quick-$0 preraw handle $(nft -a list table ip wg-quick-$0 | sed -n '/10.88.0.1 .*drop/s/.*handle //p' | tail -n1)`,
		}
		if branch != "nft" {
			ours := "-d 10.88.0.1/32 -i lo -m addrtype ! --src-type LOCAL -m comment --comment WEIR-redirect-replies -j ACCEPT"
			theirs := `-d 10.88.0.1/32 ! -i $0 -m addrtype ! --src-type LOCAL -m comment --comment "wg-quick(8) rule for $0" -j DROP`
			ways = map[string]string{
				"lost":    "iptables-nft -t raw -D PREROUTING " + ours,
				"doubled": "iptables-nft -t raw -A PREROUTING " + ours,
				"widened": "iptables-nft -t raw -I PREROUTING -d 10.88.0.1/32 -m comment --comment WEIR-redirect-replies -j ACCEPT",
				"behind":  "iptables-nft -t raw -D PREROUTING " + theirs + "; iptables-nft -t raw -I PREROUTING " + theirs,
			}
		}
		for what, line := range ways {
			r.run("sh", "-ec", line, w.iface())
			w.want(t, branch+" "+what, func() string { return w.problem(t) })
		}
		down()
		w.want(t, branch+" down", func() string { return w.none(t) })
	}
}

// What fails is tried again, at a slower and slower pace.
func TestKillSwitchFollow(t *testing.T) {
	cfg, err := HostConfig{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	k := newKillSwitch(cfg)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		src := events{
			poll: time.Hour, read: func(chan<- struct{}) { <-stopped },
			stop: func() error { close(stopped); return nil },
		}
		start, calls := time.Now(), 0
		err := k.follow(ctx, src, func(context.Context) error {
			if calls++; calls == 3 {
				cancel()
			}
			return errors.New("not yet")
		})
		if took := time.Since(start); err != nil || calls != 3 || took != 6*rest {
			t.Errorf("got %d calls in %v, %v; want 3 in %v and no error", calls, took, err, 6*rest)
		}
	})
}
