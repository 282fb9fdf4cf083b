package dnsmon

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/internal/varlink"
)

// recorded returns the messages of a file.
func recorded(t testing.TB, file string) (list [][]byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		r, err := varlink.ParseReply(bytes.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r.Parameters)
	}
	return list
}

// words tells an answer in a line.
func words(a Answer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v", a.Asked)
	if a.Failure != "" {
		b.WriteString(" " + a.Failure)
	}
	for _, r := range a.Records {
		to := r.Target
		if r.Addr.IsValid() {
			to = r.Addr.String()
		}
		fmt.Fprintf(&b, "; %s %v %s", r.Name, r.TTL, to)
	}
	return b.String()
}

func TestRecordedEvents(t *testing.T) {
	for name, want := range map[string][]string{
		"v252-dig_a":    {"[a.example.test]; a.example.test 1m0s 192.0.2.10"},
		"v252-dig_aaaa": {"[aaaa.example.test]; aaaa.example.test 1m0s 2001:db8::10"},
		"v252-dig_cname": {
			"[www.example.test]; www.example.test 1m0s edge.cdn.test; edge.cdn.test 30s node1.cdn.test; node1.cdn.test 20s 198.51.100.7",
		},
		"v252-dig_cname_partial": {
			"[part.example.test]; part.example.test 1m0s node1.cdn.test",
			"[part.example.test node1.cdn.test]; node1.cdn.test 20s 198.51.100.7",
		},
		"v252-dig_https":    {"[svc.example.test]; svc.example.test 1m0s 192.0.2.20"},
		"v257-dig_https":    {"[svc.example.test]; svc.example.test 1m0s 192.0.2.20"},
		"v252-dig_nodata":   {"[txt.example.test]"},
		"v252-dig_nxdomain": {"[nope.example.test] NXDOMAIN"},
		"v252-dig_servfail": {"[fail.example.test] SERVFAIL"},
		"v252-resolvectl_idn": {
			"[xn--bcher-kva.test]; xn--bcher-kva.test 1m0s 192.0.2.40",
		},
		"v252-resolvectl_query": {
			"[multi.example.test]; multi.example.test 1m0s 192.0.2.11; multi.example.test 1m0s 192.0.2.12; multi.example.test 1m0s 2001:db8::11",
		},
		"v252-ready": {"ready"},
	} {
		t.Run(name, func(t *testing.T) {
			for i, b := range recorded(t, filepath.Join("testdata/varlink", name+".jsonl")) {
				a, ready, err := parseEvent(b)
				got := words(a)
				if ready {
					got = "ready"
				}
				if err != nil || i >= len(want) || got != want[i] {
					t.Errorf("event %d: got %s, %v; want %v", i, got, err, want)
				}
			}
		})
	}
}

// What an event may look like that no version has sent so far, or only others than the recorded ones.
func TestForeignEvents(t *testing.T) {
	raw := func(text string) string {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 512)
		n, err := dns.PackRR(rr, b, 0, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(b[:n])
	}
	const key = `"key":{"class":1,"type":%d,"name":"X.Test"}`
	keyOf := func(n int) string { return fmt.Sprintf(key, n) }
	for name, tt := range map[string]struct{ answer, want string }{
		"rr only, A":             {`{"rr":{` + keyOf(1) + `,"address":[192,0,2,1]}}`, "; x.test 0s 192.0.2.1"},
		"rr only, AAAA":          {`{"rr":{` + keyOf(28) + `,"address":[32,1,13,184,0,0,0,0,0,0,0,0,0,0,0,1]}}`, "; x.test 0s 2001:db8::1"},
		"rr only, CNAME":         {`{"rr":{` + keyOf(5) + `,"name":"Y.test."}}`, "; x.test 0s y.test"},
		"rr only, PTR":           {`{"rr":{` + keyOf(12) + `,"name":"y.test"}}`, ""},
		"rr only, CH":            {`{"rr":{"key":{"class":3,"type":1,"name":"x.test"},"address":[192,0,2,1]}}`, ""},
		"address too short":      {`{"rr":{` + keyOf(1) + `,"address":[192,0,2]}}`, ""},
		"address of big numbers": {`{"rr":{` + keyOf(1) + `,"address":[192,0,2,256]}}`, ""},
		"address as text":        {`{"rr":{` + keyOf(1) + `,"address":"192.0.2.1"},"raw":"` + raw("x.test. 60 IN A 192.0.2.1") + `"}`, "; x.test 1m0s 192.0.2.1"},
		"rr with other fields":   {`{"rr":{` + keyOf(5) + `,"name":{"a":1}},"raw":"` + raw("x.test. 60 IN CNAME y.test.") + `","ifindex":2}`, "; x.test 1m0s y.test"},
		"raw is null":            {`{"rr":{` + keyOf(1) + `,"address":[192,0,2,1]},"raw":null}`, "; x.test 0s 192.0.2.1"},
		"raw is bad":             {`{"rr":{` + keyOf(1) + `,"address":[192,0,2,1]},"raw":"AAAA"}`, "; x.test 0s 192.0.2.1"},
		"raw is no base64":       {`{"rr":{` + keyOf(1) + `,"address":[192,0,2,1]},"raw":"%"}`, "; x.test 0s 192.0.2.1"},
		"neither":                {`{}`, ""},
		"PTR":                    {`{"raw":"` + raw("1.2.0.192.in-addr.arpa. 60 IN PTR bank.test.") + `"}`, ""},
		"CH":                     {`{"raw":"` + raw("x.test. 60 CH A 192.0.2.1") + `"}`, ""},
		"HTTPS elsewhere":        {`{"raw":"` + raw(`x.test. 60 IN HTTPS 1 s.test. ipv4hint=192.0.2.1 ipv6hint=2001:db8::1`) + `"}`, "; x.test 1m0s s.test; s.test 1m0s 192.0.2.1; s.test 1m0s 2001:db8::1"},
		"HTTPS alias":            {`{"raw":"` + raw(`x.test. 60 IN HTTPS 0 s.test.`) + `"}`, "; x.test 1m0s s.test"},
		"SVCB":                   {`{"raw":"` + raw(`_8443._foo.x.test. 60 IN SVCB 1 . ipv4hint=192.0.2.1`) + `"}`, "; _8443._foo.x.test 1m0s 192.0.2.1"},
		"to the root":            {`{"raw":"` + raw(`x.test. 60 IN CNAME .`) + `"}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a, _, err := parseEvent([]byte(`{"state":"success","new":[1],"question":[{"class":1,"type":1,"name":"x.test"}],"answer":[` + tt.answer + `]}`))
			if got, want := words(a), "[x.test]"+tt.want; err != nil || got != want {
				t.Errorf("got  %s, %v\nwant %s", got, err, want)
			}
		})
	}
}

func TestMulticastCacheFlush(t *testing.T) {
	got := Records(&dns.A{Hdr: dns.RR_Header{Name: "nas.local.", Rrtype: dns.TypeA, Class: dns.ClassINET | 1<<15, Ttl: 120}, A: []byte{192, 0, 2, 1}})
	if len(got) != 1 || got[0].Name != "nas.local" || got[0].TTL != 2*time.Minute {
		t.Errorf("got %v; want the address of nas.local", got)
	}
}

func TestFailures(t *testing.T) {
	for text, want := range map[string]string{
		`{"state":"timeout","question":[{"name":"x.test"}]}`:                  "[x.test] timeout",
		`{"state":"rcode-failure","rcode":5,"question":[{"name":"x.test"}]}`:  "[x.test] REFUSED",
		`{"state":"rcode-failure","rcode":99,"question":[{"name":"x.test"}]}`: "[x.test] RCODE 99",
		`{"state":"success","question":null,"answer":null}`:                   "[]",
		// what is not ASCII stands where there is nothing else, as with multicast DNS
		`{"state":"success","question":[{"name":"Bücher.local"}]}`: "[bücher.local]",
	} {
		a, _, err := parseEvent([]byte(text))
		if got := words(a); err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{`{}`, `[]`, `7`, ``, `{"state":7}`, `{"state":"success","question":{}}`, `{"state":"success","answer":[7]}`} {
		if _, _, err := parseEvent([]byte(text)); !errors.Is(err, ErrBadEvent) {
			t.Errorf("%s: got %v; want ErrBadEvent", text, err)
		}
	}
}

// However an event is made up, it has a bound.
func TestEventsAreBounded(t *testing.T) {
	questions, answers := make([]string, 500), make([]string, 9000)
	for i := range questions {
		questions[i] = fmt.Sprintf(`{"class":1,"type":1,"name":"n%d.test"}`, i)
	}
	for i := range answers {
		answers[i] = `{"rr":{"key":{"class":1,"type":1,"name":"x.test"},"address":[192,0,2,1]}}`
	}
	a, _, err := parseEvent([]byte(`{"state":"success","question":[` + strings.Join(questions, ",") + `],"answer":[` + strings.Join(answers, ",") + `]}`))
	if err != nil || len(a.Asked) != maxAsked || len(a.Records) != maxRecords {
		t.Errorf("got %d names and %d records, %v; want the bounds", len(a.Asked), len(a.Records), err)
	}
}

func FuzzParseEvent(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.jsonl")
	if err != nil || len(files) == 0 {
		f.Fatal("no recorded events", err)
	}
	for _, file := range files {
		for _, b := range recorded(f, file) {
			f.Add([]byte(b))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ready, err := parseEvent(b)
		if (err != nil || ready) && (a.Asked != nil || a.Records != nil) {
			t.Fatalf("got %v beside %v, ready: %v", a, err, ready)
		}
		check(t, a.Records)
	})
}

func FuzzRaw(f *testing.F) {
	for _, text := range []string{"x.test. 60 IN A 192.0.2.1", "x.test. 60 IN HTTPS 1 s.test. ipv4hint=192.0.2.1 ipv6hint=2001:db8::1", "x.test. 60 IN CNAME y.test."} {
		rr, err := dns.NewRR(text)
		if err != nil {
			f.Fatal(err)
		}
		b := make([]byte, 512)
		n, err := dns.PackRR(rr, b, 0, nil, false)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:n])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _ := rawRecords(b)
		check(t, list)
	})
}

// check wants each record to be one or the other, with a name that is one.
func check(t *testing.T, list []Record) {
	t.Helper()
	for _, r := range list {
		if r.Addr.IsValid() == (r.Target != "") || r.Name != CanonicalName(r.Name) || len(r.Target) > MaxName || r.Addr.Is4In6() {
			t.Fatalf("got %+v", r)
		}
	}
}

func BenchmarkParseEvent(b *testing.B) {
	event := recorded(b, "testdata/varlink/v252-dig_cname.jsonl")[0]
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := parseEvent(event); err != nil {
			b.Fatal(err)
		}
	}
}
