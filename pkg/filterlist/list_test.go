package filterlist_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/weirfw/weir/pkg/filterlist"
)

func parse(t testing.TB, text string) *filterlist.List {
	t.Helper()
	l, err := filterlist.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

const sample = `# a list
! another way to comment
plain.test
*.below.test   # names below it
.Both.Test.
||adblock.test^

0.0.0.0 hosts1.test hosts2.test
::1 hosts3.test
192.0.2.1
198.51.100.0/24
203.0.113.5-203.0.113.9
203.0.113.7-203.0.113.20
2001:db8:1::/48
2001:db8:1:2::/64
2001:db8::1
::ffff:192.0.2.9
_srv.plain.test
`

func TestList(t *testing.T) {
	l := parse(t, sample)
	if m := l.Mistakes(); m.Lines != 0 || l.Len() != 16 {
		t.Errorf("got %d entries, %+v; want 16, and no mistake", l.Len(), m)
	}
	for name, want := range map[string]bool{
		"plain.test": true, "a.plain.test": false, "xplain.test": false, "_srv.plain.test": true,
		"below.test": false, "a.below.test": true, "b.a.below.test": true, "xbelow.test": false,
		"both.test": true, "a.both.test": true, "adblock.test": true, "a.adblock.test": true,
		"hosts1.test": true, "hosts2.test": true, "hosts3.test": true, "a.hosts1.test": false,
		"test": false, "": false, ".": false, "a..below.test": true,
	} {
		if got := l.HasName(name); got != want {
			t.Errorf("%q: got %v; want %v", name, got, want)
		}
	}
	for addr, want := range map[string]bool{
		"192.0.2.1": true, "192.0.2.0": false, "192.0.2.2": false, "::ffff:192.0.2.1": true, "192.0.2.9": true,
		"198.51.100.0": true, "198.51.100.255": true, "198.51.101.0": false, "198.51.99.255": false,
		"203.0.113.4": false, "203.0.113.5": true, "203.0.113.20": true, "203.0.113.21": false,
		"2001:db8:1::": true, "2001:db8:1:ffff:ffff:ffff:ffff:ffff": true, "2001:db8:2::": false, "2001:db8:1:2::9": true,
		"2001:db8::1": true, "2001:db8::": false, "2001:db8::2": false, "0.0.0.0": false, "::1": false, "255.255.255.255": false,
	} {
		if got := l.HasAddr(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %v; want %v", addr, got, want)
		}
	}
	if l.HasAddr(netip.Addr{}) {
		t.Error("has no address at all")
	}
}

func TestNothing(t *testing.T) {
	var none *filterlist.List
	for _, l := range []*filterlist.List{none, parse(t, ""), parse(t, "# nothing\n\n")} {
		if l.Len() != 0 || l.HasNames() || l.HasAddrs() || l.HasName("a.test") || l.HasAddr(netip.MustParseAddr("192.0.2.1")) || l.Mistakes().Lines != 0 {
			t.Errorf("got %+v; want an empty list", l)
		}
	}
	all := parse(t, "0.0.0.0/0\n::/0\n")
	for _, a := range []string{"0.0.0.0", "255.255.255.255", "::", "ffff::1"} {
		if !all.HasAddr(netip.MustParseAddr(a)) {
			t.Errorf("%s is not in the whole network", a)
		}
	}
}

func TestMistakesAreLeftOut(t *testing.T) {
	lines := []string{
		"a b", "bücher.test", "a..test", "-", "192.0.2.1/33", "192.0.2.9-192.0.2.1", "192.0.2.1-x", "fe80::1%eth0", "host:53",
		"10.1", "a/b", "a$b.test", strings.Repeat("a", 64) + ".test", strings.Repeat("a.", 130) + "test", "*.", ".", "||^", "192.0.2.1 a.test",
		strings.Repeat("x", 5000), "::ffff:10.0.0.0/104", "shop.test##.banner", "shop.test#@#.banner", "shop.test#?#.banner", "shop.test#$#body {}",
	}
	l := parse(t, strings.Join(lines, "\n")+"\nfine.test")
	if !l.HasName("fine.test") || l.HasAddrs() || l.HasName("shop.test") {
		t.Error("the good line is not there, or a bad one is")
	}
	m := l.Mistakes()
	if want := len(lines) - 1; m.Lines != want { // a hyphen alone is a name, if a strange one
		t.Errorf("got %d mistakes: %+v; want %d", m.Lines, m.First, want)
	}
	if long := parse(t, strings.Repeat("x", 4090)+strings.Repeat("y", 200)).Mistakes().First[0].Text; !strings.HasPrefix(long, "xxx") {
		t.Errorf("got %q; want the beginning of the line", long)
	}
	if len(m.First) != 10 || m.First[0].Line != 1 || m.First[0].Text != "a b" || m.First[0].Why == "" {
		t.Errorf("got %+v; want the first ten", m.First)
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errBroken }

func TestReadErrors(t *testing.T) {
	if _, err := filterlist.Parse(strings.NewReader("a.test\n"), broken{}); !errors.Is(err, errBroken) {
		t.Errorf("got %v; want the reader's error", err)
	}
}

// million has a million names.
func million() io.Reader {
	var b bytes.Buffer
	for n := range 1_000_000 {
		fmt.Fprintf(&b, "name%d.example%d.test\n", n, n%1000)
	}
	return &b
}

func TestAMillionNames(t *testing.T) {
	text := million()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	l, err := filterlist.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	size := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d entries in %d MB", l.Len(), size>>20)
	if l.Len() != 1_000_000 || size > 64<<20 {
		t.Errorf("got %d entries in %d bytes; want a million in 64 MB", l.Len(), size)
	}
	for _, n := range []int{0, 1, 499_999, 999_999} {
		if name := fmt.Sprintf("name%d.example%d.test", n, n%1000); !l.HasName(name) || l.HasName("x"+name) || l.HasName("x."+name) {
			t.Errorf("%s is not found, or others are", name)
		}
	}
	runtime.KeepAlive(text)
	if n := testing.AllocsPerRun(100, func() { l.HasName("deep.below.name7.example7.test") }); n != 0 {
		t.Errorf("got %v allocations; want none", n)
	}
}

func BenchmarkHasName(b *testing.B) {
	l, err := filterlist.Parse(million())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.HasName("deep.below.name7.example7.test")
	}
}

// naive is the slow twin of a List.
func naive(text, name string) bool {
	return slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool {
		switch {
		case strings.HasPrefix(line, "*."):
			return strings.HasSuffix(name, line[1:]) && len(name) > len(line)-1
		case strings.HasPrefix(line, "."):
			return name == line[1:] || strings.HasSuffix(name, line)
		}
		return line == name
	})
}

// FuzzParse has any text parsed, and what a simple list says compared with a slow twin.
func FuzzParse(f *testing.F) {
	f.Add(sample, "a.below.test")
	f.Add("*.a\n.b\nc", "x.a")
	f.Add("0.0.0.0\ta\r\n\x00|\xff", "a")
	f.Fuzz(func(t *testing.T, text, name string) {
		l := parse(t, text)
		l.HasName(name)
		if l.Len() > 0 && !l.HasNames() && !l.HasAddrs() {
			t.Error("entries that stand for nothing")
		}
		for _, c := range text + name {
			if (c < 'a' || c > 'c') && c != '.' && c != '*' && c != '\n' {
				return
			}
		}
		if l.Mistakes().Lines > 0 || strings.HasSuffix(name, ".") || strings.Contains(text, ".\n") || strings.HasSuffix(text, ".") {
			return
		}
		if name != "" && name[0] != '.' && l.HasName(name) != naive(text, name) {
			t.Errorf("%q in %q: got %v", name, text, l.HasName(name))
		}
	})
}
