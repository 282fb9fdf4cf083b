package refd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/netif"
)

// nameserverDaemon is the part of a daemon that a nameserver needs.
func nameserverDaemon(t *testing.T, change func(*config.Loaded)) *Daemon {
	t.Helper()
	links, err := netif.New(netif.Config{})
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{log: slog.New(slog.DiscardHandler), links: links, cfg: &config.Loaded{File: config.Default()}}
	d.cfg.DNS.Nameserver.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
	change(d.cfg)
	if err := d.buildNameserver(); err != nil {
		t.Fatal(err)
	}
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
	cfg := d.cfg.DNS.Nameserver
	cfg.Upstreams = nil
	if restart, err := n.reload(&cfg); restart || err != nil {
		t.Fatal(restart, err)
	}
	listening(false)
	if n.figures().Enabled {
		t.Error("got enabled without servers")
	}
	cfg.Upstreams = []string{"192.0.2.2"}
	if restart, err := n.reload(&cfg); restart || err != nil {
		t.Fatal(restart, err)
	}
	listening(true)
	cfg.Upstreams = []string{"192.0.2.2", "192.0.2.2"}
	if _, err := n.reload(&cfg); err == nil || len(n.figures().Upstreams) != 1 {
		t.Errorf("got %v; want an error, and the old servers", err)
	}
}

func TestNoNameserver(t *testing.T) {
	d := nameserverDaemon(t, func(*config.Loaded) {})
	n := &d.nameserver
	if n.server != nil || n.module != nil || n.figures() != nil {
		t.Error("got a nameserver without servers to ask")
	}
	cfg := d.cfg.DNS.Nameserver
	if restart, err := n.reload(&cfg); restart || err != nil {
		t.Error(restart, err)
	}
	cfg.Upstreams = []string{"192.0.2.1"}
	if restart, err := n.reload(&cfg); !restart || err != nil {
		t.Errorf("got %v, %v; want a restart", restart, err)
	}
}
