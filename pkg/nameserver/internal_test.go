package nameserver

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// TestTTL: how long answers are kept.
func TestTTL(t *testing.T) {
	for _, c := range []struct {
		name    string
		rcode   int
		records []string
		want    time.Duration
	}{
		{"the least of a chain", 0, []string{"a.test. 300 IN CNAME b.test.", "b.test. 60 IN A 192.0.2.1"}, time.Minute},
		{"a day at most", 0, []string{"a.test. 604800 IN A 192.0.2.1"}, 24 * time.Hour},
		{"not at all", 0, []string{"a.test. 0 IN A 192.0.2.1"}, 0},
		{"NXDOMAIN", dns.RcodeNameError, []string{"test. 600 IN SOA a. b. 1 1 1 1 30"}, 30 * time.Second},
		{"NXDOMAIN, SOA expires first", dns.RcodeNameError, []string{"test. 20 IN SOA a. b. 1 1 1 1 300"}, 20 * time.Second},
		{"NXDOMAIN for an hour at most", dns.RcodeNameError, []string{"test. 86400 IN SOA a. b. 1 1 1 1 86400"}, time.Hour},
		{"NXDOMAIN behind a CNAME", dns.RcodeNameError, []string{"a.test. 10 IN CNAME b.test.", "test. 600 IN SOA a. b. 1 1 1 1 30"}, 10 * time.Second},
		{"NXDOMAIN without SOA", dns.RcodeNameError, nil, 0},
		{"NODATA", 0, []string{"test. 600 IN SOA a. b. 1 1 1 1 30"}, 30 * time.Second},
		{"NODATA without SOA", 0, nil, 0},
		{"NODATA behind a CNAME", 0, []string{"a.test. 300 IN CNAME b.test.", "test. 600 IN SOA a. b. 1 1 1 1 30"}, 30 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := &scripted{answer: func(o *outgoing) (*dns.Msg, error) { return message(o, c.rcode, c.records...), nil }}
				s := scriptedServer(t, Settings{}, x)
				r, _ := lookup(t, s, "a.test", dns.TypeA)
				if r.TTL != c.want {
					t.Errorf("got TTL %v; want %v", r.TTL, c.want)
				}
				if c.want > 0 {
					time.Sleep(c.want - time.Second)
					if r, _ := lookup(t, s, "a.test", dns.TypeA); r.TTL != time.Second || x.asked != 1 || r.Source != FromCache {
						t.Errorf("a second before: got %+v, asked %d times", r, x.asked)
					}
					time.Sleep(time.Second)
				}
				if lookup(t, s, "a.test", dns.TypeA); x.asked != 2 {
					t.Errorf("after that: got asked %d times; want 2", x.asked)
				}
			})
		})
	}
}

// TestTTLsCountDown looks at the packed reply.
func TestTTLsCountDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &scripted{answer: func(o *outgoing) (*dns.Msg, error) {
			return message(o, 0, "a.test. 300 IN CNAME b.test.", "b.test. 60 IN A 192.0.2.1"), nil
		}}
		s := scriptedServer(t, Settings{}, x)
		lookup(t, s, "a.test", dns.TypeA)
		time.Sleep(20 * time.Second)
		m := packetReply(t, s, query("A.test.", dns.TypeA))
		if m.Answer[0].Header().Ttl != 280 || m.Answer[1].Header().Ttl != 40 || m.Question[0].Name != "A.test." {
			t.Errorf("got %v; want TTLs of 280 and 40", m)
		}
	})
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

// TestStale: expired answers are given when no server answers, or not in time (RFC 8767).
func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails, delay := false, time.Duration(0)
		x := &scripted{}
		x.answer = func(o *outgoing) (*dns.Msg, error) {
			time.Sleep(delay)
			if fails {
				return nil, errSilent
			}
			return message(o, 0, fmt.Sprintf("a.test. 60 IN A 192.0.2.%d", x.asked)), nil
		}
		s := scriptedServer(t, Settings{StaleFor: time.Hour, FailoverAfter: time.Minute, Timeout: 4 * time.Second}, x)
		step := func(what, want string, src Source) {
			t.Helper()
			r, got := lookup(t, s, "a.test", dns.TypeA)
			if got != want || r.Source != src {
				t.Errorf("%s: got %s from %v; want %s from %v", what, got, r.Source, want, src)
			}
		}
		step("new", "192.0.2.1", FromUpstream)
		time.Sleep(61 * time.Second)
		fails = true
		step("failing", "192.0.2.1", FromStale)
		asked := x.asked
		time.Sleep(29 * time.Second)
		step("not asked again at once", "192.0.2.1", FromStale)
		if x.asked != asked {
			t.Errorf("asked %d times more within 30 s; want none", x.asked-asked)
		}
		m := packetReply(t, s, query("a.test.", dns.TypeA).SetEdns0(1232, false))
		opt := m.IsEdns0()
		if len(m.Answer) != 1 || m.Answer[0].Header().Ttl != 30 || len(opt.Option) != 1 || opt.Option[0].(*dns.EDNS0_EDE).InfoCode != dns.ExtendedErrorCodeStaleAnswer {
			t.Errorf("got %v; want a TTL of 30 and the extended error", m)
		}
		time.Sleep(2 * time.Second)
		fails, delay = false, 3*time.Second
		began := time.Now()
		step("slow", "192.0.2.1", FromStale)
		if d := time.Since(began); d != staleWait {
			t.Errorf("waited %v; want %v", d, staleWait)
		}
		time.Sleep(2 * time.Second)
		if _, got := lookup(t, s, "a.test", dns.TypeA); got == "192.0.2.1" {
			t.Errorf("got the old answer; want the one that came late")
		}
		fails, delay = true, 0
		time.Sleep(61*time.Second + time.Hour)
		if _, got := lookup(t, s, "a.test", dns.TypeA); got != "failed" {
			t.Errorf("after an hour: got %s; want a failure", got)
		}
	})
}

// TestFailuresAreKept for a second (RFC 9520).
func TestFailuresAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &scripted{answer: func(*outgoing) (*dns.Msg, error) { return nil, errSilent }}
		s := scriptedServer(t, Settings{}, x)
		lookup(t, s, "a.test", dns.TypeA)
		asked := x.asked
		time.Sleep(900 * time.Millisecond)
		if lookup(t, s, "a.test", dns.TypeA); x.asked != asked {
			t.Error("asked again within a second")
		}
		time.Sleep(200 * time.Millisecond)
		if lookup(t, s, "a.test", dns.TypeA); x.asked == asked {
			t.Error("not asked again after a second")
		}
	})
}

// TestFailoverTime: a dead server costs FailoverAfter, and after two queries nothing.
func TestFailoverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := &hanging{}
		s := scriptedServer(t, Settings{}, dead)
		good := &scripted{answer: func(o *outgoing) (*dns.Msg, error) {
			time.Sleep(20 * time.Millisecond)
			return message(o, 0, o.name+" 0 IN A 192.0.2.1"), nil
		}}
		p := s.setup.Load().pool
		p.servers = append(p.servers, &server{Upstream: Upstream{Addr: netip.MustParseAddrPort("9.9.9.10:53")}, exchanger: good})
		for i := range 20 {
			began := time.Now()
			if _, got := lookup(t, s, "a.test", dns.TypeA); got != "192.0.2.1" {
				t.Fatalf("got %s", got)
			}
			want := 20 * time.Millisecond
			if i < failLimit {
				want += DefaultFailoverAfter
			}
			if d := time.Since(began); d != want {
				t.Errorf("query %d took %v; want %v", i, d, want)
			}
			time.Sleep(time.Second)
		}
	})
}

// hanging never answers.
type hanging struct{}

func (*hanging) exchange(ctx context.Context, _ *outgoing) (*dns.Msg, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
func (*hanging) close() {}

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

// TestOwnQueriesAreRefused: a query of ours that comes back from our own socket makes a state, and no circle.
func TestOwnQueriesAreRefused(t *testing.T) {
	s := scriptedServer(t, Settings{}, &hanging{})
	o := &outgoing{name: "a.test.", qtype: dns.TypeA}
	q, err := o.pack(form{mixed: true, edns: true})
	if err != nil {
		t.Fatal(err)
	}
	forget := s.own.note(packet.UDP, 4000, q)
	m := new(dns.Msg)
	if err := m.Unpack(reply(s, q.wire, packet.UDP)); err != nil || m.Rcode != dns.RcodeRefused {
		t.Errorf("got %v, %v; want REFUSED", m, err)
	}
	states := s.cfg.States.All()
	if len(states) != 1 || states[0].ID != stateLoop || s.Stats().Loops != 1 {
		t.Errorf("got %v; want the state", states)
	}
	forget()
	s.setup.Load().pool.servers[0].exchanger = &scripted{answer: func(o *outgoing) (*dns.Msg, error) { return message(o, dns.RcodeNameError), nil }}
	if err := m.Unpack(reply(s, q.wire, packet.UDP)); err != nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("afterwards: got %v, %v; want the answer", m, err)
	}
	if len(s.cfg.States.All()) != 0 {
		t.Errorf("got %v; want no state after a good answer", s.cfg.States.All())
	}
}

func TestOtherHosts(t *testing.T) {
	x := &scripted{answer: func(o *outgoing) (*dns.Msg, error) { return message(o, 0, o.name+" 60 IN A 192.0.2.1"), nil }}
	s := scriptedServer(t, Settings{}, x)
	b, err := query("a.test.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	begin := func(addr string) (rcode int) {
		out, done := s.begin(new(ask), b, netip.AddrPortFrom(netip.MustParseAddr(addr), 4000), netip.AddrPort{}, packet.UDP, nil)
		if !done {
			return 0
		}
		return int(out[3] & 15)
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[string]int{"127.0.0.1": 0, "::1": 0, "203.0.113.1": dns.RcodeRefused, "2001:db8::77": dns.RcodeRefused}
	for _, a := range own {
		hosts[netip.MustParsePrefix(a.String()).Addr().String()] = 0
	}
	for addr, want := range hosts {
		if got := begin(addr); got != want {
			t.Errorf("%s: got rcode %d; want %d", addr, got, want)
		}
	}
	s.locals.ask = func(a netip.Addr) bool { return a.String() == "203.0.113.1" }
	if got := begin("203.0.113.1"); got != 0 {
		t.Errorf("an address that is ours: got rcode %d", got)
	}
	settings := s.Settings()
	settings.AnyClient = true
	s.setup.Store(s.newSetup(settings, s.setup.Load()))
	if got := begin("2001:db8::77"); got != 0 {
		t.Errorf("anybody: got rcode %d", got)
	}
}

func TestCacheIsBounded(t *testing.T) {
	const most = 1 << 20
	c := newCache(most)
	entries := func(i int) *entry {
		o := &outgoing{name: fmt.Sprintf("n%d.test.", i), qtype: dns.TypeA}
		e, err := upstreamEntry(o, message(o, 0, o.name+" 300 IN A 192.0.2.1"), "x", &Settings{MaxTTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		e.key = o.name
		return e
	}
	hot := []byte("n0.test.")
	for i := range 6000 {
		c.put(entries(i), 0)
		if c.get(hot) == nil {
			t.Fatalf("after %d entries the one in use is gone", i)
		}
	}
	n, bytes := c.size()
	if bytes > most || n < 1000 || n == 6000 || c.get([]byte("n1.test.")) != nil || c.get([]byte("n5999.test.")) == nil {
		t.Errorf("got %d entries of %d bytes", n, bytes)
	}
	if got := len(c.entries()); got != n {
		t.Errorf("got %d listed; want %d", got, n)
	}
	if got := c.flush(nil); got != n {
		t.Errorf("got %d flushed; want %d", got, n)
	}
	c.put(entries(1), 0)
	if n, _ := c.size(); n != 0 {
		t.Error("what was asked for before a flush is kept")
	}
	c.put(entries(1), 1)
	if n, _ := c.size(); n != 1 {
		t.Error("nothing is kept any more")
	}
	for _, bytes := range []int64{-1, 100} {
		if none := newCache(bytes); func() int { none.put(entries(1), 0); n, _ := none.size(); return n }() != 0 {
			t.Errorf("a cache of %d bytes keeps something", bytes)
		}
	}
}

// TestMemory100k: 100,000 names, each with an address record and a CNAME before it, stay under 100 MB, and all are kept.
func TestMemory100k(t *testing.T) {
	if testing.Short() {
		t.Skip("fills a cache")
	}
	const names = 100_000
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	for i := range names {
		o := &outgoing{name: fmt.Sprintf("host-%d.some-domain-%d.example.test.", i, i%1000), qtype: dns.TypeA}
		m := message(o, 0)
		m.Answer = []dns.RR{
			&dns.CNAME{Hdr: dns.RR_Header{Name: o.name, Rrtype: dns.TypeCNAME, Class: 1, Ttl: 300}, Target: fmt.Sprintf("edge-%d.cdn.example.", i)},
			&dns.A{Hdr: dns.RR_Header{Name: fmt.Sprintf("edge-%d.cdn.example.", i), Rrtype: dns.TypeA, Class: 1, Ttl: 300}, A: net.IPv4(10, byte(i>>16), byte(i>>8), byte(i)).To4()},
		}
		e, err := upstreamEntry(o, m, "udp://9.9.9.9", &s.setup.Load().Settings)
		if err != nil {
			t.Fatal(err)
		}
		a, err := newLookup(plainText(o.name), Type(o.qtype))
		if err != nil {
			t.Fatal(err)
		}
		e.key = string(a.key())
		s.cache.put(e, 0)
	}
	used := heap() - before
	st := s.Stats()
	t.Logf("%d names: %.1f MB in use, %.1f MB by our own count", st.Cached, float64(used)/1e6, float64(st.CacheBytes)/1e6)
	if st.Cached != names {
		t.Errorf("got %d names kept; want all %d", st.Cached, names)
	}
	if used > 100e6 {
		t.Errorf("got %d bytes; want less than 100 MB", used)
	}
	if ratio := float64(used) / float64(st.CacheBytes); ratio > 1.25 {
		t.Errorf("got %.2f times what we count: the bound of the cache does not hold", ratio)
	}
	runtime.KeepAlive(s)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func cachedServer(tb testing.TB) (s *Server, packets [][]byte) {
	tb.Helper()
	s, err := New(Config{Settings: Settings{Upstreams: []Upstream{{Addr: netip.MustParseAddrPort("9.9.9.9:53")}}}})
	if err != nil {
		tb.Fatal(err)
	}
	for i := range 1000 {
		o := &outgoing{name: fmt.Sprintf("n%d.example.test.", i), qtype: dns.TypeA}
		e, err := upstreamEntry(o, message(o, 0, o.name+" 3600 IN A 192.0.2.1"), "x", &s.setup.Load().Settings)
		if err != nil {
			tb.Fatal(err)
		}
		b, err := query(strings.ToUpper(o.name), dns.TypeA).SetEdns0(1232, false).Pack()
		if err != nil {
			tb.Fatal(err)
		}
		req, _ := parseRequest(b)
		a := &ask{req: req}
		a.setKey()
		e.key = string(a.key())
		s.cache.put(e, 0)
		packets = append(packets, b)
	}
	return s, packets
}

func TestCachedAnswersAllocateNothing(t *testing.T) {
	s, packets := cachedServer(t)
	a, out := new(ask), make([]byte, 0, 4096)
	from, at := netip.MustParseAddrPort("127.0.0.1:4000"), netip.MustParseAddrPort("127.0.0.17:53")
	if n := testing.AllocsPerRun(1000, func() {
		s.begin(a, packets[0], from, at, packet.UDP, out)
		if _, ok := s.fast(a, out); !ok {
			t.Fatal("not from the cache")
		}
	}); n != 0 {
		t.Errorf("got %v allocations; want 0", n)
	}
}

func BenchmarkCached(b *testing.B) {
	s, packets := cachedServer(b)
	from, at := netip.MustParseAddrPort("127.0.0.1:4000"), netip.MustParseAddrPort("127.0.0.17:53")
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		a, out := new(ask), make([]byte, 0, 4096)
		for i := rand.IntN(1000); pb.Next(); i++ {
			s.begin(a, packets[i%len(packets)], from, at, packet.UDP, out)
			if _, ok := s.fast(a, out); !ok {
				b.Fatal("not from the cache")
			}
		}
	})
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		"A.Test.": "a.test", "a.test": "a.test", ".a.test": "a.test", ".": ".", "": "", "*.a": "", "a..b": "", strings.Repeat("a", 64): "",
	} {
		if got, err := canonical(in); got != want || (err != nil) != (want == "") {
			t.Errorf("canonical(%q): got %q, %v; want %q", in, got, err, want)
		}
	}
	d := domains[int]{"b.c": 1, "a.b.c": 2, `x\.y.z`: 3}
	for name, want := range map[string]int{"b.c": 1, "q.b.c": 1, "a.b.c": 2, "q.a.b.c": 2, "bb.c": 0, "c": 0, ".": 0, `x\.y.z`: 3, "y.z": 0} {
		if got, _ := d.find(name); got != want {
			t.Errorf("find(%q): got %d; want %d", name, got, want)
		}
	}
	if v, ok := (domains[int]{".": 7}).find("a.b"); v != 7 || !ok {
		t.Error("the root does not contain everything")
	}
	var got []string
	suffixes("a.b", func(s string) bool { got = append(got, s); return true })
	if !slices.Equal(got, []string{"a.b", "b", "."}) {
		t.Errorf("got %q", got)
	}
}
