package nameserver_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/nameserver"
)

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
	f := dot(t, cert, func(q *dns.Msg, _ bool) *dns.Msg { return yes(t, q) })
	r := run(t, nameserver.Config{RootCAs: roots, Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "tls://ADDR")}}})
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprintf("n%d.test", i))
	}
	r.wantAll(names)()
	if n := f.dials.Load(); n != 1 {
		t.Errorf("got %d connections; want 1", n)
	}
}

func TestCoalescing(t *testing.T) {
	noLeaks(t)
	release := make(chan struct{})
	f := plain(t, func(q *dns.Msg, _ bool) *dns.Msg {
		<-release
		return yes(t, q)
	})
	r := run(t, nameserver.Config{Settings: nameserver.Settings{
		Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}, FailoverAfter: limit, Timeout: 2 * limit,
	}})
	wait := r.wantAll(slices.Repeat([]string{"a.test"}, 20))
	eventually(t, "19 have joined", func() bool { return r.Stats().Joined == 19 })
	close(release)
	wait()
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
