package dnsmon

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// parseResults reads what the DNS client of Windows tells about a query that ended: the name that was asked for, and a list separated
// by semicolons of addresses and of other records as "type: N value". IPv4 addresses are written as IPv6 has them. ok is false if there
// is nothing in it to know, as in an answer of no records.
func parseResults(name, results string) (a Answer, ok bool) {
	asked := CanonicalName(name)
	if asked == "" {
		return Answer{}, false
	}
	a.Asked = []string{asked}
	r := Record{Name: asked}
	for item := range strings.SplitSeq(results, ";") {
		item = strings.TrimSpace(item)
		if len(a.Records) == maxRecords {
			break
		}
		if addr, err := netip.ParseAddr(item); err == nil {
			r.Addr = addr.Unmap().WithZone("")
			a.Records = append(a.Records, r)
			r.Addr = netip.Addr{}
			continue
		}
		if target, isAlias := alias(item); isAlias {
			a.Records = append(a.Records, Record{Name: r.Name, Target: target})
			r.Name = target // what follows is the target's
		}
	}
	return a, len(a.Records) > 0
}

// alias returns the target of an item that is a CNAME.
func alias(item string) (target string, ok bool) {
	rest, ok := strings.CutPrefix(item, "type:")
	if !ok {
		return "", false
	}
	number, value, _ := strings.Cut(strings.TrimSpace(rest), " ")
	if n, err := strconv.ParseUint(number, 10, 16); err != nil || uint16(n) != dns.TypeCNAME {
		return "", false
	}
	target = CanonicalName(strings.TrimSpace(value))
	return target, target != ""
}
