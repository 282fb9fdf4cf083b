package nameserver_test

import (
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/packet"
)

// deadAddr is a UDP and TCP port that nobody answers on: UDP is swallowed, TCP accepted and ignored.
func deadAddr(t *testing.T) netip.AddrPort {
	t.Helper()
	f := plain(t, func(*dns.Msg, bool) *dns.Msg { return nil })
	return f.addr
}

func parse(t *testing.T, s string) nameserver.Upstream {
	t.Helper()
	u, err := nameserver.ParseUpstream(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// forge answers to the query as somebody would who does not see it, or not well.
type forge func(q *dns.Msg) *dns.Msg

// TestFailover has a first server that is broken in some way: the answer is the second one's, never the broken one's, and in the end there
// is a state that says what to do.
func TestFailover(t *testing.T) {
	noLeaks(t)
	cert, roots := certificate(t)
	truth := zoneReply(newZone(t, "a.test. 0 IN A 192.0.2.1"))
	lie := func(f forge) respond {
		return func(q *dns.Msg, _ bool) *dns.Msg {
			m := new(dns.Msg)
			m.SetReply(q)
			m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 300 IN A 203.0.113.66")}
			return f(m)
		}
	}
	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	for _, c := range []struct {
		name, upstream, remedy string
	}{
		{"dead UDP", deadAddr(t).String(), "Check the network"},
		{"dead TCP", "tcp://" + deadAddr(t).String(), "Check the network"},
		{"TLS not answering", "tls://" + deadAddr(t).String(), ""},
		{"nobody there, UDP", nobody, "Nothing listens there"},
		{"nobody there, TCP", "tcp://" + nobody, "Nothing listens there"},
		{"refuses", plain(t, func(q *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeRefused) }).addr.String(), "use another server"},
		{"wrong id", plain(t, lie(func(m *dns.Msg) *dns.Msg { m.Id++; return m })).addr.String(), "Check the network"},
		{"wrong name", plain(t, lie(func(m *dns.Msg) *dns.Msg { m.Question[0].Name = "b.test."; return m })).addr.String(), "Check the network"},
		{"wrong type", plain(t, lie(func(m *dns.Msg) *dns.Msg { m.Question[0].Qtype = dns.TypeAAAA; return m })).addr.String(), "Check the network"},
		{"a query", plain(t, lie(func(m *dns.Msg) *dns.Msg { m.Response = false; return m })).addr.String(), "Check the network"},
		{"wrong name, TCP", "tcp://" + plain(t, lie(func(m *dns.Msg) *dns.Msg { m.Question[0].Name = "b.test."; return m })).addr.String(), "forging"},
		{"certificate of nobody", "tls://" + dot(t, otherCertificate(t), truth).addr.String(), "signed by nobody"},
		{"certificate of another name", "tls://" + dot(t, cert, truth).addr.String() + "#other.test", "another name"},
		{"HTTPS certificate of another name", "https://" + doh(t, cert, 0, truth).addr.String() + "#other.test", "another name"},
		{"HTTP 500", "https://" + doh(t, cert, 500, truth).addr.String(), "path of its URL"},
		{"HTTP redirect", "https://" + doh(t, cert, 302, truth).addr.String(), "path of its URL"},
		{"wrong path", "https://" + doh(t, cert, 0, truth).addr.String() + "/x", "path of its URL"},
		{"HTTP not answering", "https://" + doh(t, cert, 0, func(*dns.Msg, bool) *dns.Msg { return nil }).addr.String(), "Check the network"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "nobody there, UDP" && runtime.GOOS == "windows" {
				c.remedy = "Check the network" // Go does not hear of refused datagrams there: net/fd_windows.go, SIO_UDP_CONNRESET
			}
			good := plain(t, truth)
			bad := parse(t, c.upstream)
			r := run(t, nameserver.Config{RootCAs: roots, Settings: nameserver.Settings{
				Upstreams: []nameserver.Upstream{bad, good.upstream(t, "ADDR")}, FailoverAfter: 250 * time.Millisecond,
			}})
			id := "upstream/" + bad.String()
			// the broken one is asked first until there is a state; the quickest counts, because a busy machine makes some of them late
			quickest := time.Hour
			eventually(t, "a state", func() bool {
				began := time.Now()
				r.want("a.test", dns.TypeA, "192.0.2.1")
				quickest = min(quickest, time.Since(began))
				return r.state(id) != ""
			})
			if quickest >= time.Second {
				t.Errorf("the other server's answer took %v; want less than a second", quickest)
			}
			if msg := r.state(id); !strings.Contains(msg, bad.String()) || !strings.Contains(msg, c.remedy) {
				t.Errorf("got state %q; want one with %q", msg, c.remedy)
			}
			if up := r.Upstreams(); !up[0].Failing || up[0].Err == nil {
				t.Errorf("got %+v; want the first failing", up)
			}
		})
	}
}

// TestRecovery has a server come back: it is tried beside the others, and its state goes.
func TestRecovery(t *testing.T) {
	noLeaks(t)
	truth := zoneReply(newZone(t, "a.test. 0 IN A 192.0.2.1"))
	first := plain(t, func(q *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeRefused) })
	second := plain(t, truth)
	r := with(t, first.upstream(t, "ADDR"), second.upstream(t, "ADDR"))
	for range 2 {
		r.want("a.test", dns.TypeA, "192.0.2.1")
	}
	id := "upstream/" + r.Settings().Upstreams[0].String()
	if r.state(id) == "" {
		t.Fatal("no state for a server that fails")
	}
	first.set(truth)
	second.set(func(q *dns.Msg, tcp bool) *dns.Msg {
		time.Sleep(50 * time.Millisecond) // farther away: of two equals, any may win
		return truth(q, tcp)
	})
	eventually(t, "recovered", func() bool {
		r.want("a.test", dns.TypeA, "192.0.2.1")
		return r.state(id) == "" && !r.Upstreams()[0].Failing
	})
}

// TestStateGoesWithServer removes a failing server from the settings.
func TestStateGoesWithServer(t *testing.T) {
	noLeaks(t)
	bad := plain(t, func(q *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeRefused) })
	good := plain(t, zoneReply(newZone(t, "a.test. 0 IN A 192.0.2.1")))
	r := with(t, bad.upstream(t, "ADDR"), good.upstream(t, "ADDR"))
	for range 3 {
		r.want("a.test", dns.TypeA, "192.0.2.1")
	}
	if len(r.states.All()) != 1 {
		t.Fatalf("got states %v; want one", r.states.All())
	}
	if err := r.Configure(nameserver.Settings{Upstreams: []nameserver.Upstream{good.upstream(t, "ADDR")}}); err != nil {
		t.Fatal(err)
	}
	if got := r.states.All(); len(got) != 0 {
		t.Errorf("got states %v; want none", got)
	}
}

// TestCutOffStream has a server cut an answer off where nothing has to be, whole and in the middle of a record: that is no answer.
func TestCutOffStream(t *testing.T) {
	noLeaks(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	defer served.Wait()
	defer l.Close()
	var missing atomic.Int64
	serve := func(c net.Conn) {
		defer c.Close()
		for in := (&dns.Conn{Conn: c}); ; {
			q, err := in.ReadMsg()
			if err != nil {
				return
			}
			m := new(dns.Msg).SetReply(q)
			m.Truncated = true
			m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 300 IN A 192.0.2.1")}
			b, err := m.Pack()
			if err != nil {
				return
			}
			if _, err := in.Write(b[:len(b)-int(missing.Load())]); err != nil {
				return
			}
		}
	}
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { serve(c) })
		}
	})
	r := with(t, parse(t, "tcp://"+l.Addr().String()))
	for i, name := range []string{"whole.test", "cut.test"} {
		missing.Store(int64(i))
		if m := r.ask(name, dns.TypeA); m.Rcode != dns.RcodeServerFailure || len(m.Answer) != 0 {
			t.Errorf("%s: got %v; want SERVFAIL", name, m)
		}
	}
}

// TestQuestionsThatServersRefuse has a program ask what a good server does not answer: that makes it no bad one.
func TestQuestionsThatServersRefuse(t *testing.T) {
	noLeaks(t)
	for _, c := range []struct {
		rcode   int
		qtype   uint16
		failing bool
	}{
		{dns.RcodeNotImplemented, dns.TypeANY, false}, {dns.RcodeFormatError, dns.TypeA, false}, {dns.RcodeRefused, dns.TypeANY, false},
		{dns.RcodeRefused, dns.TypeA, true},
	} {
		f := plain(t, func(q *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(q, c.rcode) })
		r := with(t, f.upstream(t, "ADDR"))
		for _, name := range []string{"a.test", "b.test", "c.test"} {
			r.ask(name, c.qtype)
		}
		if up := r.Upstreams()[0]; up.Failing != c.failing || up.Asked < 3 {
			t.Errorf("%s to %s: got %+v; want failing %t", dns.RcodeToString[c.rcode], dns.TypeToString[c.qtype], up, c.failing)
		}
	}
}

// TestAllFail has nobody answer: the client learns why, for a second from the cache.
func TestAllFail(t *testing.T) {
	noLeaks(t)
	bad := plain(t, func(q *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure) })
	r := with(t, bad.upstream(t, "ADDR"))
	m := r.ask("a.test", dns.TypeA)
	if m.Rcode != dns.RcodeServerFailure || !strings.Contains(edeText(m), "SERVFAIL") {
		t.Errorf("got %v; want SERVFAIL with a reason", m)
	}
	if len(r.states.All()) != 0 {
		t.Errorf("got states %v; SERVFAIL is the domain's trouble", r.states.All())
	}
	mute := with(t, parse(t, deadAddr(t).String()))
	s := mute.Settings()
	s.Timeout = 300 * time.Millisecond
	if err := mute.Configure(s); err != nil {
		t.Fatal(err)
	}
	if m := mute.ask("a.test", dns.TypeA); m.Rcode != dns.RcodeServerFailure || !strings.Contains(edeText(m), "no server") {
		t.Errorf("got %v; want SERVFAIL with a reason", m)
	}
}

// edeText returns the text of the extended error.
func edeText(m *dns.Msg) string {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return e.ExtraText
			}
		}
	}
	return ""
}

// TestStreamEnds has a server that closes connections after each answer, as they may.
func TestStreamEnds(t *testing.T) {
	noLeaks(t)
	z := newZone(t, "a.test. 0 IN A 192.0.2.1")
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conn := &dns.Conn{Conn: c}
			if q, err := conn.ReadMsg(); err == nil {
				_ = conn.WriteMsg(z.reply(q))
			}
			c.Close()
		}
	})
	r := with(t, parse(t, "tcp://"+l.Addr().String()))
	for range 20 {
		r.want("a.test", dns.TypeA, "192.0.2.1")
	}
}

// TestAnnounce: each socket is announced with the port that it sends from.
func TestAnnounce(t *testing.T) {
	noLeaks(t)
	cert, roots := certificate(t)
	truth := zoneReply(newZone(t, "a.test. 0 IN A 192.0.2.1"))
	for _, c := range []struct {
		format string
		f      *fake
		proto  packet.Protocol
	}{
		{"ADDR", plain(t, truth), packet.UDP},
		{"tcp://ADDR", plain(t, truth), packet.TCP},
		{"tls://ADDR", dot(t, cert, truth), packet.TCP},
		{"https://ADDR", doh(t, cert, 0, truth), packet.TCP},
	} {
		var mu sync.Mutex
		var announced, withdrawn []uint16
		r := run(t, nameserver.Config{
			RootCAs: roots,
			Withdraw: func(_ packet.Protocol, port uint16) {
				mu.Lock()
				defer mu.Unlock()
				withdrawn = append(withdrawn, port)
			},
			Announce: func(p packet.Protocol, port uint16) error {
				if p != c.proto {
					t.Errorf("%s: got %v; want %v", c.format, p, c.proto)
				}
				mu.Lock()
				defer mu.Unlock()
				announced = append(announced, port)
				return nil
			},
			Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{c.f.upstream(t, c.format)}, FailoverAfter: limit, Timeout: limit},
		})
		r.want("a.test", dns.TypeA, "192.0.2.1")
		mu.Lock()
		if len(announced) != 1 || announced[0] == 0 {
			t.Errorf("%s: got ports %v announced; want one", c.format, announced)
		}
		mu.Unlock()
		r.stop()
		mu.Lock()
		if !slices.Equal(withdrawn, announced) {
			t.Errorf("%s: got ports %v withdrawn; want %v", c.format, withdrawn, announced)
		}
		mu.Unlock()
	}
	// One that leads nowhere is taken back.
	var left atomic.Int64
	r := run(t, nameserver.Config{
		Announce: func(packet.Protocol, uint16) error { left.Add(1); return nil },
		Withdraw: func(packet.Protocol, uint16) { left.Add(-1) },
		Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{{Protocol: nameserver.PlainTCP, Addr: netip.MustParseAddrPort("127.0.0.1:1")}}},
	})
	r.want("a.test", dns.TypeA, "SERVFAIL")
	if n := left.Load(); n != 0 {
		t.Errorf("got %d announcements that hold; want none", n)
	}
	// One that may not be used is not.
	f := plain(t, truth)
	r = run(t, nameserver.Config{
		Announce: func(packet.Protocol, uint16) error { return net.ErrClosed },
		Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR"), f.upstream(t, "tcp://ADDR")}},
	})
	r.want("a.test", dns.TypeA, "SERVFAIL")
	if n := f.queries.Load(); n != 0 {
		t.Errorf("got %d queries; want none", n)
	}
}

// TestUpstreamsAreOthers: no upstream may be an address that is listened on. What is redirected is TestIntegrationRedirect's, and
// TestServersThatAskUsAreRefused's.
func TestUpstreamsAreOthers(t *testing.T) {
	noLeaks(t)
	if _, err := nameserver.New(nameserver.Config{Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{parse(t, nameserver.DefaultListen()[0].Addr().String())}}}); err == nil {
		t.Error("the nameserver may ask itself")
	}
	if _, err := nameserver.New(nameserver.Config{Settings: nameserver.Settings{
		Upstreams: []nameserver.Upstream{parse(t, "9.9.9.9")},
		Routes:    []nameserver.Route{{Domains: []string{"x.test"}, Upstreams: []nameserver.Upstream{parse(t, "tcp://[::1]")}}},
	}}); err == nil {
		t.Error("the nameserver may ask itself by a route")
	}
}

// TestSlowServer has one that answers after the next one was asked, but well within reason when nobody else does.
func TestSlowServer(t *testing.T) {
	noLeaks(t)
	f := plain(t, func(q *dns.Msg, _ bool) *dns.Msg {
		time.Sleep(200 * time.Millisecond)
		m := new(dns.Msg)
		m.SetReply(q)
		m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 0 IN A 192.0.2.1")}
		return m
	})
	r := with(t, f.upstream(t, "ADDR"), parse(t, deadAddr(t).String()))
	s := r.Settings()
	s.FailoverAfter = 50 * time.Millisecond
	if err := r.Configure(s); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r.want("a.test", dns.TypeA, "192.0.2.1")
	}
	if r.Upstreams()[0].Failing {
		t.Error("the only server that answers counts as failing")
	}
}
