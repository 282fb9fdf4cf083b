package kroute_test

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/splittunnel"
)

// TestIntegrationCarries: marked connections of every protocol and family leave by eth0 with its address, from the first packet on,
// and are answered; without the engine they leave by vpn0, which shows that the sniffers see them.
func TestIntegrationCarries(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t)
	for _, e := range ends() {
		for _, proto := range []string{"tcp", "udp", "ping"} {
			before := r.leak[e.family].Count()
			if err := r.try(proto, e.split, 5*time.Second); err != nil {
				t.Fatalf("control, %s %v: %v", proto, e.family, err)
			}
			if r.leak[e.family].Count() == before {
				t.Fatalf("control, %s %v: the sniffer saw nothing on vpn0", proto, e.family)
			}
		}
	}
	r.run(r.config(), r.paths("eth0")...)
	for _, e := range ends() {
		r.leak[e.family] = r.sniff("vpn0", e.split)
		plain := r.sniff("eth0", e.plain)
		for _, proto := range []string{"tcp", "udp", "ping"} {
			eth0 := r.sniff("eth0", e.split)
			if err := r.try(proto, e.split, 5*time.Second); err != nil {
				t.Errorf("%s %v: %v", proto, e.family, err)
			}
			if eth0.Count() == 0 {
				t.Errorf("%s %v: no packet on eth0", proto, e.family)
			}
			for _, p := range eth0.Packets() {
				if got := source(p); got != netip.MustParseAddr(e.clientISP) {
					t.Errorf("%s %v: got a packet from %v on eth0; want %s: %s", proto, e.family, got, e.clientISP, hex.EncodeToString(p))
				}
			}
			if err := r.try(proto, e.plain, 5*time.Second); err != nil {
				t.Errorf("not marked, %s %v: %v", proto, e.family, err)
			}
		}
		if n := plain.Count(); n != 0 {
			t.Errorf("%v: got %d packets on eth0 that are not marked; want 0", e.family, n)
		}
	}
	r.noLeak()
}

// source is a packet's source address.
func source(p []byte) netip.Addr {
	from, to := 12, 16
	if p[0]>>4 == 6 {
		from, to = 8, 24
	}
	a, _ := netip.AddrFromSlice(p[from:to])
	return a
}

// TestIntegrationReversePath: answers arrive whatever rp_filter is.
func TestIntegrationReversePath(t *testing.T) {
	testutil.NoLeaks(t)
	for _, filter := range []string{"0", "1", "2"} {
		t.Run("rp_filter="+filter, func(t *testing.T) {
			r := newRig(t)
			for _, conf := range []string{"all", "eth0", "vpn0"} {
				r.Client.SetSysctl(t, "net.ipv4.conf."+conf+".rp_filter", filter)
			}
			e := r.run(r.config(), r.paths("eth0")...)
			for _, proto := range []string{"tcp", "udp", "ping"} {
				if err := r.try(proto, ends()[0].split, 5*time.Second); err != nil {
					t.Errorf("%s: %v", proto, err)
				}
			}
			r.noLeak()
			if got := r.Client.Sysctl(t, "net.ipv4.conf.all.rp_filter"); got != filter {
				t.Errorf("rp_filter is %s; want it as it was, %s", got, filter)
			}
			if filter != "1" {
				return
			}
			// The control: it is the sysctl that makes this work. Use looks at it, too.
			r.Client.SetSysctl(t, "net.ipv4.conf.all.src_valid_mark", "0")
			if err := r.tcp(ends()[0].split, 300*time.Millisecond); err == nil {
				t.Error("answers arrive without src_valid_mark; want none")
			}
			if err := e.Use(t.Context(), r.paths("eth0")); err != nil {
				t.Fatal(err)
			}
			if err := r.tcp(ends()[0].split, 5*time.Second); err != nil {
				t.Errorf("after the sysctl was repaired: %v", err)
			}
			if got := e.figures().Repairs; got != 1 {
				t.Errorf("got %d repairs; want 1", got)
			}
		})
	}
}

// TestIntegrationSeveralInterfaces: each has its number, its mark and its table.
func TestIntegrationSeveralInterfaces(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t)
	paths := r.paths("eth0", "vpn0")
	e := r.run(r.config(), paths...)
	numbers := map[string]uint8{}
	for _, p := range paths {
		to := ends()[0].plain
		if p.Family == netif.IPv6 {
			to = ends()[1].plain
		}
		n, err := e.Take(tuple(to), p)
		if err != nil {
			t.Fatalf("%v by %s: %v", p.Family, p.Interface.Name, err)
		}
		if old, ok := numbers[p.Interface.Name]; ok && old != n {
			t.Errorf("%s has the numbers %d and %d; want one", p.Interface.Name, old, n)
		}
		numbers[p.Interface.Name] = n
	}
	if numbers["eth0"] == numbers["vpn0"] {
		t.Fatalf("both interfaces have number %d", numbers["eth0"])
	}
	// VPN connections now leave by vpn0 even if the main table says otherwise.
	for _, end := range ends() {
		r.Client.Run(t, "ip", end.flag, "route", "del", "default", "dev", "vpn0")
		r.mark(end.iptables, end.plain, 1719+int(numbers["vpn0"]), "vpn0")
		eth0 := r.sniff("eth0", end.plain)
		for _, proto := range []string{"tcp", "udp", "ping"} {
			for _, to := range []string{end.plain, end.split} {
				if err := r.try(proto, to, 5*time.Second); err != nil {
					t.Errorf("%s to %s: %v", proto, to, err)
				}
			}
		}
		if n := eth0.Count(); n != 0 {
			t.Errorf("%v: got %d packets for vpn0 on eth0; want 0", end.family, n)
		}
	}
	r.noLeak()
	if f := e.figures(); len(f.Routes) != 2 || !f.Routes[0].IPv4 || !f.Routes[1].IPv6 || f.Repairs != 0 || f.Problem != "" {
		t.Errorf("got figures %+v; want two routes, ready, never repaired", f)
	}
}

// TestIntegrationTables: what is in the kernel is what the documentation says.
func TestIntegrationTables(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t)
	r.run(r.config(), r.paths("eth0")...)
	for _, tt := range []struct{ args, want string }{
		{"-4 rule show priority 719", "719: from all fwmark 0x6b7 lookup 1719 proto 207"},
		{"-6 rule show priority 719", "719: from all fwmark 0x6b7 lookup 1719 proto 207"},
		{"-4 rule show priority 720", "720: from all fwmark 0x6b7 unreachable proto 207"},
		{"-6 rule show priority 720", "720: from all fwmark 0x6b7 unreachable proto 207"},
		{"-4 route show table 1719", "default via 192.168.50.1 dev eth0 proto 207 metric 1 | " +
			"unreachable default proto 207 metric 4294967294 | 192.168.50.0/24 dev eth0 proto 207 scope link metric 1"},
		{"-6 route show table 1719", "fd50::/64 dev eth0 proto 207 metric 1 pref medium | fe80::/64 dev eth0 proto 207 metric 1 pref medium | " +
			"default via fd50::1 dev eth0 proto 207 metric 1 pref medium | unreachable default dev lo proto 207 metric 4294967294 pref medium"},
	} {
		var lines []string
		for line := range strings.Lines(r.Client.Run(t, "ip", strings.Fields(tt.args)...)) {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
		if got := strings.Join(lines, " | "); got != tt.want {
			t.Errorf("ip %s:\ngot  %s\nwant %s", tt.args, got, tt.want)
		}
	}
	if got := r.Client.Sysctl(t, "net.ipv4.conf.all.src_valid_mark"); got != "1" {
		t.Errorf("src_valid_mark is %s; want 1", got)
	}
}

// TestIntegrationGateways: each kind of default route, exchanged for the one before.
func TestIntegrationGateways(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t)
	paths := r.paths("eth0")
	e := r.run(r.config(), paths...)
	for _, tt := range []struct{ gateway4, gateway6, want4, want6 string }{
		{"192.168.50.1", "fd50::1", "via 192.168.50.1 dev eth0 proto 207", "via fd50::1 dev eth0 proto 207 pref medium"},
		{"", "", "dev eth0 proto 207 scope link", "dev eth0 proto 207 pref medium"},
		{"fe80::1", "fe80::1%eth0", "via inet6 fe80::1 dev eth0 proto 207", "via fe80::1 dev eth0 proto 207 pref medium"},
		{"fd50::7", "fd50::7", "via inet6 fd50::7 dev eth0 proto 207", "via fd50::7 dev eth0 proto 207 pref medium"},
		{"172.16.0.1", "fd99::1", "via 172.16.0.1 dev eth0 proto 207 onlink", "via fd99::1 dev eth0 proto 207 onlink pref medium"},
		{"", "", "dev eth0 proto 207 scope link", "dev eth0 proto 207 pref medium"},
	} {
		for i := range paths {
			text := tt.gateway4
			if paths[i].Family == netif.IPv6 {
				text = tt.gateway6
			}
			paths[i].Default.Gateway = netip.Addr{}
			if text != "" {
				paths[i].Default.Gateway = netip.MustParseAddr(text)
			}
		}
		if err := e.Use(t.Context(), paths); err != nil {
			t.Fatal(err)
		}
		for flag, want := range map[string]string{"-4": tt.want4, "-6": tt.want6} {
			got := r.Client.Run(t, "ip", flag, "route", "show", "table", "1719", "exact", "default", "metric", "1")
			if got := strings.Join(strings.Fields(got), " "); got != "default "+want {
				t.Errorf("got %q; want %q", got, "default "+want)
			}
		}
	}
	// What the kernel refuses is an error of its path, and of no other.
	paths[0].Default.Gateway = netip.MustParseAddr("224.0.0.1")
	err := e.Use(t.Context(), paths)
	if !errors.Is(err, splittunnel.ErrNotReady) || !strings.Contains(err.Error(), "224.0.0.1") {
		t.Errorf("a gateway that cannot be one: got error %v; want ErrNotReady with the gateway", err)
	}
	for i, p := range paths {
		if _, err := e.Take(tuple(ends()[i].split), p); (err != nil) != (i == 0) {
			t.Errorf("%v: got error %v", p.Family, err)
		}
	}
	// Without a default route there are the networks.
	for i := range paths {
		paths[i].Default = netif.DefaultRoute{}
	}
	if err := e.Use(t.Context(), paths); err != nil {
		t.Fatal(err)
	}
	for i, p := range paths {
		if _, err := e.Take(tuple(ends()[i].gatewayISP), p); err != nil {
			t.Errorf("a neighbour: %v", err)
		}
		if _, err := e.Take(tuple(ends()[i].split), p); !errors.Is(err, splittunnel.ErrNotReady) {
			t.Errorf("beyond the networks: got error %v; want ErrNotReady", err)
		}
	}
	r.noLeak()
	if n := e.figures().Repairs; n != 0 {
		t.Errorf("got %d repairs; want 0", n)
	}
}
