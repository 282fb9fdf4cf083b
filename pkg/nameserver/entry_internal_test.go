package nameserver

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestTidy: what is left of an answer.
func TestTidy(t *testing.T) {
	long := make([]string, 0, 60)
	for i := range 60 {
		long = append(long, fmt.Sprintf("n%d.test. 300 IN CNAME n%d.test.", i, i+1))
	}
	for _, c := range []struct {
		name, asked string
		records     []string
		want        string // addresses, chain, number of records in the answer
	}{
		{"plain", "a.test.", []string{"A.TEST. 1 IN A 192.0.2.1"}, "192.0.2.1 [] 1"},
		{"chain", "a.test.", []string{"a.test. 1 IN CNAME B.test.", "b.test. 1 IN CNAME c.Test.", "c.test. 1 IN A 192.0.2.1"}, "192.0.2.1 [b.test c.test] 3"},
		{"foreign records", "a.test.", []string{"a.test. 1 IN A 192.0.2.1", "bank.test. 1 IN A 203.0.113.66", "a.test. 1 CH A 203.0.113.67"}, "192.0.2.1 [] 1"},
		{"circle", "a.test.", []string{"a.test. 1 IN CNAME b.test.", "b.test. 1 IN CNAME a.test.", "x.test. 1 IN A 192.0.2.1"}, " [b.test] 2"},
		{"itself", "a.test.", []string{"a.test. 1 IN CNAME a.test."}, " [] 1"},
		{"DNAME", "a.old.test.", []string{"old.test. 1 IN DNAME new.test.", "a.old.test. 1 IN CNAME a.new.test.", "a.new.test. 1 IN A 192.0.2.1"}, "192.0.2.1 [a.new.test] 3"},
		{"another DNAME", "a.test.", []string{"old.test. 1 IN DNAME new.test.", "a.test. 1 IN A 192.0.2.1"}, "192.0.2.1 [] 1"},
		{"partial", "a.test.", []string{"a.test. 1 IN CNAME b.test."}, " [b.test] 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := &outgoing{name: c.asked, qtype: dns.TypeA}
			e, err := upstreamEntry(o, message(o, 0, c.records...), "x", &Settings{MaxTTL: time.Hour, MaxNegative: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			addrs := ""
			for _, a := range e.answer.Addrs {
				addrs += a.String()
			}
			if got := fmt.Sprint(addrs, " ", e.answer.CNAMEs, " ", binary.BigEndian.Uint16(e.wire[6:])); got != c.want {
				t.Errorf("got %s; want %s", got, c.want)
			}
		})
	}
	o := &outgoing{name: "n0.test.", qtype: dns.TypeA}
	e, err := upstreamEntry(o, message(o, 0, append(long, "n60.test. 1 IN A 192.0.2.1")...), "x", &Settings{MaxTTL: time.Hour})
	if err != nil || len(e.answer.CNAMEs) != MaxChain || len(e.answer.Addrs) != 0 || binary.BigEndian.Uint16(e.wire[6:]) != MaxChain+1 {
		t.Errorf("got a chain of %d and %v, %v; want %d, and nothing behind", len(e.answer.CNAMEs), e.answer.Addrs, err, MaxChain)
	}
}

// TestNamesLoseTheirRandomCase: servers that compress answer in the case of the question.
func TestNamesLoseTheirRandomCase(t *testing.T) {
	o := &outgoing{name: "www.example.test.", qtype: dns.TypeA}
	m := message(o, 0, "wWw.eXample.tEst. 1 IN CNAME Web-1.eXample.tEst.", "Web-1.eXample.tEst. 1 IN A 192.0.2.1")
	e, err := upstreamEntry(o, m, "x", &Settings{MaxTTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	got := new(dns.Msg)
	if err := got.Unpack(e.wire); err != nil {
		t.Fatal(err)
	}
	if s := got.Answer[0].(*dns.CNAME); s.Hdr.Name != "www.example.test." || s.Target != "Web-1.example.test." {
		t.Errorf("got %v", s)
	}
}

// TestRebind removes local addresses of servers with global ones.
func TestRebind(t *testing.T) {
	x := &scripted{answer: func(o *outgoing) (*dns.Msg, error) {
		return message(o, 0, o.name+" 60 IN A 192.168.0.1", o.name+" 60 IN A 192.0.2.1", o.name+" 60 IN A 127.0.0.1"), nil
	}}
	s := scriptedServer(t, Settings{RebindProtection: true, RebindAllow: []string{"home.test"}}, x)
	if r, _ := lookup(t, s, "evil.test", dns.TypeA); len(r.Answer.Addrs) != 1 || r.Answer.Addrs[0].String() != "192.0.2.1" {
		t.Errorf("got %v; want the global address only", r.Answer.Addrs)
	}
	if n := s.Stats().Rebound; n != 2 {
		t.Errorf("got %d removed; want 2", n)
	}
	if r, _ := lookup(t, s, "nas.home.test", dns.TypeA); len(r.Answer.Addrs) != 3 {
		t.Errorf("got %v; want all", r.Answer.Addrs)
	}
	for text, want := range map[string]int{
		"a. 1 IN AAAA fe80::1": 1, "a. 1 IN AAAA fd00::1": 1, "a. 1 IN AAAA ::ffff:10.0.0.1": 1, "a. 1 IN A 0.0.0.0": 1,
		"a. 1 IN AAAA 2001:db8::1": 0, `a. 1 IN HTTPS 1 . ipv4hint="10.0.0.1" ipv6hint="2001:db8::1"`: 1, "a. 1 IN TXT 10.0.0.1": 0,
	} {
		if got := localIn(record(text)); got != want {
			t.Errorf("%s: got %d; want %d", text, got, want)
		}
	}
}
