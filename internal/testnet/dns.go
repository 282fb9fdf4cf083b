package testnet

import (
	"context"
	"strings"
	"sync/atomic"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/internal/testutil"
)

// DNS is a nameserver that is the authority for a few names.
type DNS struct {
	records map[string][]dns.RR
	queries atomic.Uint64
}

// partial is a word in front of a record: what the record is an alias of is left out of the answer.
const partial = "partial "

// DNS serves records, a line of a zone file each, over UDP and TCP at addr until the end of the test. An alias in front of which
// "partial " stands is answered without what it leads to. A name that begins with "*." stands for all names below. What has no
// record is answered with NXDOMAIN, or without an answer if there are others of the name, and the zone's SOA.
func (h *Host) DNS(t testutil.TB, addr string, records ...string) *DNS {
	t.Helper()
	s := &DNS{records: map[string][]dns.RR{}}
	for _, line := range records {
		text, isPartial := strings.CutPrefix(line, partial)
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatalf("testnet: DNS record %q: %v", line, err)
		}
		if isPartial {
			rr.Header().Rdlength = partialMark
		}
		name := strings.ToLower(rr.Header().Name)
		s.records[name] = append(s.records[name], rr)
	}
	packets, err := h.ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		t.Fatalf("on %s: DNS on %s: %v", h.name, addr, err)
	}
	listener, err := h.Listen(context.Background(), "tcp", packets.LocalAddr().String())
	if err != nil {
		t.Fatalf("on %s: DNS on %s: %v", h.name, addr, err)
	}
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: s}, {Listener: listener, Handler: s}} {
		ended := make(chan struct{})
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(ended)
			_ = server.ActivateAndServe() // it ends with its socket
		}()
		<-started
		t.Cleanup(func() {
			_ = server.Shutdown() // nobody waits for answers any more
			<-ended
		})
	}
	return s
}

// partialMark is a length that no record has which is not packed yet.
const partialMark = 0xffff

// Queries is how many there were so far.
func (s *DNS) Queries() uint64 { return s.queries.Load() }

// ServeDNS implements dns.Handler.
func (s *DNS) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	s.queries.Add(1)
	m := new(dns.Msg).SetReply(q)
	m.Authoritative = true
	if len(q.Question) == 1 {
		s.answer(m, q.Question[0])
	}
	if e := q.IsEdns0(); e != nil {
		m.SetEdns0(1232, false)
	}
	_ = w.WriteMsg(m) // who asked will ask again
}

func (s *DNS) answer(m *dns.Msg, q dns.Question) {
	name := q.Name
	for range 64 {
		found := s.find(name)
		if found == nil && len(m.Answer) == 0 {
			m.Rcode = dns.RcodeNameError
		}
		next := ""
		for _, rr := range found {
			rr := dns.Copy(rr)
			stop := rr.Header().Rdlength == partialMark
			rr.Header().Name, rr.Header().Rdlength = name, 0
			if c, ok := rr.(*dns.CNAME); ok && q.Qtype != dns.TypeCNAME && !stop {
				next = c.Target
			}
			if rr.Header().Rrtype == q.Qtype || rr.Header().Rrtype == dns.TypeCNAME {
				m.Answer = append(m.Answer, rr)
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{&dns.SOA{
			Hdr: dns.RR_Header{Name: "test.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60},
			Ns:  "ns.test.", Mbox: "root.test.", Serial: 1, Refresh: 60, Retry: 60, Expire: 60, Minttl: 60,
		}}
	}
}

func (s *DNS) find(name string) []dns.RR {
	name = strings.ToLower(name)
	if found := s.records[name]; found != nil {
		return found
	}
	_, parent, _ := strings.Cut(name, ".")
	return s.records["*."+parent]
}
