package nameserver_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/nameserver"
)

// An address of IPv6 that this host cannot have is left out.
func TestHostWithoutIPv6(t *testing.T) {
	noLeaks(t)
	f := plain(t, zoneReply(newZone(t, "a.test. 300 IN A 192.0.2.1")))
	r := run(t, nameserver.Config{
		Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}},
		Listen:   []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::dead]:0"), netip.MustParseAddrPort("127.0.0.1:0")},
	})
	eventually(t, "listening", func() bool { return len(r.Addrs()) == 1 })
	r.addr = r.Addrs()[0].String()
	r.want("a.test", dns.TypeA, "192.0.2.1")
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
