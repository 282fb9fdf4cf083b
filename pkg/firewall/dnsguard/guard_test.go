package dnsguard_test

import (
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall/dnsguard"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// lab is a Guard with what it asks.
type lab struct {
	*dnsguard.Guard
	disabled bool
	told     []dnsguard.Bypass
}

// Processes of the lab.
var (
	strict   = &conn.Process{PID: 7, Path: "/usr/bin/strict"}
	loose    = &conn.Process{PID: 8, Path: "/usr/bin/loose"}
	resolver = &conn.Process{PID: 9, Path: "/usr/lib/systemd/systemd-resolved"}
	// service is the resolver as each system's service manager runs it.
	service = &conn.Process{PID: 10, Cgroup: "/system.slice/systemd-resolved.service", Services: []string{"Dnscache"}}
)

func newLab(t *testing.T) *lab {
	t.Helper()
	known, err := dnsguard.KnownEndpoints(strings.NewReader(".own.test\n192.0.2.9\n"))
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{}
	l.Guard, err = dnsguard.New(dnsguard.Config{
		Disabled:   func() bool { return l.disabled },
		Prevents:   func(p *conn.Process) bool { return p != loose },
		Endpoints:  known,
		IsResolver: func(p *conn.Process) bool { return p == resolver || p == service },
		Prevented:  func(b dnsguard.Bypass) { l.told = append(l.told, b) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func to(p *conn.Process, proto packet.Protocol, remote, domain string) *conn.Snapshot {
	s := &conn.Snapshot{Process: p, Domain: domain}
	s.Tuple = packet.Tuple{Protocol: proto, Local: netip.MustParseAddrPort("10.0.0.1:5000"), Remote: netip.MustParseAddrPort(remote)}
	s.Scope = netscope.Of(s.Tuple.Remote.Addr())
	return s
}

func TestDecide(t *testing.T) {
	const none, system, bypass = "", string(dnsguard.CodeSystemDNS), string(dnsguard.CodeBypass)
	serviceDNS := none // where no service manager is known, a resolver has the ports of DNS
	if runtime.GOOS == "linux" || runtime.GOOS == "windows" {
		serviceDNS = system
	}
	for _, tt := range []struct {
		s                 *conn.Snapshot
		enabled, disabled string
		kind              dnsguard.Kind
	}{
		{to(strict, packet.UDP, "127.0.0.53:53", ""), none, system, ""},
		{to(strict, packet.TCP, "10.0.0.1:53", ""), none, system, ""}, // this host's own address
		{to(strict, packet.UDP, "198.51.100.1:53", ""), bypass, none, dnsguard.Plain},
		{to(strict, packet.UDP, "10.0.0.53:53", ""), bypass, none, dnsguard.Plain},
		{to(strict, packet.TCP, "198.51.100.1:53", ""), bypass, bypass, dnsguard.Plain},
		{to(nil, packet.TCP, "198.51.100.1:53", ""), bypass, bypass, dnsguard.Plain},
		{to(loose, packet.TCP, "198.51.100.1:53", ""), none, none, ""},
		{to(resolver, packet.TCP, "198.51.100.1:53", ""), bypass, system, dnsguard.Plain},
		{to(resolver, packet.TCP, "198.51.100.1:853", ""), bypass, system, dnsguard.DoT},
		{to(resolver, packet.TCP, "198.51.100.1:443", ""), none, system, ""},
		{to(resolver, packet.TCP, "198.51.100.1:80", ""), none, none, ""}, // no DNS
		{to(resolver, packet.UDP, "224.0.0.252:5355", ""), none, none, ""},
		{to(service, packet.UDP, "198.51.100.1:53", ""), bypass, system, dnsguard.Plain},
		{to(service, packet.UDP, "224.0.0.252:5355", ""), none, serviceDNS, ""}, // LLMNR
		{to(strict, packet.TCP, "[2001:db8::1]:853", ""), bypass, bypass, dnsguard.DoT},
		{to(strict, packet.UDP, "198.51.100.1:853", ""), bypass, bypass, dnsguard.DoQ},
		{to(loose, packet.UDP, "198.51.100.1:853", ""), none, none, ""},
		{to(strict, packet.TCP, "127.0.0.1:853", ""), none, none, ""},
		{to(strict, packet.SCTP, "198.51.100.1:853", ""), none, none, ""},
		{to(strict, packet.TCP, "1.1.1.1:443", ""), bypass, bypass, dnsguard.DoH},
		{to(strict, packet.UDP, "[2606:4700:4700::1111]:443", ""), bypass, bypass, dnsguard.DoH},
		{to(strict, packet.TCP, "1.1.1.1:80", ""), none, none, ""},
		{to(strict, packet.TCP, "192.0.2.9:443", ""), bypass, bypass, dnsguard.DoH},
		{to(strict, packet.TCP, "198.51.100.1:443", "mozilla.cloudflare-dns.com"), bypass, bypass, dnsguard.DoH},
		{to(strict, packet.TCP, "198.51.100.1:443", "doh.own.test"), bypass, bypass, dnsguard.DoH},
		{to(loose, packet.TCP, "198.51.100.1:443", "doh.own.test"), none, none, ""},
		{to(strict, packet.TCP, "198.51.100.1:443", "www.example.test"), none, none, ""},
		{to(strict, packet.TCP, "198.51.100.1:443", ""), none, none, ""},
	} {
		for _, disabled := range []bool{false, true} {
			l := newLab(t)
			l.disabled = disabled
			want := tt.enabled
			if disabled {
				want = tt.disabled
			}
			o := l.Decide(t.Context(), tt.s)
			d := o.Decision
			if o.Decided != (want != none) || string(d.Reason.Code) != want || want == system && d.Verdict != verdict.Accept || want == bypass && d.Verdict != verdict.Block {
				t.Errorf("%v %v %q, disabled %v: got %+v; want %q", tt.s.Process, tt.s.Tuple, tt.s.Domain, disabled, o, want)
			}
			if len(l.told) != 0 {
				t.Errorf("%v: told before it took effect", tt.s.Tuple)
			}
			if want != bypass || o.Hit == nil {
				continue
			}
			o.Hit.Hit()
			if len(l.told) != 1 || l.told[0] != (dnsguard.Bypass{Process: tt.s.Process, Kind: tt.kind, Remote: tt.s.Tuple.Remote, Domain: tt.s.Domain}) {
				t.Errorf("%v: told %+v; want %s", tt.s.Tuple, l.told, tt.kind)
			}
		}
	}
	in := to(strict, packet.TCP, "198.51.100.1:853", "")
	in.Direction = packet.Inbound
	if o := newLab(t).Decide(t.Context(), in); o.Decided {
		t.Errorf("inbound: got %+v", o)
	}
}

func TestNamesOfServersAreRefused(t *testing.T) {
	l := newLab(t)
	for _, tt := range []struct {
		who    *conn.Process
		name   string
		cnames []string
		want   bool
	}{
		{strict, "dns.google", nil, true},
		{strict, "secure.example.test", []string{"a.test", "x.dns.nextdns.io"}, true},
		{loose, "dns.google", nil, false},
		{strict, "www.google.com", []string{"a.test"}, false},
	} {
		o := l.DecideName(tt.who, tt.name, tt.cnames)
		if o.Decided != tt.want || o.Decided && (o.Decision.Verdict != verdict.Block || o.Decision.Reason.Code != dnsguard.CodeBypass) {
			t.Errorf("%s: got %+v; want %v", tt.name, o, tt.want)
		}
		if o.Hit != nil {
			o.Hit.Hit()
			if got := l.told[len(l.told)-1]; got != (dnsguard.Bypass{Process: tt.who, Kind: dnsguard.DoH, Domain: tt.name}) {
				t.Errorf("%s: told %+v", tt.name, got)
			}
		}
	}
}

func TestInspects(t *testing.T) {
	l := newLab(t)
	other := to(strict, packet.UDP, "198.51.100.1:53", "")
	in := *other
	in.Direction = packet.Inbound
	for _, tt := range []struct {
		s    *conn.Snapshot
		want bool
	}{
		{other, true},
		{to(nil, packet.UDP, "[2001:db8::1]:53", ""), true},
		{to(resolver, packet.UDP, "198.51.100.1:53", ""), false},
		{to(strict, packet.UDP, "127.0.0.53:53", ""), false},
		{to(strict, packet.TCP, "198.51.100.1:53", ""), false},
		{to(strict, packet.UDP, "198.51.100.1:54", ""), false},
		{&in, false},
	} {
		l.disabled = true
		if got := l.Inspects(tt.s); got != tt.want {
			t.Errorf("%v: got %v; want %v", tt.s.Tuple, got, tt.want)
		}
		l.disabled = false
		if l.Inspects(tt.s) {
			t.Errorf("%v: inspected though a nameserver answers", tt.s.Tuple)
		}
	}
}

func TestDefaults(t *testing.T) {
	if _, err := dnsguard.New(dnsguard.Config{}); !errors.Is(err, dnsguard.ErrConfig) {
		t.Errorf("got %v; want ErrConfig", err)
	}
	g, err := dnsguard.New(dnsguard.Config{Disabled: func() bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	if o := g.Decide(t.Context(), to(strict, packet.TCP, "1.1.1.1:853", "")); o.Decided {
		t.Errorf("got %+v; want no opinion: nobody has asked to prevent it", o)
	}
}

func TestKnownEndpointsAreWellFormed(t *testing.T) {
	known, err := dnsguard.KnownEndpoints()
	if err != nil || known.Mistakes().Lines != 0 || known.Len() < 100 {
		t.Errorf("got %d entries, %+v, %v", known.Len(), known.Mistakes(), err)
	}
	for _, name := range []string{"mozilla.cloudflare-dns.com", "dns.google", "abc123.dns.nextdns.io", "dns.quad9.net"} {
		if !known.HasName(name) {
			t.Errorf("%s is missing", name)
		}
	}
	for _, name := range []string{"google.com", "cloudflare.com", "example.org"} {
		if known.HasName(name) {
			t.Errorf("%s is no server of DNS over HTTPS", name)
		}
	}
}
