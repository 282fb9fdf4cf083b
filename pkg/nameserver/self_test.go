package nameserver_test

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/nameserver"
)

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
