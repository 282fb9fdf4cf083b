package netiftest_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/netif/netiftest"
)

// source is what a consumer would declare: the real thing and the fake must both fit.
type source interface {
	Snapshot() *netif.Snapshot
	Wait(ctx context.Context, old *netif.Snapshot) (*netif.Snapshot, error)
	Subscribe(fn func(*netif.Snapshot)) (unsubscribe func())
	Run(ctx context.Context, ready func()) error
}

var (
	_ source = (*netif.Watcher)(nil)
	_ source = (*netiftest.Source)(nil)
)

func TestSource(t *testing.T) {
	var s netiftest.Source
	if _, err := s.Snapshot().Pick("", netif.IPv4); err == nil {
		t.Error("pick without interfaces: got no error")
	}
	s.Set(t,
		[]netif.Interface{
			netiftest.Loopback(),
			netiftest.Ether(2, "eth0", "192.168.1.5/24", "2001:db8::5/64", "10.9.9.9/32"),
			netiftest.Tunnel(3, "wg0", "10.8.0.2/24"),
		},
		netiftest.Default(3, "10.8.0.1", 0),
		netiftest.Default(2, "192.168.1.1", 100),
		netiftest.Default(2, "fe80::1", 100),
	)
	c, err := s.Snapshot().Pick("", netif.IPv6)
	if err != nil || c.Interface.Name != "eth0" || c.Source != netip.MustParseAddr("2001:db8::5") {
		t.Errorf("pick: got %v, %v, %v; want eth0, 2001:db8::5", c.Interface.Name, c.Source, err)
	}
	if _, ok := s.Snapshot().Attached(netip.MustParseAddr("10.8.0.77")); !ok {
		t.Error("10.8.0.77: got not attached; want attached")
	}
}

func TestDown(t *testing.T) {
	up := netiftest.Ether(2, "eth0", "192.168.1.5/24")
	s := netiftest.Snapshot(t, []netif.Interface{netiftest.Down(up)})
	if i, _ := s.ByName("eth0"); i.Usable() || len(i.Addrs) != 1 || len(i.Networks) != 0 {
		t.Errorf("down: got %+v; want not usable, one address, no networks", i)
	}
	if !up.Usable() || len(up.Networks) != 1 {
		t.Errorf("Down changed its argument: %+v", up)
	}
}

type recorder struct{ failed string }

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) { r.failed = fmt.Sprintf(format, args...) }

func TestSetIsStrict(t *testing.T) {
	var r recorder
	netiftest.Snapshot(&r, []netif.Interface{netiftest.Ether(2, "a"), netiftest.Ether(2, "b")})
	if r.failed == "" {
		t.Error("two interfaces with one index: got no failure")
	}
}

func Example() {
	var s netiftest.Source
	s.Set(&recorder{},
		[]netif.Interface{netiftest.Loopback(), netiftest.Ether(2, "eth0", "192.168.1.5/24")},
		netiftest.Default(2, "192.168.1.1", 100))
	c, err := s.Snapshot().Pick("", netif.IPv4)
	fmt.Println(c.Interface.Name, c.Source, c.Default.Gateway, err)
	// Output: eth0 192.168.1.5 192.168.1.1 <nil>
}
