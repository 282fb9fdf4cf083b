package main

import (
	"net/netip"
	"testing"

	"github.com/weirfw/weir/pkg/ivpn"
	"github.com/weirfw/weir/pkg/packet"
)

func TestVPNSummary(t *testing.T) {
	endpoint := ivpn.Endpoint{Address: netip.MustParseAddrPort("192.0.2.1:2049"), Protocol: packet.UDP}
	for want, s := range map[string]ivpn.State{
		"connecting": {Phase: ivpn.PhaseConnecting, ServicePort: 5},
		"connected to version 3.16.0; no VPN connection": {Phase: ivpn.PhaseConnected, Version: "3.16.0"},
		"connected to version 3.16.0; VPN connected, WireGuard, endpoint udp 192.0.2.1:2049; its DNS is 127.0.0.1": {
			Phase: ivpn.PhaseConnected, Version: "3.16.0", Endpoint: endpoint, VPN: &ivpn.VPNConnected{Type: ivpn.WireGuard},
			DNS: netip.MustParseAddr("127.0.0.1"),
		},
		"connected to version 3; VPN paused, OpenVPN": {Phase: ivpn.PhaseConnected, Version: "3", VPN: &ivpn.VPNConnected{Paused: true}},
	} {
		if got := vpnSummary(&s); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}
