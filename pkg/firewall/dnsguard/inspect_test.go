package dnsguard_test

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/firewall/dnsguard"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// datagram is a packet over IPv4 with the bytes of a datagram, of which the backend has copied some.
type datagram struct {
	packet.Packet
	info    packet.Info
	payload []byte
	err     error
}

func (d *datagram) Info() *packet.Info       { return &d.info }
func (d *datagram) Payload() ([]byte, error) { return d.payload, d.err }

func carry(b []byte, d packet.Direction, copied int) *datagram {
	const header = 28
	p := &datagram{payload: append(make([]byte, header), b[:min(copied, len(b))]...)}
	p.info = packet.Info{Direction: d, HeaderLength: header, Length: header + len(b)}
	return p
}

func pack(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func question(edns bool) *dns.Msg { //nolint:revive // says what is in it
	m := new(dns.Msg).SetQuestion("www.example.test.", dns.TypeA)
	if edns {
		m.SetEdns0(1232, true)
	}
	return m
}

func answerTo(t testing.TB, q *dns.Msg, n int) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetReply(q)
	m.Compress = true
	for range n {
		rr, err := dns.NewRR("www.example.test. 60 IN TXT " + strings.Repeat("x", 100))
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	return m
}

func TestInspect(t *testing.T) {
	const whole = 1 << 16
	query, signed := pack(t, question(false)), pack(t, question(true))
	update := new(dns.Msg).SetUpdate("example.test.")
	update.Answer = make([]dns.RR, 0, 8)
	for range 8 {
		update.Ns = append(update.Ns, &dns.ANY{Hdr: dns.RR_Header{Name: "a.example.test.", Rrtype: dns.TypeANY, Class: dns.ClassANY}})
	}
	long := pack(t, answerTo(t, question(true), 30))
	flags := func(b []byte, f uint16) []byte {
		b = append([]byte(nil), b...)
		binary.BigEndian.PutUint16(b[2:], f)
		return b
	}
	counts := func(b []byte, at int, n uint16) []byte {
		b = append([]byte(nil), b...)
		binary.BigEndian.PutUint16(b[at:], n)
		return b
	}
	pointer := append(append([]byte(nil), query[:12]...), 0xc0, 0x0c, 0, 1, 0, 1)
	for name, tt := range map[string]struct {
		b      []byte
		d      packet.Direction
		copied int
		want   bool
	}{
		"query":                      {query, packet.Outbound, whole, true},
		"query with EDNS":            {signed, packet.Outbound, whole, true},
		"answer":                     {pack(t, answerTo(t, question(true), 3)), packet.Inbound, whole, true},
		"empty answer":               {query[:12], packet.Inbound, whole, false},
		"format error":               {flags(counts(query[:12], 4, 0), 1<<15|1), packet.Inbound, whole, true},
		"update":                     {pack(t, update), packet.Outbound, whole, true},
		"long answer, cut":           {long, packet.Inbound, 1500, true},
		"long answer, cut in a name": {long, packet.Inbound, 15, true},
		"only the header was copied": {long, packet.Inbound, 12, true},
		"not even that":              {long, packet.Inbound, 11, false},
		"nothing":                    {nil, packet.Outbound, whole, false},
		"short":                      {query[:11], packet.Outbound, whole, false},
		"text":                       {[]byte("GET / HTTP/1.1\r\nHost: example.test\r\n\r\n"), packet.Outbound, whole, false},
		"an answer, out":             {pack(t, answerTo(t, question(true), 1)), packet.Outbound, whole, false},
		"a query, in":                {query, packet.Inbound, whole, false},
		"something behind":           {append(append([]byte(nil), query...), 1, 2, 3), packet.Outbound, whole, false},
		"less than it says":          {query[:len(query)-1], packet.Outbound, whole, false},
		"no question":                {counts(query, 4, 0), packet.Outbound, whole, false},
		"two questions":              {counts(query, 4, 2), packet.Outbound, whole, false},
		"records in a query":         {counts(query, 6, 9), packet.Outbound, whole, false},
		"opcode that is none":        {flags(query, 9<<11), packet.Outbound, whole, false},
		"pointer to itself":          {pointer, packet.Outbound, whole, false},
		"label of an old kind":       {append(append([]byte(nil), query[:12]...), 0x80, 0, 0, 1, 0, 1), packet.Outbound, whole, false},
	} {
		d, done := newLab(t).Inspect(nil, carry(tt.b, tt.d, tt.copied))
		want, ends := verdict.Accept, false
		if !tt.want {
			want, ends = verdict.Drop, false // anybody can send it: it ends nothing
			if tt.d == packet.Outbound {
				want, ends = verdict.Block, true
			}
		}
		if d.Verdict != want || done != ends || !tt.want && d.Reason.Code != dnsguard.CodeNotDNS {
			t.Errorf("%s: got %+v, %v; want %v, %v", name, d, done, want, ends)
		}
	}
	for name, spoil := range map[string]func(p *datagram){
		"fragment":   func(p *datagram) { p.info.Fragment = true },
		"no payload": func(p *datagram) { p.err = packet.ErrNoPayload },
		"no header":  func(p *datagram) { p.info.HeaderLength = len(p.payload) + 1 },
	} {
		p := carry(query, packet.Outbound, whole)
		spoil(p)
		if d, done := newLab(t).Inspect(nil, p); d.Verdict != verdict.Block || !done {
			t.Errorf("%s: got %+v; want it blocked", name, d)
		}
	}
}

func TestInspectAllocatesNothing(t *testing.T) {
	l := newLab(t)
	p := carry(pack(t, answerTo(t, question(true), 10)), packet.Inbound, 1<<16)
	if n := testing.AllocsPerRun(100, func() { l.Inspect(nil, p) }); n != 0 {
		t.Errorf("got %v allocations; want none", n)
	}
}

// FuzzInspect: nothing panics, and what package dns makes of a message is DNS.
func FuzzInspect(f *testing.F) {
	f.Add(pack(f, question(true)), false, uint16(1500))
	f.Add(pack(f, answerTo(f, question(true), 30)), true, uint16(100))
	f.Add([]byte("GET / HTTP/1.1\r\n"), false, uint16(9))
	g, err := dnsguard.New(dnsguard.Config{Disabled: func() bool { return true }})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, in bool, copied uint16) {
		d := packet.Outbound
		if in {
			d = packet.Inbound
		}
		g.Inspect(nil, carry(b, d, int(copied)))
		var m dns.Msg
		if m.Unpack(b) != nil || len(m.Question) != 1 || m.Opcode != dns.OpcodeQuery || !in && len(m.Answer)+len(m.Ns)+len(m.Extra) > 3 {
			return
		}
		m.Response = in
		again, err := m.Pack()
		if err != nil || len(again) > 65535 {
			return
		}
		if got, _ := g.Inspect(nil, carry(again, d, len(again))); got.Verdict != verdict.Accept {
			t.Errorf("%v: got %+v; want it accepted", &m, got)
		}
		if got, _ := g.Inspect(nil, carry(append(again, 0), d, len(again)+1)); got.Verdict == verdict.Accept {
			t.Errorf("%v with something behind: got %+v; want it blocked", &m, got)
		}
	})
}

func BenchmarkInspect(b *testing.B) {
	g, err := dnsguard.New(dnsguard.Config{Disabled: func() bool { return true }})
	if err != nil {
		b.Fatal(err)
	}
	s := to(strict, packet.UDP, "198.51.100.1:53", "")
	out, in := carry(pack(b, question(true)), packet.Outbound, 1500), carry(pack(b, answerTo(b, question(true), 3)), packet.Inbound, 1500)
	b.ReportAllocs()
	for b.Loop() {
		g.Inspect(s, out)
		g.Inspect(s, in)
	}
}
