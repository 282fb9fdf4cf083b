package nameserver_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/nameserver"
)

// bigRecords are about 60 KB of TXT.
func bigRecords() (records []string) {
	for i := range 240 {
		records = append(records, fmt.Sprintf("big.test. 300 IN TXT %q", fmt.Sprintf("%03d", i)+strings.Repeat("x", 235)))
	}
	return records
}

// TestBigAnswers: 60 KB by TCP, and by UDP to those who take it; a truncated answer to all others.
func TestBigAnswers(t *testing.T) {
	noLeaks(t)
	f := plain(t, zoneReply(newZone(t, append(bigRecords(), "a.test. 300 IN A 192.0.2.1")...)))
	r := with(t, f.upstream(t, "ADDR"))
	for range 2 {
		if m := r.exchange("tcp", query("big.test", dns.TypeTXT)); len(m.Answer) != 240 || m.Truncated {
			t.Errorf("TCP: got %d records; want 240", len(m.Answer))
		}
		if m := r.exchange("udp", query("BIG.test", dns.TypeTXT)); len(m.Answer) != 0 || !m.Truncated || m.IsEdns0() == nil || m.Question[0].Name != "BIG.test." {
			t.Errorf("UDP: got %v; want a truncated answer", m)
		}
		q := query("big.test", dns.TypeTXT)
		q.IsEdns0().SetUDPSize(65535)
		if m := r.exchange("udp", q); len(m.Answer) != 240 || m.Truncated {
			t.Errorf("big UDP: got %d records; want 240", len(m.Answer))
		}
		plain := query("big.test", dns.TypeTXT)
		plain.Extra = nil
		if m := r.exchange("udp", plain); !m.Truncated || m.IsEdns0() != nil {
			t.Errorf("UDP without EDNS: got %v; want a truncated answer without", m)
		}
	}
}

// TestBits: what the client says of DNSSEC goes to the server and back.
func TestBits(t *testing.T) {
	noLeaks(t)
	f := plain(t, func(q *dns.Msg, _ bool) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(q)
		m.AuthenticatedData = true
		m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 300 IN A 192.0.2.1")}
		if q.IsEdns0().Do() {
			m.Answer = append(m.Answer, rr(t, q.Question[0].Name+" 300 IN RRSIG A 8 2 300 20300101000000 20200101000000 1 test. AAAA"))
		}
		m.SetEdns0(1232, q.IsEdns0().Do())
		return m
	})
	r := with(t, f.upstream(t, "ADDR"))
	for range 2 {
		for _, do := range []bool{false, true} {
			for _, cd := range []bool{false, true} {
				for _, ad := range []bool{false, true} {
					q := query("a.test", dns.TypeA)
					q.CheckingDisabled, q.AuthenticatedData = cd, ad
					if do {
						q.IsEdns0().SetDo()
					}
					m := r.exchange("udp", q)
					opt := m.IsEdns0()
					if opt == nil || opt.Do() != do || m.CheckingDisabled != cd || m.AuthenticatedData != (ad || do) || !m.RecursionAvailable ||
						(len(m.Answer) == 2) != do || m.Authoritative {
						t.Errorf("DO %v CD %v AD %v: got %v", do, cd, ad, m)
					}
					last := f.last.Load()
					if f.queries.Load() > 4 {
						t.Fatalf("got %d queries; want one for each pair of DO and CD", f.queries.Load())
					}
					if last.IsEdns0().UDPSize() != 1232 || !last.AuthenticatedData || !last.RecursionDesired {
						t.Errorf("got the query %v", last)
					}
				}
			}
		}
	}
	q := query("a.test", dns.TypeA)
	q.IsEdns0().SetVersion(1)
	if m := r.exchange("udp", q); m.Rcode != dns.RcodeBadVers || m.IsEdns0().Version() != 0 {
		t.Errorf("got %v; want BADVERS", m)
	}
}

// TestMalformed sends what is no query for a resolver.
func TestMalformed(t *testing.T) {
	noLeaks(t)
	f := plain(t, zoneReply(newZone(t, "a.test. 300 IN A 192.0.2.1")))
	r := with(t, f.upstream(t, "ADDR"))
	packed := func(change func(m *dns.Msg)) []byte {
		m := query("a.test", dns.TypeA)
		change(m)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := packed(func(*dns.Msg) {})
	const silence = -1
	for _, c := range []struct {
		name string
		b    []byte
		want int
	}{
		{"nothing", nil, silence},
		{"short", good[:11], silence},
		{"an answer", packed(func(m *dns.Msg) { m.Response = true }), silence},
		{"header only", good[:12], dns.RcodeFormatError},
		{"cut in the name", good[:15], dns.RcodeFormatError},
		{"cut in the type", good[:21], dns.RcodeFormatError},
		{"cut in OPT", good[:len(good)-3], dns.RcodeFormatError},
		{"two questions", packed(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
		{"no question", packed(func(m *dns.Msg) { m.Question = nil }), dns.RcodeFormatError},
		{"an answer section", packed(func(m *dns.Msg) { m.Answer = []dns.RR{rr(t, "a.test. 1 IN A 192.0.2.1")} }), dns.RcodeFormatError},
		{"two OPT", packed(func(m *dns.Msg) { m.Extra = append(m.Extra, m.Extra[0]) }), dns.RcodeFormatError},
		{"NOTIFY", packed(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), dns.RcodeNotImplemented},
		{"UPDATE", packed(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented},
		{"CHAOS", packed(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		{"AXFR", packed(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }), dns.RcodeRefused},
		{"type 0", packed(func(m *dns.Msg) { m.Question[0].Qtype = 0 }), dns.RcodeFormatError},
		{"good", good, dns.RcodeSuccess},
		{"junk behind", append(good[:len(good):len(good)], 1, 2, 3), dns.RcodeSuccess},
	} {
		for _, network := range []string{"udp", "tcp"} {
			conn, err := net.Dial(network, r.addr)
			if err != nil {
				t.Fatal(err)
			}
			b := c.b
			if network == "tcp" {
				b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
			}
			// Behind it one that is answered, so that silence needs no waiting.
			marker := packed(func(m *dns.Msg) { m.Id = 4711; m.Question[0].Name = "marker.localhost." })
			if network == "tcp" {
				marker = append(binary.BigEndian.AppendUint16(nil, uint16(len(marker))), marker...)
			}
			for _, x := range [][]byte{b, marker} {
				if _, err := conn.Write(x); err != nil {
					t.Fatal(err)
				}
			}
			got := silence
			for range 2 {
				_ = conn.SetReadDeadline(time.Now().Add(limit))
				m, err := (&dns.Conn{Conn: conn, UDPSize: 4096}).ReadMsg()
				if err != nil {
					t.Fatalf("%s by %s: %v", c.name, network, err)
				}
				if m.Id != 4711 {
					got = m.Rcode
				} else if c.want == silence {
					break
				}
			}
			if got != c.want {
				t.Errorf("%s by %s: got rcode %d; want %d", c.name, network, got, c.want)
			}
			conn.Close()
		}
	}
}

// TestTCPConnection: several queries on one connection, answered as they are done; an idle one is closed; there are bounds.
func TestTCPConnection(t *testing.T) {
	noLeaks(t)
	release := make(chan struct{})
	z := newZone(t, "slow.test. 300 IN A 192.0.2.1", "fast.test. 300 IN A 192.0.2.2")
	f := plain(t, func(q *dns.Msg, _ bool) *dns.Msg {
		if strings.EqualFold(q.Question[0].Name, "slow.test.") {
			<-release
		}
		return z.reply(q)
	})
	r := run(t, nameserver.Config{TCPIdle: 500 * time.Millisecond, MaxTCP: 2, Settings: nameserver.Settings{
		Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}, FailoverAfter: limit, Timeout: limit,
	}})
	conn, err := dns.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, name := range []string{"slow.test", "fast.test"} {
		if err := conn.WriteMsg(query(name, dns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := conn.ReadMsg()
	if err != nil || first(m) != "192.0.2.2" {
		t.Fatalf("got %v, %v; want the fast answer first", m, err)
	}
	close(release)
	if m, err = conn.ReadMsg(); err != nil || first(m) != "192.0.2.1" {
		t.Fatalf("got %v, %v; want the slow answer", m, err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(limit))
	if m, err := conn.ReadMsg(); err == nil {
		t.Errorf("got %v; want the end of an idle connection", m)
	}
	var open []net.Conn
	for range 6 {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	eventually(t, "too many are refused", func() bool { return r.Stats().TCPRefused >= 4 })
	_ = open
}

// TestManyClients has 100 of them ask for the same and for different names at a time.
func TestManyClients(t *testing.T) {
	noLeaks(t)
	f := plain(t, func(q *dns.Msg, _ bool) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(q)
		n := strings.ToLower(q.Question[0].Name)
		m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 300 IN TXT "+n)}
		return m
	})
	r := with(t, f.upstream(t, "ADDR"))
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			network := []string{"udp", "tcp"}[i%2]
			for k := range 20 {
				name := fmt.Sprintf("n%d.test.", (i*k)%50)
				if got := first(r.exchange(network, query(name, dns.TypeTXT))); got != `"`+name+`"` {
					t.Errorf("%s: got %s", name, got)
				}
			}
		})
	}
	wg.Wait()
}

// TestOverload: beyond the bound queries are answered with SERVFAIL at once; what is cached is not touched by it.
func TestOverload(t *testing.T) {
	noLeaks(t)
	release := make(chan struct{})
	f := plain(t, func(q *dns.Msg, _ bool) *dns.Msg {
		if !strings.HasPrefix(strings.ToLower(q.Question[0].Name), "cached") {
			<-release
		}
		return yes(t, q)
	})
	r := run(t, nameserver.Config{MaxQueries: 2, Settings: nameserver.Settings{
		Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}, FailoverAfter: limit, Timeout: limit,
	}})
	r.want("cached.test", dns.TypeA, "192.0.2.1")
	wait := r.wantAll([]string{"a.test", "b.test"})
	eventually(t, "both are under way", func() bool { return r.Stats().Misses == 3 })
	r.want("c.test", dns.TypeA, "SERVFAIL")
	if got := first(r.exchange("tcp", query("c.test", dns.TypeA))); got != "SERVFAIL" {
		t.Errorf("TCP: got %s; want SERVFAIL", got)
	}
	r.want("cached.test", dns.TypeA, "192.0.2.1")
	close(release)
	wait()
	if n := r.Stats().Overload; n != 2 {
		t.Errorf("got overload %d; want 2", n)
	}
}
