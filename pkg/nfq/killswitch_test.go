package nfq

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestParseRawRule(t *testing.T) {
	addr4, addr6 := netip.MustParseAddr("10.88.0.1"), netip.MustParseAddr("fd88::1")
	const quick = `-d 10.88.0.1/32 ! -i wg0 -m addrtype ! --src-type LOCAL -m comment --comment "wg-quick(8) rule for wg0" -j DROP`
	for _, test := range []struct {
		rule            string
		want            preRule
		kill, exception bool
	}{
		{quick, preRule{addr: addr4, iface: "wg0", notIface: true, foreignSource: true, verdict: preDrop, comment: `"wg-quick(8) rule for wg0"`}, true, false},
		{`-d fd88::1/128 ! -i wg0 -m addrtype ! --src-type LOCAL -j DROP`,
			preRule{addr: addr6, iface: "wg0", notIface: true, foreignSource: true, verdict: preDrop}, true, false},
		{exceptionRule(addr4, "X-1"), preRule{addr: addr4, iface: "lo", foreignSource: true, verdict: preAccept, comment: "X-1"}, false, true},
		{exceptionRule(addr6, "X-1"), preRule{addr: addr6, iface: "lo", foreignSource: true, verdict: preAccept, comment: "X-1"}, false, true},
		{quick + " -p tcp", preRule{
			addr: addr4, iface: "wg0", notIface: true, foreignSource: true, verdict: preDrop, comment: `"wg-quick(8) rule for wg0"`, other: true,
		}, false, false},
	} {
		got := parseRawRule(test.rule)
		if got != test.want || got.isKillSwitch() != test.kill || got.isException() != test.exception {
			t.Errorf("%s: got %+v, kill switch %v, exception %v; want %+v", test.rule, got, got.isKillSwitch(), got.isException(), test.want)
		}
	}
	for _, rule := range []string{
		"", "!", "-d", "! ! -d", "-j DROP",
		strings.Replace(quick, "/32", "/24", 1), strings.Replace(quick, "-d", "-s", 1), strings.Replace(quick, "-d", "! -d", 1),
		strings.Replace(quick, "! -i wg0", "-i wg0", 1), strings.Replace(quick, "! -i wg0", "! -i lo", 1),
		strings.Replace(quick, "! -i wg0 ", "", 1), strings.Replace(quick, "! --src", "--src", 1),
		strings.Replace(quick, "LOCAL", "UNICAST", 1), strings.Replace(quick, "--src-type", "--dst-type", 1),
		strings.Replace(quick, "-j DROP", "-g DROP", 1), strings.Replace(quick, "-j DROP", "-j LOG", 1),
		quick + " -d 10.88.0.2/32", quick + " ! -i wg1", quick + " ! -f",
	} {
		if got := parseRawRule(rule); got.isKillSwitch() || got.isException() {
			t.Errorf("%s: got %+v; want something else", rule, got)
		}
	}
}

func TestExceptionScript(t *testing.T) {
	kill := func(addr, iface string) string {
		return "-d " + addr + "/32 ! -i " + iface + ` -m addrtype ! --src-type LOCAL -m comment --comment "wg-quick(8) rule for ` + iface + `" -j DROP`
	}
	pass := func(addr, comment string) string { return exceptionRule(netip.MustParseAddr(addr), comment) }
	const a, b, us, them = "10.0.0.1", "10.0.0.2", "WEIR-redirect-replies", "OTHER-redirect-replies"
	for _, test := range []struct {
		name     string
		rules    []string
		unwanted bool
		want     []string
	}{
		{"nothing", nil, false, nil},
		{"no kill switch", []string{"-j ACCEPT"}, false, nil},
		{"new", []string{kill(a, "wg0")}, false, []string{"-I PREROUTING 1 " + pass(a, us)}},
		{"there", []string{pass(a, us), kill(a, "wg0")}, false, nil},
		{"there, further up", []string{pass(a, us), "-j CT --notrack", kill(a, "wg0")}, false, nil},
		{"two, and one of others between", []string{kill(a, "wg0"), "-j CT --notrack", kill(b, "wg1")}, false,
			[]string{"-I PREROUTING 3 " + pass(b, us), "-I PREROUTING 1 " + pass(a, us)}},
		{"one address twice", []string{kill(a, "wg0"), kill(a, "wg1")}, false, []string{"-I PREROUTING 1 " + pass(a, us)}},
		{"behind", []string{kill(a, "wg0"), pass(a, us)}, false, []string{"-D PREROUTING " + pass(a, us), "-I PREROUTING 1 " + pass(a, us)}},
		{"doubled", []string{pass(a, us), "-j CT --notrack", pass(a, us), kill(a, "wg0")}, false,
			[]string{"-D PREROUTING " + pass(a, us), "-D PREROUTING " + pass(a, us), "-I PREROUTING 2 " + pass(a, us)}},
		{"left over", []string{pass(a, us), kill(b, "wg1")}, false, []string{"-D PREROUTING " + pass(a, us), "-I PREROUTING 1 " + pass(b, us)}},
		{"unwanted", []string{pass(a, us), kill(a, "wg0")}, true, []string{"-D PREROUTING " + pass(a, us)}},
		{"unwanted and not there", []string{kill(a, "wg0")}, true, nil},
		{"changed", []string{"-m comment --comment " + us + " -j ACCEPT"}, false,
			[]string{"-D PREROUTING -m comment --comment " + us + " -j ACCEPT"}},
		{"of another instance", []string{pass(a, them), kill(a, "wg0")}, false, []string{"-I PREROUTING 2 " + pass(a, us)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			now := saved{"raw": {policies: map[string]string{rawChain: "ACCEPT"}, rules: map[string][]string{rawChain: test.rules, "OUTPUT": {pass(a, us)}}}}
			got := exceptionScript(now, us, !test.unwanted)
			var want string
			if test.want != nil {
				want = "*raw\n" + strings.Join(test.want, "\n") + "\nCOMMIT\n"
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// FuzzRawRule feeds the parser of iptables' rules, and applies the script that comes out.
func FuzzRawRule(f *testing.F) {
	const us = "WEIR-redirect-replies"
	f.Add("-d 10.88.0.1/32 ! -i wg0 -m addrtype ! --src-type LOCAL -j DROP\n-j ACCEPT")
	f.Add(exceptionRule(netip.MustParseAddr("fd88::1"), us) + "\n-d fd88::1/128 ! -i wg0 -m addrtype ! --src-type LOCAL -j DROP")
	f.Add("-d 1.2.3.4 ! -i wg0 -m addrtype ! --src-type LOCAL -j DROP\n" + exceptionRule(netip.MustParseAddr("1.2.3.4"), us))
	f.Fuzz(func(t *testing.T, text string) {
		var rules []preRule
		for line := range strings.Lines(text) {
			rules = append(rules, parseRawRule(strings.TrimSuffix(line, "\n")))
		}
		for _, wanted := range []bool{true, false} {
			after := applyPlan(rules, planExceptions(rules, us, wanted), us)
			if again := planExceptions(after, us, wanted); !again.empty() {
				t.Fatalf("got %+v from %+v, and again %+v; want it to be done at once", after, rules, again)
			}
			if !reflect.DeepEqual(others(after, us), others(rules, us)) {
				t.Fatalf("got %+v from %+v; want the rules of others to stay", after, rules)
			}
			for _, r := range after {
				if !wanted && r.comment == us {
					t.Fatalf("got %+v; want nothing of ours", after)
				}
			}
		}
	})
}

func others(rules []preRule, comment string) (list []preRule) {
	for _, r := range rules {
		if r.comment != comment {
			list = append(list, r)
		}
	}
	return list
}

// applyPlan does what a plan says, in the simplest way.
func applyPlan(rules []preRule, p exceptionPlan, comment string) (after []preRule) {
	for i, r := range rules {
		for _, x := range p.insert {
			if x.before == i {
				after = append(after, parseRawRule(exceptionRule(x.addr, comment)))
			}
		}
		removed := false
		for _, at := range p.remove {
			removed = removed || at == i
		}
		if !removed {
			after = append(after, r)
		}
	}
	return after
}
