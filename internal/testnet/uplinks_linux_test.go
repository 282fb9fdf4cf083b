package testnet_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
)

// TestIntegrationUplinks: the default way is vpn0, eth0 works for those who have its address and its route, and its router
// drops what has the address of vpn0.
func TestIntegrationUplinks(t *testing.T) {
	u := testnet.New(t).Uplinks()
	echo := u.Server.TCPEcho(t, "[::]:7")
	for _, tt := range []struct {
		name, server, other, vpn, isp, gateway, family string
	}{
		{"IPv4", testnet.UplinkServerV4, testnet.UplinkOtherServerV4, testnet.VPNClientV4, testnet.ISPClientV4, testnet.ISPGatewayV4, "-4"},
		{"IPv6", testnet.UplinkServerV6, testnet.UplinkOtherServerV6, testnet.VPNClientV6, testnet.ISPClientV6, testnet.ISPGatewayV6, "-6"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			vpn, isp := sniffTo(t, u, tt.server)
			if got := dialed(t, u, nil, tt.server, 5*time.Second); got != tt.vpn {
				t.Errorf("by default connected from %q; want %q", got, tt.vpn)
			}
			if vpn.Count() == 0 || isp.Count() != 0 {
				t.Errorf("got %d packets on vpn0 and %d on eth0; want all on vpn0", vpn.Count(), isp.Count())
			}
			vpn, isp = sniffTo(t, u, tt.other)
			u.Client.Run(t, "ip", tt.family, "route", "add", tt.other, "via", tt.gateway, "dev", "eth0")
			if got := dialed(t, u, nil, tt.other, 5*time.Second); got != tt.isp {
				t.Errorf("by eth0 connected from %q; want %q", got, tt.isp)
			}
			wrong := &net.TCPAddr{IP: net.ParseIP(tt.vpn)}
			if got := dialed(t, u, wrong, tt.other, 300*time.Millisecond); got != "" {
				t.Errorf("by eth0 with the address of vpn0: connected from %q; want no connection", got)
			}
			if isp.Count() == 0 || vpn.Count() != 0 {
				t.Errorf("got %d packets on eth0 and %d on vpn0; want all on eth0", isp.Count(), vpn.Count())
			}
		})
	}
	if got := echo.Accepted(); got != 4 {
		t.Errorf("the server accepted %d connections; want 4", got)
	}
}

// sniffTo counts what leaves the client for an address of the server.
func sniffTo(t *testing.T, u *testnet.Uplinks, server string) (vpn, isp *testnet.Sniffer) {
	t.Helper()
	addr := netip.MustParseAddr(server)
	to := testnet.Filter{Dst: netip.PrefixFrom(addr, addr.BitLen()), Direction: testnet.Outgoing}
	return u.Client.Sniff(t, "vpn0", to), u.Client.Sniff(t, "eth0", to)
}

// dialed connects and returns the local address; "" if that fails.
func dialed(t *testing.T, u *testnet.Uplinks, from net.Addr, server string, limit time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c, err := u.Client.DialFrom(ctx, "tcp", from, net.JoinHostPort(server, "7"))
	if err != nil {
		t.Logf("dial: %v", err)
		return ""
	}
	defer func() { _ = c.Close() }() // it is only there to be looked at
	addr, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return addr.Addr().String()
}
