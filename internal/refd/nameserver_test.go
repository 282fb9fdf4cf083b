package refd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
)

// nameserverDaemon is the part of a daemon that a nameserver needs.
func nameserverDaemon(t *testing.T, change func(*config.Loaded)) *Daemon {
	t.Helper()
	links, err := netif.New(netif.Config{})
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{log: slog.New(slog.DiscardHandler), links: links, cfg: &config.Loaded{File: config.Default()}}
	if d.processes, err = procinfo.New(procinfo.Config{}); err != nil {
		t.Fatal(err)
	}
	d.store = connstore.NewLive(connstore.Config{})
	d.cfg.DNS.Nameserver.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
	change(d.cfg)
	for _, build := range []func() error{d.buildNaming, d.buildConnectivity, d.buildSelfCheck, d.buildNameserver, d.buildGuard} {
		if err := build(); err != nil {
			t.Fatal(err)
		}
	}
	q := d.nameserver.queries
	q.handler, q.guard, q.passes = &opinion{}, d.dns.Guard, d.online.passesName
	return d
}

func enabled(c *config.Loaded) { c.DNS.Nameserver.Upstreams = []string{"192.0.2.1"} }

func TestNameserverListensWhileEnabled(t *testing.T) {
	testutil.NoLeaks(t)
	d := nameserverDaemon(t, enabled)
	n := &d.nameserver
	if err := n.module.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.module.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	listening := func(want bool) {
		t.Helper()
		for limit := time.Now().Add(20 * time.Second); (len(n.figures().Addresses) > 0) != want; time.Sleep(time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("got %+v; want listening %v", n.figures(), want)
			}
		}
	}
	listening(true)
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, network, n.figures().Addresses[0].String())
	}}
	_, err := resolver.LookupNetIP(t.Context(), "ip", "name.invalid.")
	if e := (*net.DNSError)(nil); !errors.As(err, &e) || !e.IsNotFound {
		t.Errorf("got %v; want that it does not exist", err)
	}
	ctx := t.Context()
	if n, err := (backend{d}).DNSFlush(ctx, api.DNSRequest{}); err != nil || n.Answers != 0 {
		t.Errorf("got %v, %v; want nothing to forget", n, err)
	}
	if _, err := (backend{d}).DNSFlush(ctx, api.DNSRequest{Domain: strings.Repeat("a", 64) + ".test"}); !errors.Is(err, api.ErrRefused) {
		t.Errorf("got %v; want a refusal: that is no name", err)
	}
	if list, err := (backend{d}).DNSCache(ctx, api.DNSRequest{}); err != nil || list == nil || len(list) != 0 {
		t.Errorf("got %v, %v; want an empty list", list, err)
	}
	cfg := d.cfg.DNS.Nameserver
	cfg.Upstreams = nil
	if err := n.reload(&cfg); err != nil {
		t.Fatal(err)
	}
	listening(false)
	if n.figures().Enabled {
		t.Error("got enabled without servers")
	}
	cfg.Upstreams = []string{"192.0.2.2"}
	if err := n.reload(&cfg); err != nil {
		t.Fatal(err)
	}
	listening(true)
	cfg.Upstreams = []string{"192.0.2.2", "192.0.2.2"}
	if err := n.reload(&cfg); err == nil || len(n.figures().Upstreams) != 1 {
		t.Errorf("got %v; want an error, and the old servers", err)
	}
}

func notVPN(*conn.Snapshot) bool { return false }

func TestWhatIsRedirected(t *testing.T) {
	testutil.NoLeaks(t)
	d := nameserverDaemon(t, enabled)
	n := &d.nameserver
	query := conn.Snapshot{Direction: packet.Outbound, Scope: netscope.Global, Tuple: packet.Tuple{
		Protocol: packet.UDP, Local: netip.MustParseAddrPort("192.0.2.9:5000"), Remote: netip.MustParseAddrPort("192.0.2.1:53"),
	}}
	if n.takes(&query, notVPN) {
		t.Error("redirected, and nobody listens")
	}
	if err := n.module.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.module.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	for limit := time.Now().Add(20 * time.Second); len(n.server.Addrs()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("does not listen")
		}
	}
	for name, tt := range map[string]struct {
		change func(*conn.Snapshot)
		want   bool
	}{
		"udp":  {func(*conn.Snapshot) {}, true},
		"tcp":  {func(s *conn.Snapshot) { s.Tuple.Protocol = packet.TCP }, true},
		"lan":  {func(s *conn.Snapshot) { s.Scope = netscope.Site }, true},
		"sctp": {func(s *conn.Snapshot) { s.Tuple.Protocol = 132 }, false},
		"port": {func(s *conn.Snapshot) { s.Tuple.Remote = netip.MustParseAddrPort("192.0.2.1:853") }, false},
		"stub": {func(s *conn.Snapshot) { s.Scope = netscope.Host }, false},
		"link": {func(s *conn.Snapshot) { s.Scope = netscope.Link }, false},
		"no ipv6": {func(s *conn.Snapshot) {
			s.Tuple.Remote = netip.MustParseAddrPort("[2001:db8::1]:53")
			s.Tuple.Local = netip.MustParseAddrPort("[2001:db8::9]:5")
		}, false},
		"seamless": {func(*conn.Snapshot) { n.seamless.Store(false); d.steer() }, false},
	} {
		s := query
		n.seamless.Store(true)
		d.steer()
		tt.change(&s)
		if got := n.takes(&s, notVPN); got != tt.want {
			t.Errorf("%s: got %v; want %v", name, got, tt.want)
		}
	}
	if to, ok := n.queries.askers.redirected.meant(packet.TCP, query.Tuple.Local); !ok || to != query.Tuple.Remote {
		t.Errorf("got %v, %v; want whom it was taken from", to, ok)
	}
	var fc firewall.Config
	n.configure(&fc, d.cfg.DNS.Nameserver.Listen, notVPN)
	if len(fc.Services) != 2 || fc.ToNameserver == nil {
		t.Errorf("got %+v; want a service over UDP and TCP", fc.Services)
	}
}

func TestDisabledNameserver(t *testing.T) {
	d := nameserverDaemon(t, func(*config.Loaded) {})
	n := &d.nameserver
	if f := n.figures(); f.Enabled || len(f.Addresses) != 0 {
		t.Errorf("got %+v without servers to ask", f)
	}
	_, errCache := (backend{d}).DNSCache(t.Context(), api.DNSRequest{})
	_, errFlush := (backend{d}).DNSFlush(t.Context(), api.DNSRequest{})
	_, errQuery := (backend{d}).DNSQuery(t.Context(), api.DNSQueryRequest{Name: "a.test"})
	for _, err := range []error{errCache, errFlush, errQuery} {
		if !errors.Is(err, api.ErrRefused) {
			t.Errorf("got %v; want a refusal", err)
		}
	}
	var fc firewall.Config
	n.configure(&fc, d.cfg.DNS.Nameserver.Listen, notVPN)
	if fc.ToNameserver == nil || fc.ToNameserver(to("198.51.100.1:53", "")) {
		t.Error("redirected, and nobody listens")
	}
	cfg := d.cfg.DNS.Nameserver
	cfg.Upstreams = []string{"192.0.2.1"}
	if err := n.reload(&cfg); err != nil || !n.server.Enabled() {
		t.Errorf("got %v, enabled %v; want it enabled without a restart", err, n.server.Enabled())
	}
}

func TestCacheEntries(t *testing.T) {
	e := entryOf(&nameserver.CacheEntry{Name: "a.test", Type: 28, Left: time.Minute, Answer: nameserver.Answer{
		CNAMEs: []string{"b.test"}, Addrs: []netip.Addr{netip.MustParseAddr("2001:db8::1")},
	}})
	if e.Name != "a.test" || e.Type != "AAAA" || e.RCode != "NOERROR" || e.Left != time.Minute || e.CNAMEs[0] != "b.test" || e.Addresses[0] != "2001:db8::1" {
		t.Errorf("got %+v", e)
	}
	for n, want := range map[int]string{2: "SERVFAIL", 3: "NXDOMAIN", 9: "NOTAUTH", 99: "RCODE 99"} {
		if got := dnsmon.RCodeName(n); got != want {
			t.Errorf("got %s; want %s", got, want)
		}
	}
}
