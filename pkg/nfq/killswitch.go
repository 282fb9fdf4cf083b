package nfq

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// preRule is what a rule in front of connection tracking says, read from nf_tables or from iptables. The zero value is a rule
// that means nothing to us.
type preRule struct {
	addr          netip.Addr // destination, a single address; the zero one is any
	iface         string     // incoming interface, empty if any; "wg+" is all that begin with wg
	notIface      bool       // any interface but iface
	foreignSource bool       // the source is no address of this host
	verdict       preVerdict
	comment       string
	// other tells that there is more in the rule, so that the rest must not be acted on.
	other bool
}

type preVerdict uint8

const (
	preNone preVerdict = iota
	preAccept
	preDrop
)

const loopback = "lo"

// isKillSwitch reports whether the rule is one that wg-quick writes for each address of a full tunnel: it drops what arrives for
// that address by another interface, unless this host sent it. The replies of our redirects are such packets: they come over
// loopback, from the address that was asked.
func (r preRule) isKillSwitch() bool {
	return !r.other && r.verdict == preDrop && r.foreignSource && r.addr.IsValid() && r.notIface && r.iface != "" && r.iface != loopback
}

// isException reports whether the rule lets those replies through, and nothing else.
func (r preRule) isException() bool {
	return !r.other && r.verdict == preAccept && r.foreignSource && r.addr.IsValid() && !r.notIface && r.iface == loopback
}

// exceptionPlan is how the rules of one chain are put right.
type exceptionPlan struct {
	remove []int // places of rules of ours
	insert []exceptionPlace
}

// exceptionPlace is where an exception for addr goes.
type exceptionPlace struct {
	before int // the place of the kill switch
	addr   netip.Addr
}

func (p exceptionPlan) empty() bool { return len(p.remove) == 0 && len(p.insert) == 0 }

// planExceptions returns what turns the rules of a chain into those with one exception for each address that has a kill switch,
// in front of it, or with none of ours if they are not wanted. Right in front of it: a packet that is let through skips the
// rest of the chain, so it shall have seen what it would have seen otherwise.
func planExceptions(rules []preRule, comment string, wanted bool) exceptionPlan {
	var p exceptionPlan
	ours := map[netip.Addr][]int{}
	var kills []exceptionPlace // the first of each address
	for i, r := range rules {
		switch {
		case r.comment == comment:
			ours[r.addr] = append(ours[r.addr], i)
		case wanted && r.isKillSwitch() && !slices.ContainsFunc(kills, func(k exceptionPlace) bool { return k.addr == r.addr }):
			kills = append(kills, exceptionPlace{i, r.addr})
		}
	}
	for _, k := range kills {
		if at := ours[k.addr]; len(at) == 1 && at[0] < k.before && rules[at[0]].isException() {
			delete(ours, k.addr)
			continue
		}
		p.insert = append(p.insert, k)
	}
	for _, at := range ours {
		p.remove = append(p.remove, at...)
	}
	slices.Sort(p.remove)
	return p
}

// rawChain is where the iptables branch of wg-quick puts its rules.
const rawChain = "PREROUTING"

// parseRawRule reads a rule as iptables-save prints it, without its chain.
func parseRawRule(text string) preRule {
	var r preRule
	list := words(text)
	for len(list) > 0 {
		not := list[0] == "!"
		if not {
			list = list[1:]
		}
		if len(list) < 2 || !r.option(list[0], list[1], not) {
			r.other = true
			list = list[min(1, len(list)):]
			continue
		}
		list = list[2:]
	}
	return r
}

// option reads an option of a rule and reports whether it is one that kill switches and exceptions have.
func (r *preRule) option(name, value string, not bool) bool {
	switch name {
	case "-i":
		first := r.iface == ""
		r.iface, r.notIface = value, not
		return first
	case "-d":
		addr, single := singleAddress(value)
		first := !r.addr.IsValid()
		r.addr = addr
		return first && single && !not
	case "--src-type":
		r.foreignSource = not && value == "LOCAL"
		return r.foreignSource
	case "--comment":
		r.comment = value
		return !not
	case "-j":
		r.verdict = map[string]preVerdict{"ACCEPT": preAccept, "DROP": preDrop}[value]
		return !not
	case "-m":
		return !not && (value == "addrtype" || value == "comment")
	}
	return false
}

// singleAddress reads 192.0.2.1, 192.0.2.1/32 or 2001:db8::1/128.
func singleAddress(text string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return addr, true
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.IsSingleIP() {
		return netip.Addr{}, false
	}
	return p.Addr(), true
}

// exceptionRule is the exception for an address as iptables-restore takes it.
func exceptionRule(addr netip.Addr, comment string) string {
	return fmt.Sprintf("-d %v -i %s -m addrtype ! --src-type LOCAL -m comment --comment %s -j ACCEPT",
		netip.PrefixFrom(addr, addr.BitLen()), loopback, comment)
}

// exceptionScript returns the input for iptables-restore --noflush that puts the exceptions into now, or takes them out; empty
// if there is nothing to do.
func exceptionScript(now saved, comment string, wanted bool) string {
	texts, _ := now.chainRules("raw", rawChain)
	rules := make([]preRule, len(texts))
	for i, text := range texts {
		rules[i] = parseRawRule(text)
	}
	p := planExceptions(rules, comment, wanted)
	if p.empty() {
		return ""
	}
	var b strings.Builder
	b.WriteString("*raw\n")
	for _, i := range p.remove {
		b.WriteString("-D " + rawChain + " " + texts[i] + "\n")
	}
	// From the end, so that the numbers of those before stay. If others change the chain meanwhile, ours may go to the wrong
	// place; we hear of that change, and look again.
	for _, x := range slices.Backward(p.insert) {
		gone, _ := slices.BinarySearch(p.remove, x.before)
		fmt.Fprintf(&b, "-I %s %d %s\n", rawChain, x.before-gone+1, exceptionRule(x.addr, comment))
	}
	b.WriteString("COMMIT\n")
	return b.String()
}
