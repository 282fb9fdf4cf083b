package nameserver_test

import (
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// TestForgedBeforeTrue sends wrong answers before the right one: they are not accepted, and the right one is waited for.
func TestForgedBeforeTrue(t *testing.T) {
	noLeaks(t)
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { pc.Close(); wg.Wait() })
	ports := map[string]bool{}
	mixed := false
	wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(buf[:n]) != nil {
				continue
			}
			ports[from.String()] = true
			mixed = mixed || q.Question[0].Name != strings.ToLower(q.Question[0].Name)
			name := q.Question[0].Name
			answer := func(change func(*dns.Msg), ip string) {
				m := new(dns.Msg)
				m.SetReply(q)
				m.Answer = []dns.RR{rr(t, name+" 300 IN A "+ip)}
				change(m)
				b, _ := m.Pack()
				_, _ = pc.WriteTo(b, from)
			}
			answer(func(m *dns.Msg) { m.Id ^= 1 }, "203.0.113.1")
			answer(func(m *dns.Msg) { m.Question[0].Name = "evil.test." }, "203.0.113.2")
			answer(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, "203.0.113.3")
			answer(func(m *dns.Msg) { m.Question = nil }, "203.0.113.4")
			_, _ = pc.WriteTo([]byte{1, 2, 3}, from)
			answer(func(m *dns.Msg) { m.Question[0].Name = flip(name) }, "203.0.113.5")
			answer(func(*dns.Msg) {}, "192.0.2.1")
		}
	})
	r := with(t, parse(t, pc.LocalAddr().String()))
	for i := range 20 {
		r.want("some-long-name-"+string(rune('a'+i))+".test", dns.TypeA, "192.0.2.1")
	}
	if got := r.Stats().Wrong; got < 120 {
		t.Errorf("got %d wrong answers counted; want 120", got)
	}
	r.stop()
	pc.Close()
	wg.Wait()
	if len(ports) < 15 || !mixed {
		t.Errorf("got %d source ports of 20 queries, mixed case: %v", len(ports), mixed)
	}
}

// flip turns the case of the first letter.
func flip(name string) string {
	if c := name[:1]; c != strings.ToUpper(c) {
		return strings.ToUpper(c) + name[1:]
	}
	return strings.ToLower(name[:1]) + name[1:]
}

// TestServerWithoutCase has a server that writes names in lower case: it is asked by TCP, where that is safe.
func TestServerWithoutCase(t *testing.T) {
	noLeaks(t)
	var tcp, udp int
	f := plain(t, func(q *dns.Msg, isTCP bool) *dns.Msg {
		if isTCP {
			tcp++
		} else {
			udp++
		}
		m := new(dns.Msg)
		m.SetReply(q)
		m.Question[0].Name = strings.ToLower(q.Question[0].Name)
		m.Answer = []dns.RR{rr(t, m.Question[0].Name+" 300 IN A 192.0.2.1")}
		return m
	})
	r := with(t, f.upstream(t, "ADDR"))
	s := r.Settings()
	s.FailoverAfter = limit
	if err := r.Configure(s); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		r.want("a-name-with-many-letters-"+string(rune('a'+i))+".test", dns.TypeA, "192.0.2.1")
	}
	r.stop()
	if tcp != 3 || udp != 1 {
		t.Errorf("got %d by TCP and %d by UDP; want 3 and 1", tcp, udp)
	}
}

// TestServerWithoutEDNS has a server that knows no EDNS.
func TestServerWithoutEDNS(t *testing.T) {
	noLeaks(t)
	respond := func(q *dns.Msg, _ bool) *dns.Msg {
		if q.IsEdns0() != nil {
			return new(dns.Msg).SetRcodeFormatError(q)
		}
		return new(dns.Msg).SetRcode(q, dns.RcodeNameError)
	}
	for _, format := range []string{"ADDR", "tcp://ADDR"} {
		f := plain(t, respond)
		r := with(t, f.upstream(t, format))
		for range 3 {
			r.want("a.test", dns.TypeA, "NXDOMAIN")
		}
		if n := f.queries.Load(); n != 4 {
			t.Errorf("%s: got %d queries; want 4", format, n)
		}
	}
}
