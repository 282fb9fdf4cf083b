package nameserver_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/nameserver"
)

func zoneReply(z *zone) respond { return func(q *dns.Msg, _ bool) *dns.Msg { return z.reply(q) } }

func TestForward(t *testing.T) {
	noLeaks(t)
	z := newZone(t,
		"a.test. 300 IN A 192.0.2.1", "a.test. 300 IN AAAA 2001:db8::1",
		"alias.test. 200 IN CNAME a.test.", "b.test. 300 IN TXT x",
		"svc.test. 300 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.9",
	)
	cert, roots := certificate(t)
	for _, c := range []struct {
		name, format string
		fake         *fake
	}{
		{"UDP", "udp://ADDR", plain(t, zoneReply(z))},
		{"TCP", "tcp://ADDR", plain(t, zoneReply(z))},
		{"DoT", "tls://ADDR", dot(t, cert, zoneReply(z))},
		{"DoT by name", "tls://ADDR#example.com", dot(t, cert, zoneReply(z))},
		{"DoH", "https://ADDR", doh(t, cert, 0, zoneReply(z))},
		{"DoH by name", "https://ADDR/dns-query#example.com", doh(t, cert, 0, zoneReply(z))},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := run(t, nameserver.Config{
				RootCAs: roots, Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{c.fake.upstream(t, c.format)}},
			})
			for range 2 { // the second time from the cache
				r.want("a.test", dns.TypeA, "192.0.2.1")
				r.want("A.TeSt", dns.TypeAAAA, "2001:db8::1")
				r.want("alias.test", dns.TypeA, "192.0.2.1")
				r.want("nx.test", dns.TypeA, "NXDOMAIN")
				r.want("b.test", dns.TypeA, "NOERROR")
				r.want("svc.test", dns.TypeHTTPS, `1 . alpn="h2" ipv4hint="192.0.2.9"`)
			}
			if n := c.fake.queries.Load(); n != 6 {
				t.Errorf("got %d queries; want 6, and the rest from the cache", n)
			}
			if st := r.Stats(); st.Hits != 6 || st.Misses != 6 || st.Cached != 6 {
				t.Errorf("got %+v; want 6 hits, misses, cached", st)
			}
			if up := r.Upstreams(); len(up) != 1 || up[0].Failing || up[0].Good != 6 {
				t.Errorf("got %+v; want one good server", up)
			}
			if len(r.states.All()) != 0 {
				t.Errorf("got states %v", r.states.All())
			}
		})
	}
}

// TestStreamIsShared asks much at a time over one connection.
func TestStreamIsShared(t *testing.T) {
	noLeaks(t)
	cert, roots := certificate(t)
	f := dot(t, cert, func(q *dns.Msg, _ bool) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 300 IN A 192.0.2.1")}
		return m
	})
	r := run(t, nameserver.Config{RootCAs: roots, Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "tls://ADDR")}}})
	done := make(chan string)
	for i := range 50 {
		go func() { done <- first(r.ask("n"+string(rune('a'+i%26))+string(rune('a'+i/26))+".test", dns.TypeA)) }()
	}
	for range 50 {
		if got := <-done; got != "192.0.2.1" {
			t.Errorf("got %q; want 192.0.2.1", got)
		}
	}
	if n := f.dials.Load(); n != 1 {
		t.Errorf("got %d connections; want 1", n)
	}
}

func TestCoalescing(t *testing.T) {
	noLeaks(t)
	release := make(chan struct{})
	f := plain(t, func(q *dns.Msg, _ bool) *dns.Msg {
		<-release
		m := new(dns.Msg)
		m.SetReply(q)
		m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 300 IN A 192.0.2.1")}
		return m
	})
	r := run(t, nameserver.Config{Settings: nameserver.Settings{
		Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}, FailoverAfter: limit, Timeout: 2 * limit,
	}})
	done := make(chan string)
	for range 20 {
		go func() { done <- first(r.ask("a.test", dns.TypeA)) }()
	}
	eventually(t, "19 have joined", func() bool { return r.Stats().Joined == 19 })
	close(release)
	for range 20 {
		if got := <-done; got != "192.0.2.1" {
			t.Errorf("got %q; want 192.0.2.1", got)
		}
	}
	if n := f.queries.Load(); n != 1 {
		t.Errorf("got %d queries; want 1", n)
	}
}

func TestRoutes(t *testing.T) {
	noLeaks(t)
	world := plain(t, zoneReply(newZone(t, "www.corp.test. 60 IN A 192.0.2.1", "a.test. 60 IN A 192.0.2.2", "xcorp.test. 60 IN A 192.0.2.3")))
	corp := plain(t, zoneReply(newZone(t, "www.corp.test. 60 IN A 10.0.0.1", "corp.test. 60 IN A 10.0.0.2")))
	lab := plain(t, zoneReply(newZone(t, "x.lab.corp.test. 60 IN A 10.0.0.3")))
	r := run(t, nameserver.Config{Settings: nameserver.Settings{
		Upstreams: []nameserver.Upstream{world.upstream(t, "ADDR")},
		Routes: []nameserver.Route{
			{Domains: []string{".Corp.test."}, Upstreams: []nameserver.Upstream{corp.upstream(t, "ADDR")}},
			{Domains: []string{"lab.corp.test"}, Upstreams: []nameserver.Upstream{lab.upstream(t, "tcp://ADDR")}},
		},
	}})
	r.want("www.corp.test", dns.TypeA, "10.0.0.1")
	r.want("corp.test", dns.TypeA, "10.0.0.2")
	r.want("x.lab.corp.test", dns.TypeA, "10.0.0.3")
	r.want("a.test", dns.TypeA, "192.0.2.2")
	r.want("xcorp.test", dns.TypeA, "192.0.2.3")
	// Nobody else is asked when a route's servers fail.
	before := world.queries.Load()
	corp.set(func(q *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure) })
	r.want("other.corp.test", dns.TypeA, "SERVFAIL")
	if n := world.queries.Load(); n != before {
		t.Errorf("got %d queries at the other server; want none", n-before)
	}
}

func TestDisabledAndConfigure(t *testing.T) {
	noLeaks(t)
	z := newZone(t, "a.test. 300 IN A 192.0.2.1")
	f := plain(t, zoneReply(z))
	told := make(chan []netip.AddrPort, 100)
	r := run(t, nameserver.Config{OnListen: func(addrs []netip.AddrPort) { told <- addrs }})
	if r.Enabled() || len(r.Addrs()) != 0 {
		t.Errorf("without upstreams: got enabled %v, listening on %v", r.Enabled(), r.Addrs())
	}
	if _, err := r.Lookup(t.Context(), "a.test", nameserver.Type(dns.TypeA)); !errors.Is(err, nameserver.ErrDisabled) {
		t.Errorf("lookup: got %v; want ErrDisabled", err)
	}
	enable := func(s nameserver.Settings) {
		t.Helper()
		if err := r.Configure(s); err != nil {
			t.Fatal(err)
		}
		eventually(t, "listening", func() bool { return len(r.Addrs()) == 1 })
		r.addr = r.Addrs()[0].String()
	}
	for range 3 {
		enable(nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}})
		if !r.Enabled() {
			t.Error("got disabled")
		}
		if got := <-told; !slices.Equal(got, r.Addrs()) {
			t.Errorf("got %v; want to be told %v", got, r.Addrs())
		}
		r.want("a.test", dns.TypeA, "192.0.2.1")
		if err := r.Configure(nameserver.Settings{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "no longer listening", func() bool { return len(r.Addrs()) == 0 })
		if got := <-told; len(got) != 0 {
			t.Errorf("got %v; want to be told of the end", got)
		}
	}

	// A change of servers: nothing of the old one is remembered.
	enable(nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}})
	r.want("a.test", dns.TypeA, "192.0.2.1")
	other := plain(t, zoneReply(newZone(t, "a.test. 300 IN A 192.0.2.99")))
	enable(nameserver.Settings{Upstreams: []nameserver.Upstream{other.upstream(t, "tcp://ADDR")}})
	r.want("a.test", dns.TypeA, "192.0.2.99")

	if err := r.Configure(nameserver.Settings{Upstreams: []nameserver.Upstream{{}}}); !errors.Is(err, nameserver.ErrConfig) {
		t.Errorf("got %v; want ErrConfig", err)
	}
	r.want("a.test", dns.TypeA, "192.0.2.99")
}

// TestConfigureUnderWay changes the servers while a query waits for one that says nothing.
func TestConfigureUnderWay(t *testing.T) {
	noLeaks(t)
	mute := plain(t, func(*dns.Msg, bool) *dns.Msg { return nil })
	f := plain(t, zoneReply(newZone(t, "a.test. 300 IN A 192.0.2.1")))
	r := run(t, nameserver.Config{Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{mute.upstream(t, "tcp://ADDR")}, Timeout: limit}})
	got := make(chan string)
	go func() { got <- first(r.ask("a.test", dns.TypeA)) }()
	eventually(t, "asked", func() bool { return mute.queries.Load() > 0 })
	if err := r.Configure(nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}}); err != nil {
		t.Fatal(err)
	}
	if g := <-got; g != "192.0.2.1" {
		t.Errorf("got %q; want the new server's answer", g)
	}
}

func TestRunTwice(t *testing.T) {
	noLeaks(t)
	f := plain(t, zoneReply(newZone(t, "a.test. 300 IN A 192.0.2.1")))
	r := with(t, f.upstream(t, "tcp://ADDR"))
	r.want("a.test", dns.TypeA, "192.0.2.1")
	if err := r.Run(t.Context(), nil); !errors.Is(err, nameserver.ErrRunning) {
		t.Errorf("got %v; want ErrRunning", err)
	}
	r.stop()
	if _, err := r.Lookup(t.Context(), "a.test", 1); !errors.Is(err, nameserver.ErrStopped) {
		t.Errorf("got %v; want ErrStopped", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- r.Run(ctx, func() { close(ready) }) }()
	<-ready
	r.Flush()
	r.addr = r.Addrs()[0].String()
	r.want("a.test", dns.TypeA, "192.0.2.1")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestListenTaken(t *testing.T) {
	noLeaks(t)
	f := plain(t, zoneReply(newZone(t)))
	first := with(t, f.upstream(t, "ADDR"))
	taken := netip.MustParseAddrPort(first.addr)
	states := first.states
	s, err := nameserver.New(nameserver.Config{
		Listen: []netip.AddrPort{taken}, States: states, Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), func() { t.Error("ready") }); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v; want that the address is in use", err)
	}
	if msg := first.state("listen"); !strings.Contains(msg, taken.String()) {
		t.Errorf("got state %q; want the address", msg)
	}
}

func TestLookupCacheFlush(t *testing.T) {
	noLeaks(t)
	f := plain(t, zoneReply(newZone(t, "a.test. 300 IN A 192.0.2.1", "alias.test. 200 IN CNAME a.test.", "x.a.test. 300 IN A 192.0.2.2")))
	r := with(t, f.upstream(t, "ADDR"))
	reply, err := r.Lookup(t.Context(), "ALIAS.test.", nameserver.Type(dns.TypeA))
	if err != nil {
		t.Fatal(err)
	}
	a := reply.Answer
	if len(a.Addrs) != 1 || a.Addrs[0].String() != "192.0.2.1" || len(a.CNAMEs) != 1 || a.CNAMEs[0] != "a.test" ||
		a.Upstream != r.Settings().Upstreams[0].String() || reply.Source != nameserver.FromUpstream ||
		reply.TTL > 200*time.Second || reply.TTL < 100*time.Second {
		t.Errorf("got %+v of %+v", a, reply)
	}
	if reply, err = r.Lookup(t.Context(), "nx.test", nameserver.Type(dns.TypeA)); err != nil || reply.Answer.RCode != dns.RcodeNameError {
		t.Errorf("got %+v, %v; want NXDOMAIN", reply, err)
	}
	if _, err = r.Lookup(t.Context(), "x.a.test", nameserver.Type(dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Lookup(t.Context(), "bad..name", 1); !errors.Is(err, nameserver.ErrConfig) {
		t.Errorf("got %v; want ErrConfig", err)
	}
	var names []string
	for _, e := range r.Cache() {
		names = append(names, e.Name+" "+e.Type.String())
	}
	if got := strings.Join(names, ", "); got != "alias.test A, nx.test A, x.a.test A" {
		t.Errorf("got %s", got)
	}
	if n, err := r.FlushDomain("a.test"); n != 1 || err != nil {
		t.Errorf("flush a.test: got %d, %v; want 1", n, err)
	}
	if n := r.Flush(); n != 2 {
		t.Errorf("flush: got %d; want 2", n)
	}
	if st := r.Stats(); st.Cached != 0 || st.CacheBytes != 0 {
		t.Errorf("got %+v; want an empty cache", st)
	}
}

func TestLocalNames(t *testing.T) {
	noLeaks(t)
	f := plain(t, zoneReply(newZone(t, "use-application-dns.net. 60 IN A 192.0.2.1")))
	r := run(t, nameserver.Config{
		HostName: "Workstation", HostAddrs: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("10.1.2.3")} },
		Own: func(q nameserver.Query) ([]netip.Addr, bool) {
			return []netip.Addr{nameserver.SinkholeV4, nameserver.SinkholeV6}, q.Name == "check.weir.internal"
		},
		Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}, RefuseCanary: true},
	})
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"localhost", dns.TypeA, "127.0.0.1"},
		{"LocalHost", dns.TypeAAAA, "::1"},
		{"x.localhost", dns.TypeA, "127.0.0.1"},
		{"localhost", dns.TypeMX, "NOERROR"},
		{"workstation", dns.TypeA, "10.1.2.3"},
		{"workstation", dns.TypeAAAA, "NOERROR"},
		{"check.weir.internal", dns.TypeA, "0.0.0.17"},
		{"check.weir.internal", dns.TypeAAAA, "::17"},
		{"a.invalid", dns.TypeA, "NXDOMAIN"},
		{"a.onion", dns.TypeA, "NXDOMAIN"},
		{"1.0.0.127.in-addr.arpa", dns.TypePTR, "localhost."},
		{"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa", dns.TypePTR, "localhost."},
		{"1.0.0.127.in-addr.arpa", dns.TypeTXT, "NOERROR"},
		{nameserver.Canary, dns.TypeA, "NXDOMAIN"},
	} {
		r.want(c.name, c.qtype, c.want)
	}
	if n := f.queries.Load(); n != 0 {
		t.Errorf("got %d queries; want none to leave the host", n)
	}
	s := r.Settings()
	s.RefuseCanary = false
	if err := r.Configure(s); err != nil {
		t.Fatal(err)
	}
	r.want(nameserver.Canary, dns.TypeA, "192.0.2.1")
}

func TestRebindProtection(t *testing.T) {
	noLeaks(t)
	// The server's address is this host's, so protection spares it; Global servers are tested inside the package.
	f := plain(t, zoneReply(newZone(t, "router.test. 60 IN A 192.168.0.1")))
	r := run(t, nameserver.Config{Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}, RebindProtection: true}})
	r.want("router.test", dns.TypeA, "192.168.0.1")
}
