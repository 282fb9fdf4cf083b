package nameserver_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/nameserver"
)

func TestParseUpstream(t *testing.T) {
	for in, want := range map[string]string{
		"9.9.9.9":                               "udp://9.9.9.9",
		"9.9.9.9:5353":                          "udp://9.9.9.9:5353",
		"2620:fe::fe":                           "udp://[2620:fe::fe]",
		"[2620:fe::fe]":                         "udp://[2620:fe::fe]",
		"[fe80::1%3]:53":                        "udp://[fe80::1%3]",
		"::ffff:9.9.9.9":                        "udp://9.9.9.9",
		"tcp://9.9.9.9:53":                      "tcp://9.9.9.9",
		"tls://9.9.9.9#DNS.Quad9.net":           "tls://9.9.9.9#dns.quad9.net",
		"tls://9.9.9.9:853":                     "tls://9.9.9.9",
		"https://9.9.9.9":                       "https://9.9.9.9/dns-query",
		"https://9.9.9.9/q?x=1#dns.example":     "https://9.9.9.9/q?x=1#dns.example",
		"https://[2620:fe::fe]:8443/dns-query/": "https://[2620:fe::fe]:8443/dns-query/",
	} {
		u, err := nameserver.ParseUpstream(in)
		if err != nil || u.String() != want {
			t.Errorf("%q: got %q, %v; want %q", in, u, err, want)
		}
	}
	for in, want := range map[string]string{
		"":                         "no address",
		"dns.quad9.net":            "no address",
		"quic://9.9.9.9":           "nothing is known",
		"9.9.9.9#name":             "no certificate",
		"9.9.9.9/path":             "no path",
		"tls://9.9.9.9/path":       "no path",
		"tls://9.9.9.9#a b":        "no name",
		"https://9.9.9.9/a b":      "no path",
		"0.0.0.0":                  "no server's address",
		"224.0.0.1":                "no server's address",
		"9.9.9.9:0":                "no server's address",
		"tls://[fe80::1%eth0]:853": "zones",
	} {
		_, err := nameserver.ParseUpstream(in)
		if !errors.Is(err, nameserver.ErrUpstream) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "tls://ADDRESS#NAME") {
			t.Errorf("%q: got %v; want %q, and how to write it", in, err, want)
		}
	}
	var u nameserver.Upstream
	if err := u.UnmarshalText([]byte("tls://9.9.9.9")); err != nil || u.Protocol != nameserver.DoT {
		t.Errorf("got %v, %v", u, err)
	}
	if b, err := u.MarshalText(); err != nil || string(b) != "tls://9.9.9.9" {
		t.Errorf("got %s, %v", b, err)
	}
}

func TestConfig(t *testing.T) {
	at := func(s string) []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(s)} }
	quad9 := []nameserver.Upstream{parse(t, "9.9.9.9")}
	for _, c := range []struct {
		name string
		cfg  nameserver.Config
		want string // part of the error; "" for none
	}{
		{"defaults", nameserver.Config{}, ""},
		{"wildcard", nameserver.Config{Listen: at("0.0.0.0:53")}, "exact address"},
		{"mapped", nameserver.Config{Listen: at("[::ffff:127.0.0.1]:53")}, "exact address"},
		{"no address", nameserver.Config{Listen: []netip.AddrPort{{}}}, "exact address"},
		{"twice", nameserver.Config{Listen: append(at("127.0.0.1:1"), at("127.0.0.1:1")...)}, "twice"},
		{"too many", nameserver.Config{Listen: make([]netip.AddrPort, 17)}, "at most 16"},
		{"negative", nameserver.Config{MaxTCP: -1}, "negative"},
		{"host name", nameserver.Config{HostName: "a..b"}, "host name"},
		{"upstream twice", nameserver.Config{Settings: nameserver.Settings{Upstreams: append(quad9, quad9...)}}, "twice"},
		{"no upstream", nameserver.Config{Settings: nameserver.Settings{Upstreams: make([]nameserver.Upstream, 1)}}, "no server's address"},
		{"routes only", nameserver.Config{Settings: nameserver.Settings{Routes: []nameserver.Route{{Domains: []string{"a"}, Upstreams: quad9}}}}, "all other names"},
		{"empty route", nameserver.Config{Settings: nameserver.Settings{Upstreams: quad9, Routes: []nameserver.Route{{}}}}, "needs domains"},
		{"route twice", nameserver.Config{Settings: nameserver.Settings{Upstreams: quad9, Routes: []nameserver.Route{
			{Domains: []string{"a.b", "A.b."}, Upstreams: quad9},
		}}}, "two routes"},
		{"route's name", nameserver.Config{Settings: nameserver.Settings{Upstreams: quad9, Routes: []nameserver.Route{
			{Domains: []string{"*.b"}, Upstreams: quad9},
		}}}, `domain "*.b"`},
		{"rebind name", nameserver.Config{Settings: nameserver.Settings{RebindAllow: []string{""}}}, "domain"},
		{"negative time", nameserver.Config{Settings: nameserver.Settings{StaleFor: -time.Second}}, "StaleFor"},
		{"blocked answer", nameserver.Config{Settings: nameserver.Settings{Blocked: 9}}, "no way 9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := nameserver.New(c.cfg)
			if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, nameserver.ErrConfig) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got error %v; want %q", err, c.want)
			}
		})
	}
}

func TestStrings(t *testing.T) {
	for got, want := range map[string]string{
		nameserver.FromUpstream.String(): "upstream", nameserver.FromCache.String(): "cache", nameserver.FromStale.String(): "stale",
		nameserver.FromSelf.String(): "self", nameserver.Source(9).String(): "source 9", nameserver.Type(28).String(): "AAAA",
		nameserver.Type(65280).String(): "TYPE65280", nameserver.Protocol(9).String(): "protocol 9",
	} {
		if got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}
