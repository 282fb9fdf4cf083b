package nameserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

var errPack = errors.New("the answer cannot be encoded")

// entry is an answer as it is kept and given: packed, without an OPT record. It is immutable but for retry and what the cache owns.
type entry struct {
	key    string
	name   string // as Query.Name
	wire   []byte
	ttls   []uint16 // where in wire
	answer Answer
	stored int64         // by the wall clock, in ns: what a machine sleeps through ages answers
	life   time.Duration // from stored on; 0 is not to be kept
	note   note
	err    error // why this is a failure

	// retry is when an expired answer is asked for again after that failed, in ns like stored.
	retry atomic.Int64

	cost       int64
	prev, next *entry
}

// entryCost is about what an entry takes beside its slices and strings: itself, and its place in the map.
const entryCost = 400

// newEntry packs a message. Its additional section is kept, so it must be one of ours.
func newEntry(name string, m *dns.Msg, life time.Duration) (*entry, error) {
	m.Compress = true
	wire, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPack, err)
	}
	if len(wire) > maxMessage {
		return nil, fmt.Errorf("%w: %d bytes", errPack, len(wire))
	}
	offsets, ok := ttlOffsets(wire)
	if !ok {
		return nil, errPack
	}
	e := &entry{name: name, wire: slices.Clip(wire), ttls: offsets, life: life, stored: time.Now().UnixNano()}
	e.answer = Answer{RCode: m.Rcode}
	e.answer.read(name, m)
	return e, nil
}

// upstreamEntry makes an entry of a message that answers question o, with names and TTLs put in order.
func upstreamEntry(o *outgoing, m *dns.Msg, from string, s *Settings) (*entry, error) {
	tidy(o.name, m)
	life := limitTTLs(m, s)
	m.Id = 0
	m.Authoritative, m.Truncated, m.RecursionAvailable, m.Zero = false, false, true, false
	m.RecursionDesired, m.CheckingDisabled = false, false // the client's own are put in
	m.Question = []dns.Question{{Name: o.name, Qtype: o.qtype, Qclass: dns.ClassINET}}
	e, err := newEntry(plainText(o.name), m, life)
	if err != nil {
		return nil, err
	}
	e.answer.Upstream = from
	return e, nil
}

func (e *entry) weigh() int64 {
	n := int64(entryCost + len(e.key) + len(e.name) + cap(e.wire) + 2*cap(e.ttls) + 24*cap(e.answer.Addrs))
	for _, list := range [][]string{e.answer.CNAMEs, e.answer.Targets} {
		for _, s := range list {
			n += int64(16 + len(s))
		}
	}
	return n
}

// age is how old the entry is. A clock that was set back has it too old for anything.
func (e *entry) age(now int64) time.Duration {
	if now < e.stored {
		return time.Duration(1<<63 - 1)
	}
	return time.Duration(now - e.stored)
}

func (e *entry) fresh(now int64) bool { return e.age(now) < e.life }

// stale reports whether an expired entry may still be given.
func (e *entry) stale(now int64, within time.Duration) bool {
	return within > 0 && e.err == nil && e.life > 0 && e.age(now)-e.life < within
}

// staleTTL is what clients are told about expired answers (RFC 8767 section 4).
const staleTTL = 30

// left is how long a client may keep the entry.
func (e *entry) left(now int64) time.Duration {
	age := e.age(now)
	if age >= e.life {
		return 0
	}
	return e.life - age
}

// appendReply appends the answer to r. If it is longer than limit it is truncated: the client asks again by TCP.
func (e *entry) appendReply(dst []byte, r *request, now int64, src Source, limit int) []byte {
	n := e.note
	if src == FromStale {
		n = note{code: dns.ExtendedErrorCodeStaleAnswer, set: true}
	}
	size := len(e.wire)
	if r.edns {
		size += optLen
		if n.set {
			size += 6 + len(n.clipped())
		}
	}
	start := len(dst)
	question := headerLen + len(r.name) + 4
	if size > limit {
		dst = append(dst, e.wire[:question]...)
		clear(dst[start+6 : start+headerLen])
	} else {
		dst = append(dst, e.wire...)
		e.patchTTLs(dst[start:], now, src)
	}
	out := dst[start:]
	binary.BigEndian.PutUint16(out, r.id)
	flags := binary.BigEndian.Uint16(e.wire[2:]) | bitQR | bitRA | r.flags&(bitRD|bitCD)
	if size > limit {
		flags |= bitTC
	}
	if !r.do && r.flags&bitAD == 0 {
		flags &^= bitAD // RFC 6840 section 5.8: only for those who understand it
	}
	binary.BigEndian.PutUint16(out[2:], flags)
	copy(out[headerLen:], r.name) // in the client's case
	if r.edns {
		binary.BigEndian.PutUint16(out[10:], binary.BigEndian.Uint16(out[10:])+1)
		dst = appendOPT(dst, e.answer.RCode, r.do, n)
	}
	return dst
}

func (e *entry) patchTTLs(out []byte, now int64, src Source) {
	if src == FromUpstream || src == FromSelf {
		return
	}
	age := uint32(min(e.age(now)/time.Second, 1<<31-1))
	for _, off := range e.ttls {
		field := out[off:]
		ttl := binary.BigEndian.Uint32(field)
		switch {
		case src == FromStale:
			ttl = staleTTL
		case ttl > age:
			ttl -= age
		default:
			ttl = 0
		}
		binary.BigEndian.PutUint32(field, ttl)
	}
}

// read takes addresses and names from a message.
func (a *Answer) read(name string, m *dns.Msg) {
	chain := chainOf(name, m)
	for _, n := range chain[1:] {
		a.CNAMEs = append(a.CNAMEs, plainText(n))
	}
	for _, rr := range m.Answer {
		if !slices.Contains(chain, rr.Header().Name) {
			continue
		}
		switch rr := rr.(type) {
		case *dns.A:
			a.addIP(rr.A)
		case *dns.AAAA:
			a.addIP(rr.AAAA)
		case *dns.SVCB:
			a.addService(rr)
		case *dns.HTTPS:
			a.addService(&rr.SVCB)
		case *dns.MX:
			a.addTarget(rr.Mx)
		case *dns.SRV:
			a.addTarget(rr.Target)
		}
	}
	a.Addrs, a.CNAMEs, a.Targets = slices.Clip(a.Addrs), slices.Clip(a.CNAMEs), slices.Clip(a.Targets)
}

func (a *Answer) addIP(ip net.IP) {
	if addr, ok := netip.AddrFromSlice(ip); ok && !slices.Contains(a.Addrs, addr.Unmap()) {
		a.Addrs = append(a.Addrs, addr.Unmap())
	}
}

func (a *Answer) addTarget(name string) {
	if t := plainText(name); t != "." && !slices.Contains(a.Targets, t) {
		a.Targets = append(a.Targets, t)
	}
}

// addService reads a service binding (RFC 9460). The target "." is the owner itself.
func (a *Answer) addService(rr *dns.SVCB) {
	a.addTarget(rr.Target)
	for _, kv := range rr.Value {
		switch kv := kv.(type) {
		case *dns.SVCBIPv4Hint:
			for _, ip := range kv.Hint {
				a.addIP(ip)
			}
		case *dns.SVCBIPv6Hint:
			for _, ip := range kv.Hint {
				a.addIP(ip)
			}
		}
	}
}

// chainOf follows the CNAMEs from a name, which is the first of the result; all are as package dns writes them, in lower case.
func chainOf(name string, m *dns.Msg) []string {
	targets := map[string]string{}
	for _, rr := range m.Answer {
		if c, ok := rr.(*dns.CNAME); ok {
			targets[c.Hdr.Name] = strings.ToLower(c.Target)
		}
	}
	chain := []string{strings.ToLower(dns.Fqdn(name))}
	for len(chain) <= MaxChain {
		next, ok := targets[chain[len(chain)-1]]
		if !ok || slices.Contains(chain, next) {
			break
		}
		chain = append(chain, next)
	}
	return chain
}

// tidy makes of a foreign message one that can be kept. Names that the server took from our question have its random case; records
// that do not belong to the question may be anything, and nobody needs those of the additional section.
func tidy(name string, m *dns.Msg) {
	for _, section := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range section {
			rr.Header().Name = strings.ToLower(rr.Header().Name)
			for _, target := range targetsOf(rr) {
				*target = lowerTail(*target, name)
			}
		}
	}
	chain := chainOf(name, m)
	m.Answer = slices.DeleteFunc(m.Answer, func(rr dns.RR) bool {
		owner := rr.Header().Name
		if rr.Header().Class != dns.ClassINET {
			return true
		}
		return !slices.Contains(chain, owner) && !slices.ContainsFunc(chain, func(n string) bool { return redirects(rr, n) })
	})
	positive := len(m.Answer) > 0 && m.Rcode == dns.RcodeSuccess
	m.Ns = slices.DeleteFunc(m.Ns, func(rr dns.RR) bool {
		_, isNS := rr.(*dns.NS)
		return rr.Header().Class != dns.ClassINET || positive && isNS
	})
	m.Extra = nil
}

// redirects reports whether a record is a DNAME above the name, or its signature (RFC 6672).
func redirects(rr dns.RR, name string) bool {
	switch rr := rr.(type) {
	case *dns.DNAME:
	case *dns.RRSIG:
		if rr.TypeCovered != dns.TypeDNAME {
			return false
		}
	default:
		return false
	}
	return within(plainText(name), plainText(rr.Header().Name))
}

// targetsOf returns the names in a record's data that servers may compress, with a pointer into our question (RFC 3597 section 4).
func targetsOf(rr dns.RR) []*string {
	switch rr := rr.(type) {
	case *dns.CNAME:
		return []*string{&rr.Target}
	case *dns.NS:
		return []*string{&rr.Ns}
	case *dns.PTR:
		return []*string{&rr.Ptr}
	case *dns.MX:
		return []*string{&rr.Mx}
	case *dns.SOA:
		return []*string{&rr.Ns, &rr.Mbox}
	}
	return nil
}

// lowerTail writes the labels that s has in common with the end of name in lower case.
func lowerTail(s, name string) string {
	i, j := len(s), len(name)
	for i > 0 && j > 0 && fold(s[i-1]) == fold(name[j-1]) {
		i, j = i-1, j-1
	}
	return s[:i] + strings.ToLower(s[i:])
}

func fold(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// limitTTLs puts the TTLs of a message in order and returns how long it may be kept.
func limitTTLs(m *dns.Msg, s *Settings) time.Duration {
	most := uint32(s.MaxTTL / time.Second)
	least, some := most, false
	for _, section := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range section {
			h := rr.Header()
			if h.Ttl > 1<<31-1 {
				h.Ttl = 0 // RFC 2181 section 8
			}
			h.Ttl = min(h.Ttl, most)
			least, some = min(least, h.Ttl), true
		}
	}
	if !negative(m) {
		if !some {
			return 0
		}
		return time.Duration(least) * time.Second
	}
	// RFC 2308 section 5: what says how long there is nothing is the SOA record; without one it is not kept.
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl, uint32(s.MaxNegative/time.Second))
			return time.Duration(min(least, soa.Hdr.Ttl)) * time.Second
		}
	}
	return 0
}

// negative reports whether a message says that there is nothing of the asked type, be it at the end of a chain.
func negative(m *dns.Msg) bool {
	if m.Rcode != dns.RcodeSuccess {
		return true
	}
	qtype := m.Question[0].Qtype
	if qtype == dns.TypeANY {
		return len(m.Answer) == 0
	}
	return !slices.ContainsFunc(m.Answer, func(rr dns.RR) bool { return rr.Header().Rrtype == qtype })
}
