package nameserver

import (
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/verdict"
)

// selfTTL is what clients are told about answers that this host knows itself.
const selfTTL = 10

// self answers what is not for any server to know; nil if it is.
func (s *Server) self(st *setup, q Query) *entry {
	if s.cfg.Own != nil {
		if addrs, ok := s.cfg.Own(q); ok {
			return addrEntry(q, addrs)
		}
	}
	switch {
	case q.Name == s.cfg.HostName && q.Name != "":
		addrs := loopbacks()
		if s.cfg.HostAddrs != nil {
			addrs = s.cfg.HostAddrs()
		}
		return addrEntry(q, addrs)
	case within(q.Name, "localhost"): // RFC 6761 section 6.3
		return addrEntry(q, loopbacks())
	case within(q.Name, "invalid"), within(q.Name, "onion"): // RFC 6761 section 6.4, RFC 7686 section 2
		return nothing(q, dns.RcodeNameError, selfTTL)
	case st.RefuseCanary && within(q.Name, Canary):
		return nothing(q, dns.RcodeNameError, selfTTL)
	case isLoopbackPTR(q):
		return localPTR(q)
	}
	return nil
}

func loopbacks() []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
}

// isLoopbackPTR reports whether the name is that of a loopback address (RFC 6303 sections 4.2 and 4.3).
func isLoopbackPTR(q Query) bool {
	const v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa"
	return q.Name == v6 || within(q.Name, "127.in-addr.arpa") && strings.Count(q.Name, ".") == 5
}

func localPTR(q Query) *entry {
	if uint16(q.Type) != dns.TypePTR {
		return nothing(q, dns.RcodeSuccess, selfTTL)
	}
	rr := &dns.PTR{Hdr: header(q, dns.TypePTR, selfTTL), Ptr: "localhost."}
	return selfEntry(q, &dns.Msg{Answer: []dns.RR{rr}}, selfTTL)
}

// addrEntry answers with those of the addresses that the query asks for.
func addrEntry(q Query, addrs []netip.Addr) *entry {
	m := &dns.Msg{}
	for _, a := range addrs {
		if rr := addrRecord(q, a, selfTTL); rr != nil {
			m.Answer = append(m.Answer, rr)
		}
	}
	if len(m.Answer) == 0 {
		return nothing(q, dns.RcodeSuccess, selfTTL)
	}
	return selfEntry(q, m, selfTTL)
}

func header(q Query, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: dns.Fqdn(q.Name), Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// addrRecord is the record of an address; nil if the query does not ask for its type.
func addrRecord(q Query, a netip.Addr, ttl uint32) dns.RR {
	a = a.Unmap()
	switch {
	case a.Is4() && uint16(q.Type) == dns.TypeA:
		return &dns.A{Hdr: header(q, dns.TypeA, ttl), A: a.AsSlice()}
	case a.Is6() && uint16(q.Type) == dns.TypeAAAA:
		return &dns.AAAA{Hdr: header(q, dns.TypeAAAA, ttl), AAAA: a.AsSlice()}
	}
	return nil
}

// nothing says that the name, or a record of that type, does not exist, and for how long that holds.
func nothing(q Query, rcode int, ttl uint32) *entry {
	return selfEntry(q, &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: rcode}, Ns: []dns.RR{soa(q, ttl)}}, ttl)
}

// soa is what makes a negative answer one that clients keep for ttl (RFC 2308 section 5).
func soa(q Query, ttl uint32) dns.RR {
	return &dns.SOA{
		Hdr: header(q, dns.TypeSOA, ttl), Ns: ownName, Mbox: "nobody." + ownName,
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}
}

// ownName is below the domain that ICANN has set aside for private use.
const ownName = "weir.internal."

// ReasonName is the owner of the TXT record that tells why a name is blocked.
const ReasonName = "reason." + ownName

// selfEntry packs an answer of our own; nil if that is not possible, which a name at its longest can bring about.
func selfEntry(q Query, m *dns.Msg, ttl uint32) *entry {
	m.Response = true
	m.Question = []dns.Question{{Name: dns.Fqdn(q.Name), Qtype: uint16(q.Type), Qclass: dns.ClassINET}}
	e, err := newEntry(q.Name, m, time.Duration(ttl)*time.Second)
	if err != nil {
		return nil
	}
	return e
}

// blockedEntry answers a blocked name.
func blockedEntry(st *setup, q Query, d verdict.Decision) (*entry, error) {
	ttl := uint32(st.BlockTTL / time.Second)
	m := &dns.Msg{Extra: []dns.RR{reasonRecord(d)}}
	if st.Blocked == BlockedSinkhole {
		for _, a := range []netip.Addr{SinkholeV4, SinkholeV6} {
			if rr := addrRecord(q, a, ttl); rr != nil {
				m.Answer = append(m.Answer, rr)
			}
		}
	} else {
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{soa(q, ttl)}
	}
	e := selfEntry(q, m, ttl)
	if e == nil {
		return nil, errPack
	}
	e.note = note{code: dns.ExtendedErrorCodeBlocked, text: reasonText(d.Reason), set: true}
	return e, nil
}

// reasonRecord is the TXT record that says why. Its first text is for people.
func reasonRecord(d verdict.Decision) dns.RR {
	texts := []string{d.Verdict.Verb() + ": " + reasonText(d.Reason), "code=" + string(d.Reason.Code)}
	if d.Reason.Rule != "" {
		texts = append(texts, "rule="+d.Reason.Rule)
	}
	if d.Reason.By != "" {
		texts = append(texts, "by="+d.Reason.By)
	}
	for i, s := range texts {
		texts[i] = txt(s)
	}
	return &dns.TXT{Hdr: dns.RR_Header{Name: ReasonName, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: texts}
}

func reasonText(r verdict.Reason) string { return or(r.Text, string(r.Code)) }

// maxText is the length of one text of a TXT record, with room for the bytes that package dns writes as four.
const maxText = 255

// txt makes of a text one that package dns takes as it is: that has its own meaning for backslashes and quotes.
func txt(s string) string {
	var b strings.Builder
	for i := range min(len(s), maxText) {
		switch c := s[i]; c {
		case '\\', '"':
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
