package nameserver

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/packet"
)

// maxKey is the length of the longest key of the cache: a name, its type and the bits that make another answer of it.
const maxKey = maxName + 3

const (
	keyDO = 1
	keyCD = 2
)

// ask is one query under way.
type ask struct {
	req    request
	query  Query
	limit  int // bytes of the answer
	now    int64
	buf    [maxKey]byte
	keyLen int
}

// setKey writes the key that req has in the cache.
func (a *ask) setKey() {
	n := len(a.req.name)
	lower(a.buf[:], a.req.name)
	binary.BigEndian.PutUint16(a.buf[n:], a.req.qtype)
	var bits byte
	if a.req.do {
		bits |= keyDO
	}
	if a.req.flags&bitCD != 0 {
		bits |= keyCD
	}
	a.buf[n+2] = bits
	a.keyLen = n + 3
}

func (a *ask) key() []byte { return a.buf[:a.keyLen] }

// splitKey reads what setKey wrote behind the name.
func splitKey(key string) (t Type, do, cd bool) {
	if len(key) < 3 {
		return 0, false, false
	}
	tail := key[len(key)-3:]
	return Type(tail[0])<<8 | Type(tail[1]), tail[2]&keyDO != 0, tail[2]&keyCD != 0
}

// detach makes a copy that does not need the packet any more.
func (a *ask) detach() *ask {
	c := *a
	c.req.name = append([]byte(nil), a.req.name...)
	return &c
}

// newLookup makes an ask of nobody's packet.
func newLookup(name string, t Type) (*ask, error) {
	var wire [maxName + 1]byte
	end, err := dns.PackDomainName(dns.Fqdn(name), wire[:], 0, nil, false)
	if err != nil {
		return nil, bad("name %q: %w", name, err)
	}
	a := &ask{
		req:   request{name: wire[:end], qtype: uint16(t), qclass: dns.ClassINET, flags: bitRD},
		query: Query{Name: name, Type: t, Time: time.Now()},
	}
	if rcode := a.req.refusal(); rcode != dns.RcodeSuccess {
		return nil, bad("queries for %v are not possible", t)
	}
	a.setKey()
	return a, nil
}

// reply tells an entry as it is given.
func (e *entry) reply(now int64, src Source) Reply {
	r := Reply{Answer: &e.answer, TTL: e.left(now), Source: src}
	if src == FromStale {
		r.TTL = staleTTL * time.Second
	}
	return r
}

// begin reads a packet into a. Where the answer needs no knowledge of names, it is appended to dst and done is true; an empty one is none.
func (s *Server) begin(a *ask, pkt []byte, from, at netip.AddrPort, p packet.Protocol, dst []byte) (out []byte, done bool) {
	s.stats.queries.Add(1)
	req, rcode := parseRequest(pkt)
	if rcode == ignore {
		s.stats.malformed.Add(1)
		return nil, true
	}
	isLocal := s.locals.has(from.Addr())
	if !isLocal && !s.setup.Load().AnyClient {
		s.stats.refused.Add(1)
		return bareReply(dst, &req, dns.RcodeRefused), true
	}
	if rcode != dns.RcodeSuccess {
		s.stats.malformed.Add(1)
		return bareReply(dst, &req, rcode), true
	}
	now := time.Now()
	a.req, a.now, a.limit = req, now.UnixNano(), maxMessage
	if p == packet.UDP {
		a.limit = udpLimit(&req, isLocal)
	}
	a.setKey()
	a.query = Query{ID: s.ids.Add(1), Client: from, Server: at, Protocol: p, Type: Type(req.qtype), Time: now}
	return nil, false
}

// maxDatagram is the most that fits into a UDP packet over IPv4.
const maxDatagram = 65507

// udpLimit is how long an answer may be. On this host no network makes fragments of it.
func udpLimit(r *request, isLocal bool) int { //nolint:revive // says where the client is
	switch {
	case !r.edns:
		return minUDP
	case isLocal:
		return min(r.size, maxDatagram)
	}
	return min(r.size, ednsSize)
}

// localAddrs tells the addresses of this host.
type localAddrs struct {
	ask   func(netip.Addr) bool // nil for the system's answer
	known atomic.Pointer[knownAddrs]
}

type knownAddrs struct {
	addrs map[netip.Addr]bool
	until time.Time
}

// addrsTime is how long the system's answer counts.
const addrsTime = 5 * time.Second

func (l *localAddrs) has(a netip.Addr) bool {
	switch {
	case a.IsLoopback():
		return true
	case l.ask != nil:
		return l.ask(a)
	}
	k := l.known.Load()
	if k == nil || time.Now().After(k.until) {
		k = systemAddrs()
		l.known.Store(k)
	}
	return k.addrs[a.WithZone("")]
}

// systemAddrs asks for the addresses of all interfaces. If the system does not tell, there are none: nobody is answered who may not be.
func systemAddrs() *knownAddrs {
	k := &knownAddrs{addrs: map[netip.Addr]bool{}, until: time.Now().Add(addrsTime)}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return k
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			k.addrs[p.Addr().Unmap()] = true
		}
	}
	return k
}
