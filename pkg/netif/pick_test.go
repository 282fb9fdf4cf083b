package netif_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/netif/netiftest"
)

func TestParseSelector(t *testing.T) {
	good := []string{
		"", "eth0", "wg-quick_0", "br-1a2b3c4d5e6f", "3", "2147483647", "192.168.1.5", "::1", "fe80::1%eth0", "127.0.0.1",
		"00:00:5e:00:53:01", "00-00-5E-00-53-01", "0000.5e00.5301", "eth0@if5", "été",
	}
	for _, text := range good {
		sel, err := netif.ParseSelector(text)
		if err != nil {
			t.Errorf("%q: got %v; want no error", text, err)
		}
		if sel.String() != text || sel.IsDefault() != (text == "") {
			t.Errorf("%q: got %q, default %v", text, sel, sel.IsDefault())
		}
	}
	refused := []string{
		" ", "\t", "\n", " eth0", "eth0 ", "eth0\n", "0", "00", "2147483648", "99999999999999999999", "0.0.0.0", "::",
		"224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:255.255.255.255", "00:00:00:00:00:00", "eth\x00", "a\x1bb",
		strings.Repeat("x", 300),
	}
	for _, text := range refused {
		sel, err := netif.ParseSelector(text)
		var se *netif.SelectError
		if !errors.Is(err, netif.ErrBadSelector) || !errors.As(err, &se) || sel != (netif.Selector{}) {
			t.Errorf("%q: got %v, %v; want a SelectError with %v", text, sel, err, netif.ErrBadSelector)
			continue
		}
		if se.Selector != text || se.Remedy == "" {
			t.Errorf("%q: got selector %q, remedy %q; want the text and a remedy", text, se.Selector, se.Remedy)
		}
	}
}

func TestSelectorText(t *testing.T) {
	var config struct{ Interface netif.Selector }
	if err := json.Unmarshal([]byte(`{"Interface":"wlan0"}`), &config); err != nil || config.Interface.String() != "wlan0" {
		t.Fatalf("got %v, %v; want wlan0", config.Interface, err)
	}
	if b, err := json.Marshal(config); err != nil || string(b) != `{"Interface":"wlan0"}` {
		t.Errorf("got %s, %v; want the same back", b, err)
	}
	if err := json.Unmarshal([]byte(`{"Interface":"  "}`), &config); !errors.Is(err, netif.ErrBadSelector) {
		t.Errorf("white space: got %v; want %v", err, netif.ErrBadSelector)
	}
	if config.Interface.String() != "wlan0" {
		t.Errorf("after an error: got %v; want it unchanged", config.Interface)
	}
}

// office has two uplinks, a bridge with its port, a VPN, and things that are broken in different ways.
func office(t *testing.T) *netif.Snapshot {
	t.Helper()
	port := netiftest.Ether(4, "eth2")
	bridge := netiftest.Ether(5, "br0", "10.5.0.5/24")
	bridge.Kind, bridge.MAC = netif.KindBridge, port.MAC
	linkLocal := netiftest.Ether(6, "eth3", "169.254.9.9/16", "fe80::6/64")
	noCarrier := netiftest.Ether(7, "eth4", "10.7.0.7/24")
	noCarrier.Flags &^= net.FlagRunning
	return netiftest.Snapshot(t, []netif.Interface{
		netiftest.Loopback(),
		netiftest.Ether(2, "eth0", "192.168.1.5/24", "192.168.1.6/24", "fe80::2/64", "fd00::5/64", "2001:db8:1::5/64"),
		netiftest.Ether(3, "eth1", "10.3.0.3/24"),
		port, bridge, linkLocal, noCarrier,
		netiftest.Tunnel(8, "wg0", "10.8.0.2/24"),
	},
		netiftest.Default(8, "10.8.0.1", 0),
		netiftest.Default(7, "10.7.0.1", 10),
		netif.DefaultRoute{Family: netif.IPv4, Index: 6, Metric: 15}, // no gateway, not point-to-point
		netiftest.Default(6, "169.254.0.1", 20),
		netif.DefaultRoute{Family: netif.IPv4, Index: 2, Gateway: addr("192.168.1.1"), Metric: 100, Source: addr("192.168.1.6")},
		netiftest.Default(3, "10.3.0.1", 100),
		netiftest.Default(3, "10.3.0.2", 50000),
		netiftest.Default(6, "fe80::99", 5),
		netiftest.Default(2, "fe80::1", 1024),
	)
}

func TestPick(t *testing.T) {
	s := office(t)
	tests := []struct {
		selector string
		family   netif.Family
		iface    string
		source   string
		gateway  string // "" for none
		err      error
	}{
		{"", netif.IPv4, "eth0", "192.168.1.6", "192.168.1.1", nil},
		{"", netif.IPv6, "eth0", "2001:db8:1::5", "fe80::1", nil},
		{"eth0", netif.IPv4, "eth0", "192.168.1.6", "192.168.1.1", nil},
		{"192.168.1.5", netif.IPv4, "eth0", "192.168.1.5", "192.168.1.1", nil},
		{"::ffff:192.168.1.5", netif.IPv4, "eth0", "192.168.1.5", "192.168.1.1", nil},
		{"192.168.1.5", netif.IPv6, "eth0", "2001:db8:1::5", "fe80::1", nil},
		{"fd00::5", netif.IPv6, "eth0", "fd00::5", "fe80::1", nil},
		{"fe80::6", netif.IPv6, "eth3", "fe80::6", "fe80::99", nil}, // asked for, so good enough
		{"fe80::6%eth3", netif.IPv6, "eth3", "fe80::6", "fe80::99", nil},
		{"fe80::6%6", netif.IPv6, "eth3", "fe80::6", "fe80::99", nil},
		{"fe80::6%eth0", netif.IPv6, "", "", "", netif.ErrNotFound},
		{"eth1", netif.IPv4, "eth1", "10.3.0.3", "10.3.0.1", nil},
		{"3", netif.IPv4, "eth1", "10.3.0.3", "10.3.0.1", nil},
		{"wg0", netif.IPv4, "wg0", "10.8.0.2", "10.8.0.1", nil},
		{"00:00:5e:00:53:03", netif.IPv4, "eth1", "10.3.0.3", "10.3.0.1", nil},
		{"00:00:5E:00:53:04", netif.IPv4, "br0", "10.5.0.5", "", nil}, // the bridge, not its port without addresses
		{"br0", netif.IPv4, "br0", "10.5.0.5", "", nil},
		{"eth1", netif.IPv6, "", "", "", netif.ErrNoAddress},
		{"eth2", netif.IPv4, "", "", "", netif.ErrNoAddress},
		{"eth3", netif.IPv4, "", "", "", netif.ErrNoAddress},
		{"eth3", netif.IPv6, "", "", "", netif.ErrNoAddress},
		{"lo", netif.IPv4, "", "", "", netif.ErrNoAddress},
		{"eth4", netif.IPv4, "", "", "", netif.ErrDown},
		{"10.7.0.7", netif.IPv4, "", "", "", netif.ErrDown},
		{"eth9", netif.IPv4, "", "", "", netif.ErrNotFound},
		{"99", netif.IPv4, "", "", "", netif.ErrNotFound},
		{"10.9.9.9", netif.IPv4, "", "", "", netif.ErrNotFound},
		{"00:00:5e:00:53:99", netif.IPv4, "", "", "", netif.ErrNotFound},
		{" ", netif.IPv4, "", "", "", netif.ErrBadSelector},
		{"eth0 ", netif.IPv4, "", "", "", netif.ErrBadSelector},
		{"eth0", 0, "", "", "", netif.ErrBadSelector},
		{"", 5, "", "", "", netif.ErrBadSelector},
	}
	for _, tt := range tests {
		t.Run(tt.selector+" "+tt.family.String(), func(t *testing.T) {
			c, err := s.Pick(tt.selector, tt.family)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error: got %v; want %v", err, tt.err)
			}
			if err != nil {
				checkSelectError(t, err, tt.selector)
				return
			}
			gateway := ""
			if c.Default.Gateway.IsValid() {
				gateway = c.Default.Gateway.String()
			}
			if c.Interface.Name != tt.iface || c.Source != addr(tt.source) || gateway != tt.gateway {
				t.Errorf("got %s, %v, %q; want %s, %s, %q",
					c.Interface.Name, c.Source, gateway, tt.iface, tt.source, tt.gateway)
			}
		})
	}
}

func checkSelectError(t *testing.T, err error, selector string) {
	t.Helper()
	var se *netif.SelectError
	if !errors.As(err, &se) || se.Selector != selector || se.Remedy == "" || !strings.Contains(err.Error(), se.Remedy) {
		t.Errorf("got %#v; want a SelectError for %q with a remedy", err, selector)
	}
}

func TestPickDefaultWithout(t *testing.T) {
	ptp := netiftest.Ether(2, "wwan0", "10.2.0.2/30")
	ptp.Flags = ptp.Flags&^net.FlagBroadcast | net.FlagPointToPoint
	noAddr := netiftest.Ether(2, "eth0", "fe80::2/64")
	tests := map[string]struct {
		iface netif.Interface
		route netif.DefaultRoute
		err   error
	}{
		"modem without gateway":    {ptp, netif.DefaultRoute{Family: netif.IPv4, Index: 2}, nil},
		"ethernet without gateway": {netiftest.Ether(2, "a", "10.2.0.2/30"), netif.DefaultRoute{Family: netif.IPv4, Index: 2}, netif.ErrNotFound},
		"tunnel":                   {netiftest.Tunnel(2, "wg0", "10.2.0.2/30"), netiftest.Default(2, "10.2.0.1", 0), netif.ErrNotFound},
		"down":                     {netiftest.Down(netiftest.Ether(2, "a", "10.2.0.2/30")), netiftest.Default(2, "10.2.0.1", 0), netif.ErrNotFound},
		"other family":             {netiftest.Ether(2, "a", "10.2.0.2/30", "2001:db8::2/64"), netiftest.Default(2, "fe80::1", 0), netif.ErrNotFound},
		"no address":               {noAddr, netiftest.Default(2, "10.2.0.1", 0), netif.ErrNoAddress},
		"IPv6 gateway for IPv4":    {netiftest.Ether(2, "a", "10.2.0.2/32"), netif.DefaultRoute{Family: netif.IPv4, Index: 2, Gateway: addr("fe80::1")}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := netiftest.Snapshot(t, []netif.Interface{tt.iface}, tt.route)
			c, err := s.Pick("", netif.IPv4)
			if !errors.Is(err, tt.err) || (err == nil && c.Default != tt.route) {
				t.Errorf("got %+v, %v; want %v", c, err, tt.err)
			}
		})
	}
}

// The best address must not be used where the user asked for another one that cannot be used.
func TestPickUnusableAddress(t *testing.T) {
	i := netiftest.Ether(2, "eth0", "2001:db8::1/64", "2001:db8::2/64")
	i.Addrs[0].Flags = netif.AddrTentative
	s := netiftest.Snapshot(t, []netif.Interface{i})
	if c, err := s.Pick("2001:db8::1", netif.IPv6); !errors.Is(err, netif.ErrNoAddress) {
		t.Errorf("got %v, %v; want %v", c.Source, err, netif.ErrNoAddress)
	}
	if c, err := s.Pick("eth0", netif.IPv6); err != nil || c.Source != addr("2001:db8::2") {
		t.Errorf("got %v, %v; want 2001:db8::2", c.Source, err)
	}
}

func TestInterfaceAddr(t *testing.T) {
	type in = netif.Address
	p := netip.MustParsePrefix
	tests := map[string]struct {
		family netif.Family
		addrs  []in
		want   string
	}{
		"none":                        {netif.IPv4, nil, ""},
		"first":                       {netif.IPv4, []in{{Prefix: p("10.0.0.1/8")}, {Prefix: p("10.0.0.2/8")}}, "10.0.0.1"},
		"primary":                     {netif.IPv4, []in{{Prefix: p("10.0.0.1/8"), Flags: netif.AddrSecondary}, {Prefix: p("10.0.0.2/8")}}, "10.0.0.2"},
		"private IPv4 is as good":     {netif.IPv4, []in{{Prefix: p("10.0.0.1/8")}, {Prefix: p("9.9.9.9/8")}}, "10.0.0.1"},
		"other family":                {netif.IPv4, []in{{Prefix: p("2001:db8::1/64")}}, ""},
		"link-local":                  {netif.IPv6, []in{{Prefix: p("fe80::1/64")}}, ""},
		"global before private":       {netif.IPv6, []in{{Prefix: p("fd00::1/64")}, {Prefix: p("2001:db8::1/64")}}, "2001:db8::1"},
		"private":                     {netif.IPv6, []in{{Prefix: p("fe80::1/64")}, {Prefix: p("fd00::1/64")}}, "fd00::1"},
		"temporary":                   {netif.IPv6, []in{{Prefix: p("2001:db8::1/64")}, {Prefix: p("2001:db8::2/64"), Flags: netif.AddrTemporary}}, "2001:db8::2"},
		"deprecated temporary":        {netif.IPv6, []in{{Prefix: p("2001:db8::2/64"), Flags: netif.AddrTemporary | netif.AddrDeprecated}, {Prefix: p("2001:db8::1/64")}}, "2001:db8::1"},
		"private temporary":           {netif.IPv6, []in{{Prefix: p("fd00::2/64"), Flags: netif.AddrTemporary}, {Prefix: p("2001:db8::1/64")}}, "2001:db8::1"},
		"deprecated better than none": {netif.IPv6, []in{{Prefix: p("2001:db8::1/64"), Flags: netif.AddrDeprecated}}, "2001:db8::1"},
		"tentative":                   {netif.IPv6, []in{{Prefix: p("2001:db8::1/64"), Flags: netif.AddrTentative}}, ""},
		"duplicate":                   {netif.IPv6, []in{{Prefix: p("2001:db8::1/64"), Flags: netif.AddrDuplicate}}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := netif.Interface{Addrs: tt.addrs}.Addr(tt.family)
			if ok != (tt.want != "") || (ok && got != addr(tt.want)) {
				t.Errorf("got %v, %v; want %q", got, ok, tt.want)
			}
		})
	}
}

func FuzzParseSelector(f *testing.F) {
	for _, s := range []string{"", " ", "eth0", "3", "10.0.0.1", "fe80::1%eth0", "00:00:5e:00:53:01", "-", "."} {
		f.Add(s)
	}
	s, err := netif.NewSnapshot([]netif.Interface{netiftest.Ether(2, "eth0", "10.0.0.1/24")}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		sel, err := netif.ParseSelector(text)
		if err != nil {
			if !errors.Is(err, netif.ErrBadSelector) {
				t.Errorf("%q: got %v; want %v", text, err, netif.ErrBadSelector)
			}
			return
		}
		b, err := sel.MarshalText()
		var back netif.Selector
		if err != nil || back.UnmarshalText(b) != nil || back != sel {
			t.Errorf("%q: got %v, %v back from %q; want the same", text, back, err, b)
		}
		if strings.TrimSpace(text) != text {
			t.Errorf("%q: white space was accepted", text)
		}
		if c, err := s.Select(sel, netif.IPv4); err == nil && c.Interface.Index != 2 {
			t.Errorf("%q: got %+v", text, c)
		}
	})
}
