package testnet

import (
	"fmt"
	"net/netip"

	"github.com/weirfw/weir/internal/testutil"
)

// Addresses of Uplinks. Those of the client and of the routers that it sees are in a /24 and a /64.
const (
	VPNClientV4  = "10.8.0.2"     // the client on vpn0
	VPNClientV6  = "fd08::2"      // the client on vpn0
	VPNGatewayV4 = "10.8.0.1"     // the router behind vpn0
	VPNGatewayV6 = "fd08::1"      // the router behind vpn0
	ISPClientV4  = "192.168.50.2" // the client on eth0
	ISPClientV6  = "fd50::2"      // the client on eth0
	ISPGatewayV4 = "192.168.50.1" // the router behind eth0
	ISPGatewayV6 = "fd50::1"      // the router behind eth0

	UplinkServerV4      = "203.0.113.10"    // the server
	UplinkServerV6      = "2001:db8:5::10"  // the server
	UplinkOtherServerV4 = "203.0.113.11"    // the same server by another name
	UplinkOtherServerV6 = "2001:db8:5::11"  // the same server by another name
	uplinkServersV4     = "203.0.113.0/24"  // where the routers send what is for the server
	uplinkServersV6     = "2001:db8:5::/64" // where the routers send what is for the server
)

// MTU of vpn0, and metrics of the client's default routes in both families.
const (
	VPNMTU    = 1420
	VPNMetric = 50
	ISPMetric = 1000
)

// Uplinks is a client with two ways to one server: vpn0, which has the default route as that of a VPN would, and eth0, the
// physical one, whose default route has a worse metric. Behind each is a router that drops what comes from the client with a
// source address of another network, as Internet providers do: a packet that leaves by the right interface with the wrong
// address gets no answer.
//
// The routers' interfaces are named cl (to the client) and srv0, the server's vpnup and ispup.
type Uplinks struct {
	Client, VPN, ISP, Server *Host
}

// uplink describes one of the two ways.
type uplink struct {
	router             *Host
	iface              string // of the client
	client4, gateway4  string
	client6, gateway6  string
	network4, network6 string // of the client's cable
	metric             int
	server             string // the server's interface
	behind             string // network between router and server, without the last part: "10.80.0." and "fd80::"
	behind6            string
}

// Uplinks makes the hosts "client", "vpn", "isp" and "server" and joins them. When it returns, both ways work.
func (l *Lab) Uplinks() *Uplinks {
	l.t.Helper()
	testutil.RequireTool(l.t, "nft")
	u := &Uplinks{Client: l.Host("client"), VPN: l.Host("vpn"), ISP: l.Host("isp"), Server: l.Host("server")}
	for _, addr := range []string{UplinkServerV4 + "/32", UplinkOtherServerV4 + "/32"} {
		u.Server.Run(l.t, "ip", "address", "add", addr, "dev", "lo")
	}
	for _, addr := range []string{UplinkServerV6 + "/128", UplinkOtherServerV6 + "/128"} {
		u.Server.Run(l.t, "ip", "address", "add", addr, "dev", "lo", "nodad")
	}
	u.join(l, uplink{
		router: u.VPN, iface: "vpn0", metric: VPNMetric, server: "vpnup", behind: "10.80.0.", behind6: "fd80::",
		client4: VPNClientV4, gateway4: VPNGatewayV4, network4: "10.8.0.0/24",
		client6: VPNClientV6, gateway6: VPNGatewayV6, network6: "fd08::/64",
	})
	u.join(l, uplink{
		router: u.ISP, iface: "eth0", metric: ISPMetric, server: "ispup", behind: "10.50.0.", behind6: "fd51::",
		client4: ISPClientV4, gateway4: ISPGatewayV4, network4: "192.168.50.0/24",
		client6: ISPClientV6, gateway6: ISPGatewayV6, network6: "fd50::/64",
	})
	for host, iface := range map[*Host]string{u.Client: "vpn0", u.VPN: "cl"} {
		host.Run(l.t, "ip", "link", "set", iface, "mtu", fmt.Sprint(VPNMTU))
	}
	return u
}

// ingressFilter wants the networks of the client's cable.
const ingressFilter = `table inet ingress {
	chain forward {
		type filter hook forward priority 0
		iifname "cl" ip saddr != %s counter drop
		iifname "cl" ip6 saddr != %s counter drop
	}
}`

// join makes one way, router included.
func (u *Uplinks) join(l *Lab, w uplink) {
	t := l.t
	t.Helper()
	l.Link(u.Client, w.iface, Prefixes(w.client4+"/24", w.client6+"/64"), w.router, "cl", Prefixes(w.gateway4+"/24", w.gateway6+"/64"))
	l.Link(w.router, "srv0", Prefixes(w.behind+"1/24", w.behind6+"1/64"), u.Server, w.server, Prefixes(w.behind+"2/24", w.behind6+"2/64"))
	w.router.Forward(t)
	// At the router, so that the client's own rules and counters stay what the test makes them.
	w.router.Run(t, "nft", fmt.Sprintf(ingressFilter, w.network4, w.network6))
	for _, r := range []struct {
		host    *Host
		to, via string
		more    []string
	}{
		{w.router, uplinkServersV4, w.behind + "2", nil},
		{w.router, uplinkServersV6, w.behind6 + "2", nil},
		{u.Server, w.network4, w.behind + "1", nil},
		{u.Server, w.network6, w.behind6 + "1", nil},
		{u.Client, "default", w.gateway4, []string{"dev", w.iface, "metric", fmt.Sprint(w.metric)}},
		{u.Client, "default", w.gateway6, []string{"dev", w.iface, "metric", fmt.Sprint(w.metric)}},
	} {
		family := "-4"
		if netip.MustParseAddr(r.via).Is6() {
			family = "-6"
		}
		r.host.Run(t, "ip", append([]string{family, "route", "add", r.to, "via", r.via}, r.more...)...)
	}
}
