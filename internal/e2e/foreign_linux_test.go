package e2e_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// both are the server's addresses.
func both() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr(testnet.ServerV4), netip.MustParseAddr(testnet.ServerV6)}
}

// iptables runs the program of the rig's variant for both families.
func (r *rig) iptables(t *testing.T, args ...string) {
	t.Helper()
	for _, a := range both() {
		r.client.Run(t, r.tool(a, ""), append([]string{"-w"}, args...)...)
	}
}

// ruleLines are the rules of one family, "TABLE -A CHAIN ...", in their order.
type ruleLines []string

func (r *rig) rules(t *testing.T, a netip.Addr) ruleLines {
	t.Helper()
	var rules ruleLines
	table := ""
	// Some versions warn that they have no names for labels, in the middle of a line.
	for line := range strings.Lines(r.client.Run(t, "sh", "-c", r.tool(a, "-save")+" 2>/dev/null")) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, "-"):
			rules = append(rules, table+" "+line)
		}
	}
	slices.SortStableFunc(rules, func(a, b string) int { // tables come in any order
		return strings.Compare(strings.Fields(a)[0], strings.Fields(b)[0])
	})
	return rules
}

func isOurs(rule string) bool { return strings.Contains(rule, "WEIR") }

// ours are those that refd made.
func (l ruleLines) ours() string {
	return strings.Join(slices.DeleteFunc(slices.Clone(l), func(rule string) bool { return !isOurs(rule) }), "\n")
}

// foreign are the others.
func (l ruleLines) foreign() string {
	return strings.Join(slices.DeleteFunc(slices.Clone(l), isOurs), "\n")
}

// onTop says whether our jumps are the first rules of OUTPUT.
func (l ruleLines) onTop() bool {
	for _, table := range []string{"filter", "mangle"} {
		first := slices.IndexFunc(l, func(rule string) bool { return strings.HasPrefix(rule, table+" -A OUTPUT ") })
		if first < 0 || !isOurs(l[first]) {
			return false
		}
	}
	return true
}

// repairPatience is for a busy machine.
const repairPatience = 20 * time.Second

// repairLimit is how long our rules may be away or below others: legacy tables have no events.
func (r *rig) repairLimit() time.Duration {
	if r.variant == testutil.VariantLegacy {
		return 3 * time.Second
	}
	return time.Second
}

// waitRepaired waits until our rules are these, and on top, in both families. It returns how long it took.
func (r *rig) waitRepaired(t *testing.T, after string, want [2]string) time.Duration {
	t.Helper()
	return r.eventually(t, repairPatience, "our rules are back after "+after, func() bool {
		for i, a := range both() {
			if now := r.rules(t, a); !now.onTop() || now.ours() != want[i] {
				return false
			}
		}
		return true
	})
}

// wantInTime wants the middle one of the times that repairs took below the limit; some of a busy machine may be above.
func (r *rig) wantInTime(t *testing.T, took []time.Duration) {
	t.Helper()
	slices.Sort(took)
	middle := took[len(took)/2]
	t.Logf("%d repairs took %v in the middle, %v at most", len(took), middle, took[len(took)-1])
	if middle > r.repairLimit() {
		t.Errorf("repairs took %v; want %v at most", middle, r.repairLimit())
	}
}

// othersSilent wants another program's connections to get no answer.
func (r *rig) othersSilent(t *testing.T) {
	t.Helper()
	var cases []verdictCase
	for _, a := range both() {
		cases = append(cases, verdictCase{name: "curl of " + a.String(), probe: probe{host: r.client, protocol: "tcp", to: a, from: clientOf(a)}})
	}
	wantAll(t, cases, silent)
}

// clientOf is the client's address of a server address's family.
func clientOf(server netip.Addr) netip.Addr {
	if server.Is4() {
		return netip.MustParseAddr(testnet.ClientV4)
	}
	return netip.MustParseAddr(testnet.ClientV6)
}

// Foreign rules that drop all that goes out, below ours or put above ours, do not stop the firewall's own connections, and
// stop all others.
func TestIntegrationAcceptFinal(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		e := r.embed(t)
		want := r.ours(t)
		var took []time.Duration
		for _, c := range []struct{ table, how, chain string }{
			{"filter", "-A", "OUTPUT"}, {"filter", "-I", "OUTPUT"}, {"mangle", "-A", "OUTPUT"}, {"mangle", "-I", "OUTPUT"},
			{"filter", "-A", "INPUT"},
		} {
			t.Run(fmt.Sprint(c), func(t *testing.T) {
				r.iptables(t, "-t", c.table, c.how, c.chain, "-j", "DROP")
				if d := r.waitRepaired(t, c.how, want); c.how == "-I" {
					took = append(took, d)
				}
				for _, a := range both() {
					r.forgetNeighbours(t)
					e.wantFetch(t, a)
					if got, want := r.rules(t, a).foreign(), fmt.Sprintf("%s -A %s -j DROP", c.table, c.chain); got != want {
						t.Errorf("foreign rules: got %q; want %q", got, want)
					}
				}
				r.othersSilent(t)
				r.iptables(t, "-t", c.table, "-D", c.chain, "-j", "DROP")
				for _, a := range both() {
					r.wantCurl(t, "curl", a, answered)
				}
			})
		}
		r.wantInTime(t, took)
	})
}

// forgetNeighbours makes both hosts look for each other again: no foreign rule may keep them from that.
func (r *rig) forgetNeighbours(t *testing.T) {
	t.Helper()
	for _, h := range []*testnet.Host{r.client, r.server} {
		h.Run(t, "ip", "neighbour", "flush", "dev", "eth0")
		h.Run(t, "ip", "-6", "neighbour", "flush", "dev", "eth0")
	}
}

// ours returns our rules of both families.
func (r *rig) ours(t *testing.T) (ours [2]string) {
	t.Helper()
	for i, a := range both() {
		ours[i] = r.rules(t, a).ours()
	}
	return ours
}

// Whatever others do to the packet filter, nothing that is forbidden passes meanwhile, and our rules are back soon.
func TestIntegrationFlushed(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		addVerdictAddresses(t, r)
		serveBoth(t, r)
		r.start(t, settings{rules: forbidFourth})
		want := r.ours(t)
		var took []time.Duration
		flood := floodForbidden(t, r)
		for range 10 {
			for _, attack := range r.attacks() {
				r.client.Run(t, "sh", "-c", attack)
				took = append(took, r.waitRepaired(t, attack, want))
			}
		}
		r.wantInTime(t, took)
		flood.none(t)
		for _, a := range both() {
			r.wantCurl(t, "curl", a, answered)
		}
	})
}

// attacks are what administrators and other software do.
func (r *rig) attacks() []string {
	v4, v6 := r.tool(both()[0], " -w "), r.tool(both()[1], " -w ")
	attacks := []string{
		v4 + "-F; " + v6 + "-F",
		v4 + "-t mangle -F; " + v6 + "-t mangle -F",
		v4 + "-I OUTPUT -j ACCEPT; " + v6 + "-I OUTPUT -j ACCEPT",
		v4 + "-t mangle -I OUTPUT -j ACCEPT; " + v6 + "-t mangle -I OUTPUT -j ACCEPT",
	}
	if r.variant == testutil.VariantNFT {
		attacks = append(attacks, "nft flush ruleset")
	}
	return attacks
}
