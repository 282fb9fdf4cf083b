package nameserver

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/packet"
)

// FuzzParseUpstream: what is accepted is written back as it is read.
func FuzzParseUpstream(f *testing.F) {
	for _, s := range []string{
		"9.9.9.9", "udp://9.9.9.9:53", "tcp://[2620:fe::fe]", "[fe80::1%eth0]:53", "tls://9.9.9.9#dns.quad9.net",
		"https://9.9.9.9/dns-query#dns.quad9.net", "https://[::1]:8443", "tls://9.9.9.9#1.1.1.1", "", "udp://", "quic://1.1.1.1",
		"::1", "1.1.1.1:0", "https://1.1.1.1/%41", "::ffff:1.2.3.4", "0.0.0.0",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUpstream(s)
		if err != nil {
			return
		}
		again, err := ParseUpstream(u.String())
		if err != nil || again != u {
			t.Errorf("%q: got %#v, and of its text %q %#v, %v", s, u, u.String(), again, err)
		}
		if u.Protocol == DoH {
			newHTTPSExchanger(u, &dialer{}, tlsConfig(u, nil), &counters{})
		}
	})
}

func seedPackets(f *testing.F) {
	f.Helper()
	for _, m := range []*dns.Msg{
		query("a.test.", dns.TypeA), query("A.Test.", dns.TypeHTTPS).SetEdns0(1232, true), query("localhost.", dns.TypeA),
		query(".", dns.TypeNS), query("a.test.", dns.TypeAXFR), query(`a\.b\255.test.`, dns.TypeA),
	} {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xc0}, 40))
}

// FuzzQuery gives any packet to the handler. Where package dns can read it, ours reads the same; what is answered can be read, has the
// client's id and question, and is not longer than the client takes.
func FuzzQuery(f *testing.F) {
	seedPackets(f)
	s, err := New(Config{Settings: Settings{Upstreams: []Upstream{{Addr: DefaultListen()[0]}}}, Listen: DefaultListen()[1:]})
	if err != nil {
		f.Fatal(err)
	}
	s.setup.Load().pool.servers[0].exchanger = &scripted{answer: func(o *outgoing) (*dns.Msg, error) {
		return message(o, 0, "x.test. 60 IN A 192.0.2.1", "test. 60 IN SOA a. b. 1 1 1 1 30"), nil
	}}
	if !s.start(f.Context()) {
		f.Fatal("runs")
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxQuery {
			return
		}
		r, rcode := parseRequest(b)
		m := new(dns.Msg)
		known := m.Unpack(b) == nil && len(m.Question) == 1
		if rcode == dns.RcodeSuccess {
			name, err := nameText(r.name)
			if err != nil {
				t.Fatalf("%x: a name that cannot be read: %v", r.name, err)
			}
			if known && (plainText(m.Question[0].Name) != name || m.Question[0].Qtype != r.qtype || m.Id != r.id || (m.IsEdns0() != nil) != r.edns) {
				t.Errorf("got %q %d; package dns reads %v", name, r.qtype, m)
			}
		}
		for _, p := range []packet.Protocol{packet.UDP, packet.TCP} {
			out := reply(s, b, p)
			if rcode == ignore {
				if len(out) != 0 {
					t.Errorf("got an answer to %x", b)
				}
				continue
			}
			got := new(dns.Msg)
			if err := got.Unpack(out); err != nil {
				t.Fatalf("answer %x to %x: %v", out, b, err)
			}
			if !got.Response || got.Id != r.id || r.name != nil && !bytes.Equal(out[headerLen:headerLen+len(r.name)], r.name) {
				t.Errorf("got %v to %x", got, b)
			}
			if p == packet.UDP && len(out) > max(r.size, minUDP) {
				t.Errorf("got %d bytes; the client takes %d", len(out), r.size)
			}
		}
	})
}

// FuzzAnswer gives any packet to what reads the answers of upstream servers: what is made of it can be packed and read again, and has
// the same content then.
func FuzzAnswer(f *testing.F) {
	o := &outgoing{name: "a.test.", qtype: dns.TypeA}
	for _, m := range []*dns.Msg{
		message(o, 0, "a.test. 60 IN A 192.0.2.1"),
		message(o, 0, "a.test. 60 IN CNAME b.test.", "b.test. 60 IN A 192.0.2.1", "test. 60 IN SOA a. b. 1 1 1 1 30"),
		message(o, dns.RcodeNameError, "test. 60 IN SOA a. b. 1 1 1 1 30"),
		message(o, 0, `a.test. 60 IN HTTPS 1 b.test. alpn=h2 ipv4hint=192.0.2.1`, "a.test. 60 IN MX 1 mail.test.", "a.test. 1 IN TXT x"),
	} {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	seedPackets(f)
	settings := &Settings{MaxTTL: 24 * time.Hour, MaxNegative: time.Hour}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := o.pack(form{mixed: true})
		if err != nil {
			t.Fatal(err)
		}
		if len(b) >= headerLen { // so that most of what is tried is an answer to it
			end := headerLen + len(q.question)
			b = slices.Concat(q.wire[:2], b[2:4], q.wire[4:6], b[6:headerLen], q.question, b[min(end, len(b)):])
			b[2] = b[2]&^(opcodeMask>>8) | bitQR>>8
		}
		m, err := decode(b)
		if err != nil || m.Truncated || q.match(b) != matchExact {
			return
		}
		removeLocal(m)
		e, err := upstreamEntry(o, m, "x", settings)
		if err != nil {
			return
		}
		if e.life > settings.MaxTTL || len(e.answer.CNAMEs) > MaxChain {
			t.Errorf("got a life of %v and a chain of %d", e.life, len(e.answer.CNAMEs))
		}
		again := new(dns.Msg)
		if err := again.Unpack(e.wire); err != nil {
			t.Fatalf("packed %x of %x: %v", e.wire, b, err)
		}
		if len(again.Answer) != len(m.Answer) || len(e.ttls) != len(again.Answer)+len(again.Ns) {
			t.Errorf("got %d records and %d TTLs; want %d", len(again.Answer), len(e.ttls), len(m.Answer))
		}
	})
}
