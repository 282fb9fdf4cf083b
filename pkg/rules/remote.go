package rules

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/weirfw/weir/pkg/netscope"
)

// scopeSet has bit 1<<s for each scope s.
type scopeSet uint16

func (s scopeSet) has(x netscope.Scope) bool { return x < maxScopes && s>>x&1 != 0 }

// maxScopes is the number of bits of a scopeSet.
const maxScopes = 16

// remote is the parsed condition on the other side: an entry of any kind is
// enough.
type remote struct {
	addrs   spans
	scopes  scopeSet
	domains domainSet
	lists   listUse
}

// named reports whether the name of the other side can matter.
func (r *remote) named() bool { return !r.domains.empty() || r.lists.names }

const scopesHint = "scopes are host, link, site, global, local-multicast, global-multicast, broadcast, unknown, lan, local, multicast"

// parseScope returns the scopes that a name stands for.
func parseScope(s string) (scopeSet, bool) {
	var in func(netscope.Scope) bool
	switch s {
	case "lan":
		in = netscope.Scope.IsLAN
	case "local":
		in = netscope.Scope.IsLocal
	case "multicast":
		in = func(x netscope.Scope) bool { return x == netscope.LocalMulticast || x == netscope.GlobalMulticast }
	default:
		var one netscope.Scope
		if err := one.UnmarshalText([]byte(s)); err != nil {
			return 0, false
		}
		return 1 << one, true
	}
	var set scopeSet
	for x := netscope.Scope(0); x < maxScopes; x++ {
		if x.IsValid() && in(x) {
			set |= 1 << x
		}
	}
	return set, true
}

// remoteParser collects the entries of one rule.
type remoteParser struct {
	spans   []span
	scopes  scopeSet
	domains []string
	lists   listUse
	// from has the lists that entries can name.
	from *listTable
}

// add reads an entry. What it is follows from how it is written: a slash or a
// colon is of addresses, a name without a dot is a scope.
func (r *remoteParser) add(s string) *problem {
	if p := checkText(s); p != nil {
		return p
	}
	if name, ok := strings.CutPrefix(s, listPrefix); ok {
		return r.from.use(s, name, &r.lists)
	}
	if strings.Contains(s, "/") {
		return r.addPrefix(s)
	}
	if a, err := netip.ParseAddr(s); err == nil {
		if p := checkAddr(a, s); p != nil {
			return p
		}
		r.spans = append(r.spans, span{addrPoint(a), addrPoint(a)})
		return nil
	}
	if from, to, ok := strings.Cut(s, "-"); ok && (isAddr(from) || isAddr(to)) {
		return r.addRange(s, from, to)
	}
	if strings.Contains(s, ":") {
		return &problem{s, "not an address", `ports go into remote_ports; addresses are written like "192.0.2.1" or "2001:db8::1"`}
	}
	if !strings.Contains(s, ".") && s != "*" {
		set, ok := parseScope(s)
		if !ok {
			return &problem{s, "no such scope", scopesHint + "; for a host name write " + strconv.Quote(s+".")}
		}
		r.scopes |= set
		return nil
	}
	d, p := parseDomain(s)
	if p != nil {
		return p
	}
	r.domains = append(r.domains, d...)
	return nil
}

func isAddr(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// checkAddr refuses spellings that no connection has.
func checkAddr(a netip.Addr, s string) *problem {
	if a.Zone() != "" {
		return &problem{s, "address with a zone", "write " + strconv.Quote(a.WithZone("").String()) + " and name the interface in interfaces"}
	}
	if a.Is4In6() {
		return &problem{s, "IPv4 address written as IPv6", "write " + strconv.Quote(a.Unmap().String())}
	}
	return nil
}

func (r *remoteParser) addPrefix(s string) *problem {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return &problem{s, "not a network", `write it like "10.0.0.0/8" (0 to 32 bits) or "2001:db8::/32" (0 to 128 bits)`}
	}
	if bad := checkAddr(p.Addr(), s); bad != nil {
		return bad
	}
	if p != p.Masked() {
		return &problem{s, "host bits set", "write " + strconv.Quote(p.Masked().String()) + " for the network or " + strconv.Quote(p.Addr().String()) + " for the host"}
	}
	r.addSpan(p.Addr(), prefixSpan(p))
	return nil
}

func (r *remoteParser) addRange(s, from, to string) *problem {
	const hint = `write it like "192.0.2.1-192.0.2.9"`
	a, errA := netip.ParseAddr(from)
	b, errB := netip.ParseAddr(to)
	if errA != nil || errB != nil {
		return &problem{s, "not a range of addresses", hint}
	}
	for _, x := range [...]netip.Addr{a, b} {
		if p := checkAddr(x, s); p != nil {
			return p
		}
	}
	if a.BitLen() != b.BitLen() {
		return &problem{s, "range from one address family to the other", hint}
	}
	if b.Less(a) {
		return &problem{s, "range is reversed", "write " + strconv.Quote(to+"-"+from)}
	}
	r.addSpan(a, span{addrPoint(a), addrPoint(b)})
	return nil
}

// addSpan adds s, which begins with first.
func (r *remoteParser) addSpan(first netip.Addr, s span) {
	if first.Is4() {
		r.spans = append(r.spans, s)
		return
	}
	r.spans = append(r.spans, s.withoutMapped()...)
}

func (r *remoteParser) done() *remote {
	return &remote{addrs: newSpans(r.spans), scopes: r.scopes, domains: newDomainSet(r.domains), lists: r.lists}
}
