package nameserver

import (
	"context"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/packet"
)

// scripted is an exchanger of a test.
type scripted struct {
	answer func(o *outgoing) (*dns.Msg, error)
	asked  int
}

func (x *scripted) exchange(_ context.Context, o *outgoing) (*dns.Msg, error) {
	x.asked++
	return x.answer(o)
}
func (x *scripted) close() {}

func record(s string) dns.RR {
	r, err := dns.NewRR(s)
	if err != nil {
		panic(err)
	}
	return r
}

// message answers a question with records; those of type SOA go into the authority section.
func message(o *outgoing, rcode int, records ...string) *dns.Msg {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Rcode: rcode}, Question: []dns.Question{{Name: o.name, Qtype: o.qtype, Qclass: 1}}}
	for _, s := range records {
		if r := record(s); r.Header().Rrtype == dns.TypeSOA {
			m.Ns = append(m.Ns, r)
		} else {
			m.Answer = append(m.Answer, r)
		}
	}
	return m
}

// scriptedServer is a Server whose only upstream is x. It has no sockets.
func scriptedServer(t *testing.T, settings Settings, x exchanger) *Server {
	t.Helper()
	settings.Upstreams = []Upstream{{Addr: netip.MustParseAddrPort("9.9.9.9:53")}}
	s, err := New(Config{Settings: settings, States: module.NewStates("test")})
	if err != nil {
		t.Fatal(err)
	}
	st := s.setup.Load()
	st.pool.servers[0].exchanger = x
	ctx, cancel := context.WithCancel(t.Context())
	if !s.start(ctx) {
		t.Fatal("runs already")
	}
	t.Cleanup(func() { s.finish(cancel) })
	return s
}

func lookup(t *testing.T, s *Server, name string, qtype uint16) (Reply, string) {
	t.Helper()
	r, err := s.Lookup(t.Context(), name, Type(qtype))
	if err != nil {
		return r, "failed"
	}
	if len(r.Answer.Addrs) > 0 {
		return r, r.Answer.Addrs[0].String()
	}
	return r, dns.RcodeToString[r.Answer.RCode]
}
func query(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

// packetReply has the server answer a packet of a client on this host.
func packetReply(t *testing.T, s *Server, q *dns.Msg) *dns.Msg {
	t.Helper()
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	out := reply(s, b, packet.UDP)
	m := new(dns.Msg)
	if err := m.Unpack(out); err != nil {
		t.Fatalf("reply %x: %v", out, err)
	}
	return m
}

// reply is what becomes of a client's packet.
func reply(s *Server, b []byte, p packet.Protocol) []byte {
	from, at := netip.MustParseAddrPort("127.0.0.1:4000"), netip.MustParseAddrPort("127.0.0.17:53")
	a := new(ask)
	if out, done := s.begin(a, b, from, at, p, nil); done {
		return out
	}
	if out, done := s.fast(a, nil); done {
		return out
	}
	return s.slow(context.Background(), a)
}
