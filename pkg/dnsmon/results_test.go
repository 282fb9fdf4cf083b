package dnsmon

import (
	"strings"
	"testing"
)

func TestParseResults(t *testing.T) {
	for results, want := range map[string]string{
		"192.0.2.1;":                          "[www.x.test]; www.x.test 0s 192.0.2.1",
		"::ffff:192.0.2.1;2001:db8::1":        "[www.x.test]; www.x.test 0s 192.0.2.1; www.x.test 0s 2001:db8::1",
		"type: 5 Edge.CDN.test;10.0.0.1":      "[www.x.test]; www.x.test 0s edge.cdn.test; edge.cdn.test 0s 10.0.0.1",
		"type: 5 a.test;type: 5 b.test.;::1;": "[www.x.test]; www.x.test 0s a.test; a.test 0s b.test; b.test 0s ::1",
		" type:5 a.test ; fe80::1%4 ":         "[www.x.test]; www.x.test 0s a.test; a.test 0s fe80::1",
		"type: 28 x;type: 65 1 y;192.0.2.1":   "[www.x.test]; www.x.test 0s 192.0.2.1",
		"type: 5 only.test;":                  "[www.x.test]; www.x.test 0s only.test",
		"":                                    "", ";;;": "", "type: 5": "", "type: 5 ;": "", "type: x y": "", "nonsense": "", "type: 70000 a": "",
	} {
		a, ok := parseResults("WWW.x.test.", results)
		if got := words(a); ok != (want != "") || ok && got != want {
			t.Errorf("%q: got %s, %v; want %s", results, got, ok, want)
		}
	}
	for _, name := range []string{"", ".", strings.Repeat("a", 300)} {
		if a, ok := parseResults(name, "192.0.2.1"); ok {
			t.Errorf("%q: got %v; want nothing", name, a)
		}
	}
	a, _ := parseResults("x.test", strings.Repeat("192.0.2.1;", 2*maxRecords))
	if len(a.Records) != maxRecords {
		t.Errorf("got %d records; want the bound", len(a.Records))
	}
}

func FuzzParseResults(f *testing.F) {
	for _, seed := range []string{"::ffff:192.0.2.1;", "type: 5 a.test;type: 5 b.test;::1;192.0.2.1", "type: 65 1 . alpn;", ";"} {
		f.Add("www.x.test", seed)
	}
	f.Fuzz(func(t *testing.T, name, results string) {
		a, ok := parseResults(name, results)
		if ok != (len(a.Records) > 0) || len(a.Records) > maxRecords {
			t.Errorf("got %v with %d records", ok, len(a.Records))
		}
		for _, r := range a.Records {
			if r.Name == "" || r.Name != CanonicalName(r.Name) || r.Addr.IsValid() == (r.Target != "") {
				t.Errorf("bad record %+v", r)
			}
		}
	})
}
