package refd

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/packet"
)

func TestNetworkServers(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	stub := write("stub", "# by systemd\nnameserver 127.0.0.53\noptions edns0\n")
	uplink := write("uplink", "search lan\nnameserver 192.168.1.1\nnameserver 192.168.1.1\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\nnameserver\nnameserver x\n")
	other := write("other", "nameserver 10.0.0.1\n")
	const want = "[udp://192.168.1.1 udp://[2001:db8::53]]"
	if got := fmt.Sprint(networkServers(resolversIn(filepath.Join(dir, "none"), stub, uplink, other))); got != want {
		t.Errorf("got %s; want %s", got, want)
	}
	if got := networkServers(resolversIn(stub)); got != nil {
		t.Errorf("got %v; want none: that is this host", got)
	}
}

func TestDetour(t *testing.T) {
	upstream := func(text string) nameserver.Upstream {
		u, err := nameserver.ParseUpstream(text)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	s := nameserver.Settings{
		Upstreams: []nameserver.Upstream{upstream("9.9.9.9")},
		Routes:    []nameserver.Route{{Domains: []string{".mine.test"}, Upstreams: []nameserver.Upstream{upstream("10.0.0.1")}}},
	}
	detour := []nameserver.Route{{Domains: []string{"portal.test", "mine.test"}, Upstreams: []nameserver.Upstream{upstream("192.168.1.1")}}}
	got := withDetour(s, detour)
	if len(got.Routes) != 2 || fmt.Sprint(got.Routes[1].Domains) != "[portal.test]" || len(s.Routes) != 1 || len(detour[0].Domains) != 2 {
		t.Errorf("got %+v; want one route more, and the configured one kept", got.Routes)
	}
	if _, err := nameserver.New(nameserver.Config{Settings: got}); err != nil {
		t.Error(err)
	}
	s.Upstreams, s.Routes = nil, nil
	if got := withDetour(s, detour); len(got.Routes) != 0 {
		t.Errorf("got %+v; want none in the disabled state", got.Routes)
	}
}

// ofUDP inspects what goes by UDP.
type ofUDP struct{ firewall.Inspector }

func (ofUDP) Inspects(s *conn.Snapshot) bool { return s.Tuple.Protocol == packet.UDP }

// A port alone makes no DNS query: what is not inspected has to go to who answers them for this host.
func TestOnlyQueries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	require.NoError(t, os.WriteFile(path, []byte("# mine\nnameserver 127.0.0.53\nnameserver fe80::1%7\nsearch example\n"), 0o600))
	server, err := nameserver.New(nameserver.Config{})
	require.NoError(t, err)
	d := &Daemon{opt: Options{Config: &config.Loaded{}}}
	d.nameserver.server = server
	for _, tt := range []struct {
		remote    string
		protocol  packet.Protocol
		direction packet.Direction
		inspect   bool
		want      bool
	}{
		{"198.51.100.1:53", packet.UDP, packet.Outbound, true, true},
		{"198.51.100.1:53", packet.UDP, packet.Outbound, false, false},
		{"198.51.100.1:53", packet.TCP, packet.Outbound, true, false},
		{"127.0.0.53:53", packet.TCP, packet.Outbound, true, true},
		{"127.0.0.53:53", packet.UDP, packet.Outbound, false, true},
		{"[fe80::1]:53", packet.TCP, packet.Outbound, false, true},
		{"127.0.0.53:80", packet.TCP, packet.Outbound, true, false},
		{"127.0.0.53:53", packet.TCP, packet.Inbound, true, false},
	} {
		if d.dns.inspector = nil; tt.inspect {
			d.dns.inspector = ofUDP{}
		}
		c := &conn.Snapshot{Direction: tt.direction}
		c.Tuple = packet.Tuple{Protocol: tt.protocol, Remote: netip.MustParseAddrPort(tt.remote)}
		assert.Equal(t, tt.want, d.onlyQueriesTo(c, func() [][]netip.Addr { return resolversIn(path) }), "%+v", tt)
	}
}
