package nfq

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestAllowRoutesRefuses(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range []map[uint8]string{{MaxRoute + 1: "eth0"}, {0: ""}, {0: strings.Repeat("x", 16)}} {
		if err := s.AllowRoutes(names); !errors.Is(err, ErrBadConfig) {
			t.Errorf("%v: got %v; want ErrBadConfig", names, err)
		}
	}
	if err := s.AllowRoutes(map[uint8]string{0: "eth0", MaxRoute: strings.Repeat("x", 15)}); err != nil {
		t.Error(err)
	}
}

// testGuard checks that a split connection leaves by its route's interface and by no other, whatever the routing rules say.
func testGuard(t *testing.T, r *rig) {
	r.cfg.Redirects = Redirects{RouteSplitTun: true}
	h, stop := r.sourceOf(t, &markPolicy{trafficLog: newTrafficLog(), seen: map[uint16]int{}})
	defer stop()
	eachFamily(t, func(t *testing.T, f family) {
		r.peer.UDPEcho(t, netip.AddrPortFrom(serverAddr(f), splitPort).String())
		for _, tt := range []struct {
			routes map[uint8]string
			want   outcome
		}{
			{nil, silence},
			{map[uint8]string{0: "eth0"}, answered},
			{map[uint8]string{0: "eth1", 1: "eth0"}, silence},
			{map[uint8]string{0: "eth0", 1: "eth1"}, answered},
			{map[uint8]string{}, silence},
		} {
			if err := h.allowRoutes(tt.routes); err != nil {
				t.Fatal(err)
			}
			wait := shortly
			if tt.want == answered {
				wait = patience
			}
			got, _ := talk((&net.Dialer{}).DialContext, "udp", netip.AddrPortFrom(serverAddr(f), splitPort), wait)
			if got != tt.want {
				t.Errorf("%v: got %s; want %s", tt.routes, got, tt.want)
			}
		}
	})
}
