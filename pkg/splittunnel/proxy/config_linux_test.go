package proxy_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/splittunnel/proxy"
)

func TestNew(t *testing.T) {
	addr := func(s string) []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(s)} }
	for _, c := range []struct {
		name string
		cfg  proxy.Config
		want string // part of the error; "" for none
	}{
		{"defaults", proxy.Config{}, ""},
		{"own addresses", proxy.Config{Listen: addr("127.0.0.1:1")}, ""},
		{"wildcard", proxy.Config{Listen: addr("0.0.0.0:719")}, "exact address"},
		{"wildcard IPv6", proxy.Config{Listen: addr("[::]:719")}, "exact address"},
		{"multicast", proxy.Config{Listen: addr("224.0.0.1:719")}, "exact address"},
		{"mapped", proxy.Config{Listen: addr("[::ffff:127.0.0.1]:719")}, "exact address"},
		{"zone", proxy.Config{Listen: addr("[fe80::1%lo]:719")}, "exact address"},
		{"no port", proxy.Config{Listen: addr("127.0.0.1:0")}, "a port"},
		{"no address", proxy.Config{Listen: []netip.AddrPort{{}}}, "an address"},
		{"twice", proxy.Config{Listen: append(addr("127.0.0.1:1"), addr("127.0.0.1:1")...)}, "twice"},
		{"too many", proxy.Config{Listen: make([]netip.AddrPort, 17)}, "at most 16"},
		{"loops", proxy.Config{Loops: -1}, "Loops"},
		{"MaxTCP", proxy.Config{MaxTCP: -1}, "MaxTCP"},
		{"MaxUDP", proxy.Config{MaxUDP: -1}, "MaxUDP"},
		{"TCPIdle", proxy.Config{TCPIdle: -1}, "TCPIdle"},
		{"UDPIdle", proxy.Config{UDPIdle: -1}, "UDPIdle"},
		{"ConnectTimeout", proxy.Config{ConnectTimeout: -1}, "ConnectTimeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Director = &director{}
			_, err := proxy.New(c.cfg)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got error %v; want %q", err, c.want)
			}
		})
	}
	if _, err := proxy.New(proxy.Config{}); err == nil {
		t.Error("no director: got no error")
	}
}

// TestNotRunning calls what waits for loops when there are none.
func TestNotRunning(t *testing.T) {
	s, err := proxy.New(proxy.Config{Director: &director{}})
	if err != nil {
		t.Fatal(err)
	}
	s.Reset(proxy.Request{Protocol: packet.TCP})
	s.Verify(netip.MustParseAddrPort("10.0.0.1:1"))
	if got := s.Sessions(); len(got) != 0 {
		t.Errorf("got sessions %v", got)
	}
	if n, err := s.Cut(t.Context(), func(proxy.Request, proxy.Egress) bool { return true }); n != 0 || err != nil {
		t.Errorf("Cut: got %d, %v", n, err)
	}
	if got := s.Stats(); len(got.Listen) != 0 || got.TCP != (proxy.TCPStats{}) || got.UDP != (proxy.UDPStats{}) {
		t.Errorf("got %+v; want zeros", got)
	}
}

func TestVerifyAllocatesNothing(t *testing.T) {
	s, err := proxy.New(proxy.Config{Director: &director{}})
	if err != nil {
		t.Fatal(err)
	}
	client := netip.MustParseAddrPort("[2001:db8::1]:1")
	if n := testing.AllocsPerRun(100, func() { s.Verify(client) }); n != 0 {
		t.Errorf("got %v allocations; want 0", n)
	}
}

func TestNewEngine(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  proxy.EngineConfig
	}{
		{"director", proxy.EngineConfig{Server: proxy.Config{Director: &director{}}}},
		{"pending time", proxy.EngineConfig{PendingTime: -time.Second}},
		{"max pending", proxy.EngineConfig{MaxPending: -1}},
		{"server", proxy.EngineConfig{Server: proxy.Config{Loops: -1}}},
	} {
		if _, err := proxy.NewEngine(c.cfg); err == nil || errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: got error %v; want one about the configuration", c.name, err)
		}
	}
}
