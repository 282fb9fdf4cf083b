package dnsmon

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/miekg/dns"
)

// maxHints bounds the records that one SVCB or HTTPS record makes.
const maxHints = 64

// RCodeName returns the name of a response code (RFC 1035 section 4.1.1 and IANA's list), such as NXDOMAIN, or RCODE and its number.
func RCodeName(rcode int) string {
	if s, ok := dns.RcodeToString[rcode]; ok {
		return s
	}
	return "RCODE " + strconv.Itoa(rcode)
}

// Records returns what a resource record of class IN says about where a name leads to: an address of A and AAAA, the target of
// CNAME, target and address hints of SVCB and HTTPS (RFC 9460). Of other types there is nothing to say: who asks a PTR record for
// the name of an address gets what its owner likes.
func Records(rr dns.RR) []Record {
	h := rr.Header()
	const flush = 1 << 15 // multicast DNS marks so what replaces the rest (RFC 6762 section 10.2)
	if h.Class&^flush != dns.ClassINET {
		return nil
	}
	r := Record{Name: CanonicalName(h.Name), TTL: time.Duration(h.Ttl) * time.Second}
	switch rr := rr.(type) {
	case *dns.A:
		return r.to(rr.A)
	case *dns.AAAA:
		return r.to(rr.AAAA)
	case *dns.CNAME:
		return r.aliasOf(rr.Target)
	case *dns.SVCB:
		return r.service(rr)
	case *dns.HTTPS:
		return r.service(&rr.SVCB)
	}
	return nil
}

func (r Record) to(addr []byte) []Record {
	a, ok := netip.AddrFromSlice(addr)
	if !ok {
		return nil
	}
	r.Addr = a.Unmap()
	return []Record{r}
}

func (r Record) aliasOf(target string) []Record {
	if r.Target = CanonicalName(target); r.Target == "" {
		return nil
	}
	return []Record{r}
}

// service returns the alias that a service binding is, unless the service is at the name itself, and the addresses that it hints
// at.
func (r Record) service(b *dns.SVCB) []Record {
	at := r
	list := r.aliasOf(b.Target)
	if list != nil {
		at.Name = list[0].Target
	}
	for _, kv := range b.Value {
		switch hint := kv.(type) {
		case *dns.SVCBIPv4Hint:
			for _, ip := range hint.Hint {
				list = append(list, at.to(ip.To4())...)
			}
		case *dns.SVCBIPv6Hint:
			for _, ip := range hint.Hint {
				list = append(list, at.to(ip)...)
			}
		}
	}
	return list[:min(len(list), maxHints)]
}

// rawRecords reads a resource record in wire format.
func rawRecords(raw []byte) ([]Record, bool) {
	rr, _, err := dns.UnpackRR(raw, 0)
	if len(raw) == 0 || err != nil || rr == nil {
		return nil, false
	}
	return Records(rr), true
}
