package rules

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestGlob(t *testing.T) {
	t.Parallel()
	tests := []struct {
		glob, s string
		want    bool
	}{
		{"/usr/bin/curl", "/usr/bin/curl", true},
		{"/usr/bin/curl", "/usr/bin/curl2", false},
		{"/usr/bin/*", "/usr/bin/curl", true},
		{"/usr/bin/*", "/usr/bin/", true},
		{"/usr/*", "/usr/bin/curl", false},
		{"/usr/**", "/usr/bin/curl", true},
		{"/usr/**", "/usr", false},
		{"/opt/**/bin/*", "/opt/bin/x", true},
		{"/opt/**/bin/*", "/opt/a/b/bin/x", true},
		{"/opt/**/bin/*", "/opt/abin/x", false},
		{"/opt/**/bin/*", "/opt/a/bin/b/x", false},
		{"/opt/**/bin/*", "/opt/a/bin/bin/x", true},
		{"/**/a/**/b", "/a/b", true},
		{"/**/a/**/b", "/x/a/y/a/z/b", true},
		{"/**/a/**/b", "/x/a/y/a/z/c", false},
		{"**/curl", "/usr/bin/curl", true},
		{"**/curl", "/usr/bin/xcurl", false},
		{"/u**l", "/usr/bin/curl", true},
		{"/a?c", "/abc", true},
		{"/a?c", "/a/c", false},
		{"/a?c", "/aüc", true},
		{"/a[b-d]c", "/acc", true},
		{"/a[b-d]c", "/aec", false},
		{"/a[!b-d]c", "/aec", true},
		{"/a[^b-d]c", "/abc", false},
		{"/a[!b]c", "/a/c", false},
		{"/a[]]c", "/a]c", true},
		{"/a[*]c", "/a*c", true},
		{"/a[*]c", "/abc", false},
		{"/a[a-]c", "/a-c", true},
		{"/[ä-ü]", "/ö", true},
		{"/*b*d", "/abcd", true},
		{"/*b*d", "/abc", false},
		{"/*", "", false},
		{"**", "", false},
		{"/x*y/z", "/x/y/z", false},
	}
	for _, tt := range tests {
		p, bad := parsePattern(tt.glob, pathGlob)
		if bad != nil {
			t.Errorf("%s: %s", tt.glob, bad.msg)
			continue
		}
		if got := p.match(tt.s); got != tt.want {
			t.Errorf("%s on %q: got %v; want %v", tt.glob, tt.s, got, tt.want)
		}
	}
	p, bad := parsePattern("a*/c?[x/]", textGlob)
	if bad != nil || !p.match("a/b/c//") || p.match("a/b/c/y") {
		t.Error("a text glob does not go across slashes")
	}
}

// TestGlobIsFast has patterns that take exponential time by naive means.
func TestGlobIsFast(t *testing.T) {
	t.Parallel()
	for _, glob := range []string{"/" + strings.Repeat("*a", 40) + "b", "/" + strings.Repeat("**a", 40) + "b", strings.Repeat("/**/*a*", 20) + "b"} {
		p, bad := parsePattern(glob, pathGlob)
		if bad != nil {
			t.Fatal(bad.msg)
		}
		start := time.Now()
		if p.match(strings.Repeat("/aaaaaaaaaaaaaaaaaaa", 200)) {
			t.Errorf("%s matches", glob)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("%s took %v", glob, d)
		}
	}
}

func TestPatternKey(t *testing.T) {
	t.Parallel()
	for glob, want := range map[string]string{"/a/b": "/a/b", "/a/b*": "/a/", "/*": "/", "**/x": "", "*": "", "/opt/**/x": "/opt/"} {
		p, bad := parsePattern(glob, pathGlob)
		if bad != nil || p.key() != want {
			t.Errorf("%s: got %q; want %q", glob, p.key(), want)
		}
	}
}

func FuzzGlob(f *testing.F) {
	for _, g := range []string{"/opt/**/bin/*", "**/curl", "[!a-z]?", "[", "a[]b]", "***", "/a[z-a]", "\xff", "[\xff]"} {
		f.Add(g, "/opt/a/bin/x", true)
		f.Add(g, "curl --fast", false)
	}
	f.Fuzz(func(t *testing.T, glob, s string, isPath bool) {
		fl := textGlob
		if isPath {
			fl = pathGlob
		}
		p, bad := parsePattern(glob, fl)
		if bad != nil {
			if bad.msg == "" {
				t.Error("a problem without a message")
			}
			return
		}
		got := p.match(s)
		if got && isPath && p.key() != "" && !strings.HasPrefix(s, p.key()) {
			t.Errorf("%q matches %q without its key %q", glob, s, p.key())
		}
		if got && p.toks == nil && s != glob {
			t.Errorf("exact %q matches %q", glob, s)
		}
		// what a pattern without classes matches, it matches again with each
		// star doubled in reach
		if got && isPath && !strings.ContainsAny(glob, "[") && !strings.Contains(glob, "**") {
			wide, bad := parsePattern(strings.ReplaceAll(glob, "*", "**"), pathGlob)
			if bad != nil || !wide.match(s) && !strings.Contains(glob, "*/") {
				t.Errorf("%q matches %q, with ** it does not", glob, s)
			}
		}
	})
}

func FuzzPorts(f *testing.F) {
	for _, s := range []string{"80", "80,443,8000-8100", "80,81,79", "80-90,85-100", "0", "1-65535", "9-1", "80,", "-", "1-2-3", " 80", "65536"} {
		f.Add(s, uint16(80))
	}
	f.Fuzz(func(t *testing.T, s string, port uint16) {
		got, bad := parsePorts(s)
		if bad != nil {
			if bad.msg == "" {
				t.Error("a problem without a message")
			}
			return
		}
		checkSpans(t, got)
		if got.has(portPoint(0)) {
			t.Errorf("%q has port 0", s)
		}
		// one port more changes nothing about the others
		more, bad := parsePorts(s + ",1-" + "65535")
		if bad != nil || port != 0 && !more.has(portPoint(port)) {
			t.Errorf("%q with all ports has no %d", s, port)
		}
	})
}

// checkSpans checks what the rest relies on.
func checkSpans(t *testing.T, s spans) {
	t.Helper()
	for i, x := range s {
		if x.last.less(x.first) || !s.has(x.first) || !s.has(x.last) {
			t.Errorf("span %v", x)
		}
		if i > 0 {
			if after, ok := s[i-1].last.next(); !ok || !after.less(x.first) {
				t.Errorf("spans %v and %v touch", s[i-1], x)
			}
		}
	}
}

func FuzzRemote(f *testing.F) {
	for _, s := range []string{
		"192.0.2.1", "10.0.0.0/8", "::/0", "10.0.0.1-10.0.0.9", "lan", "example.org", "*.example.org", ".org", "nas.",
		"10.0.0.1/8", "fe80::1%eth0", "::ffff:1.2.3.4", "1.2.3", "*", "a..b", "1.2.3.4-5.example.org", "::-::fffe:ffff:ffff", "1.2.3.4-",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var p remoteParser
		if bad := p.add(s); bad != nil {
			if bad.msg == "" {
				t.Error("a problem without a message")
			}
			return
		}
		r := p.done()
		checkSpans(t, r.addrs)
		kinds := 0
		for _, given := range []bool{len(r.addrs) != 0, r.scopes != 0, !r.domains.empty()} {
			if given {
				kinds++
			}
		}
		if kinds != 1 {
			t.Errorf("%q is of %d kinds", s, kinds)
		}
		for _, k := range r.domains.keys {
			if name := strings.TrimPrefix(k, "."); checkName(name) != "" || canonicalName(name) != name {
				t.Errorf("%q has the key %q", s, k)
			}
			if !strings.HasPrefix(k, ".") && !r.domains.has(k) || r.domains.has("x"+strings.TrimPrefix(k, ".")) {
				t.Errorf("%q does not match %q, or what is not below it", s, k)
			}
		}
	})
}

func FuzzDomain(f *testing.F) {
	for _, s := range []string{"example.org", "*.example.org", ".example.org.", "a.*.b", "EXAMPLE.org", "xn--bcher-kva.example", "-a.b", "1.2.3.4"} {
		f.Add(s, "www.example.org")
	}
	f.Fuzz(func(t *testing.T, entry, name string) {
		keys, bad := parseDomain(entry)
		if bad != nil {
			return
		}
		few := newDomainSet(keys)
		many := newDomainSet(append(slices.Clone(keys), strings.Split(strings.Repeat("z.invalid ", fewDomains)+"z.invalid", " ")...))
		name = canonicalName(name)
		if strings.HasPrefix(name, ".") {
			return // no resolver tells such a name
		}
		want := few.has(name)
		if name != "z.invalid" && many.has(name) != want {
			t.Errorf("%q on %q: few %v, many %v", entry, name, want, !want)
		}
		table := domainTable{}
		table.add(keys, blockRule{&block{}, 0})
		if found := name != "" && table.find(name) != nil; found != want {
			t.Errorf("%q on %q: rule %v, table %v", entry, name, want, found)
		}
	})
}
