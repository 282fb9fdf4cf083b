package names_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/names"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// a makes a record with an address, to one with a target.
func a(name, addr string, ttl int) dnsmon.Record {
	return dnsmon.Record{Name: name, Addr: ip(addr), TTL: time.Duration(ttl) * time.Second}
}

func to(name, target string, ttl int) dnsmon.Record {
	return dnsmon.Record{Name: name, Target: target, TTL: time.Duration(ttl) * time.Second}
}

func TestResolve(t *testing.T) {
	for name, tt := range map[string]struct {
		asked   []string
		records []dnsmon.Record
		want    string // domain, aliases, address and TTL of each, in a line
	}{
		"nothing asked":     {nil, []dnsmon.Record{a("x.test", "192.0.2.1", 1)}, ""},
		"nothing answered":  {[]string{"x.test"}, nil, ""},
		"address":           {[]string{"x.test"}, []dnsmon.Record{a("x.test", "192.0.2.1", 60)}, "x.test [] 192.0.2.1 1m0s"},
		"both families":     {[]string{"x.test"}, []dnsmon.Record{a("x.test", "192.0.2.1", 60), a("x.test", "2001:db8::1", 5)}, "x.test [] 192.0.2.1 1m0s|x.test [] 2001:db8::1 5s"},
		"case and dots":     {[]string{"X.Test."}, []dnsmon.Record{a("x.tesT", "192.0.2.1", 60)}, "x.test [] 192.0.2.1 1m0s"},
		"aliases":           {[]string{"www.test"}, []dnsmon.Record{to("www.test", "cdn.test", 60), to("CDN.test", "n1.test.", 20), a("n1.test", "192.0.2.1", 30)}, "www.test [cdn.test n1.test] 192.0.2.1 20s"},
		"in any order":      {[]string{"www.test"}, []dnsmon.Record{a("n1.test", "192.0.2.1", 30), to("www.test", "n1.test", 60)}, "www.test [n1.test] 192.0.2.1 30s"},
		"TTL not known":     {[]string{"www.test"}, []dnsmon.Record{to("www.test", "n1.test", 0), a("n1.test", "192.0.2.1", 30)}, "www.test [n1.test] 192.0.2.1 30s"},
		"followed in steps": {[]string{"www.test", "cdn.test", "n1.test"}, []dnsmon.Record{a("n1.test", "192.0.2.1", 30)}, "www.test [cdn.test n1.test] 192.0.2.1 30s"},
		"the same twice":    {[]string{"www.test", "www.test", "N1.test", "n1.test"}, []dnsmon.Record{a("n1.test", "192.0.2.1", 30)}, "www.test [n1.test] 192.0.2.1 30s"},
		"nobody asked":      {[]string{"x.test"}, []dnsmon.Record{a("x.test", "192.0.2.1", 1), a("bank.test", "192.0.2.66", 1)}, "x.test [] 192.0.2.1 1s"},
		"a cycle":           {[]string{"x.test"}, []dnsmon.Record{to("x.test", "y.test", 1), to("y.test", "x.test", 1), a("y.test", "192.0.2.1", 1)}, "x.test [y.test] 192.0.2.1 1s"},
		"itself":            {[]string{"x.test"}, []dnsmon.Record{to("x.test", "x.test", 1)}, ""},
		"two targets": {
			[]string{"x.test"},
			[]dnsmon.Record{to("x.test", "a.test", 9), to("x.test", "b.test", 9), a("b.test", "192.0.2.2", 9), a("a.test", "192.0.2.1", 9), a("x.test", "192.0.2.3", 9)},
			"x.test [] 192.0.2.3 9s|x.test [a.test] 192.0.2.1 9s|x.test [b.test] 192.0.2.2 9s",
		},
		"completed by a search domain": {[]string{"nas"}, []dnsmon.Record{a("nas.home.test", "192.0.2.1", 9), a("nas2.home.test", "192.0.2.2", 9)}, "nas.home.test [] 192.0.2.1 9s"},
		"too long for a name":          {[]string{strings.Repeat("a.", 127) + "test"}, []dnsmon.Record{a(strings.Repeat("a.", 127)+"test", "192.0.2.1", 9)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, l := range names.Resolve(&dnsmon.Answer{Asked: tt.asked, Records: tt.records}) {
				got = append(got, fmt.Sprint(l.Domain, " ", l.CNAMEs, " ", l.Addr, " ", l.TTL))
			}
			if s := strings.Join(got, "|"); s != tt.want {
				t.Errorf("got  %s\nwant %s", s, tt.want)
			}
		})
	}
}

// chain is an answer with n aliases in front of an address.
func chain(n int) *dnsmon.Answer {
	answer := &dnsmon.Answer{Asked: []string{"n0.test"}}
	for i := range n {
		answer.Records = append(answer.Records, to(fmt.Sprintf("n%d.test", i), fmt.Sprintf("n%d.test", i+1), 9))
	}
	answer.Records = append(answer.Records, a(fmt.Sprintf("n%d.test", n), "192.0.2.1", 9))
	return answer
}

func TestLongestChain(t *testing.T) {
	got := names.Resolve(chain(names.MaxChain))
	if len(got) != 1 || len(got[0].CNAMEs) != names.MaxChain {
		t.Errorf("%d aliases: got %v; want one lookup with all of them", names.MaxChain, got)
	}
	if got := names.Resolve(chain(names.MaxChain + 1)); got != nil {
		t.Errorf("%d aliases: got %v; want none", names.MaxChain+1, got)
	}
}

// However the aliases of an answer are woven, it takes no longer than its records.
func TestWovenAliases(t *testing.T) {
	answer := &dnsmon.Answer{Asked: []string{"n0.test"}}
	for i := range 40 {
		for range 2 {
			answer.Records = append(answer.Records, to(fmt.Sprintf("n%d.test", i), fmt.Sprintf("n%d.test", i+1), 9))
		}
	}
	for range 2000 {
		answer.Records = append(answer.Records, a("n40.test", "192.0.2.1", 9))
	}
	if got := len(names.Resolve(answer)); got != 1024 {
		t.Errorf("got %d lookups; want the bound", got)
	}
}

func TestSource(t *testing.T) {
	for s, want := range map[names.Source]string{0: "", names.Nameserver: "nameserver", names.Systemd: "systemd", names.ETW: "etw", names.Packet: "packet", 9: "Source(9)"} {
		if got := s.String(); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
		text, err := s.MarshalText()
		if (err == nil) != (s <= names.Packet) {
			t.Errorf("%v: got error %v", s, err)
		}
		var back names.Source
		if err == nil && (back.UnmarshalText(text) != nil || back != s) {
			t.Errorf("got %v; want %v", back, s)
		}
	}
	var s names.Source
	if err := s.UnmarshalText([]byte("rumour")); err == nil || !strings.Contains(err.Error(), "rumour") {
		t.Errorf("got %v; want an error that names it", err)
	}
}

func TestCanonicalName(t *testing.T) {
	for s, want := range map[string]string{`a\.`: `a\.`, `a\..`: `a\.`, `a\\.`: `a\\`, "A": "a", "": ""} {
		if got := dnsmon.CanonicalName(s); got != want || dnsmon.CanonicalName(got) != want {
			t.Errorf("%q: got %q; want %q", s, got, want)
		}
	}
	got := []string{dnsmon.CanonicalName("WWW.Example.Test."), dnsmon.CanonicalName("."), dnsmon.CanonicalName(strings.Repeat("x", dnsmon.MaxName+1))}
	if want := []string{"www.example.test", "", ""}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
}
