package nameserver

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/packet"
)

func TestCacheIsBounded(t *testing.T) {
	const most = 1 << 20
	c := newCache(most)
	entries := func(i int) *entry {
		o := &outgoing{name: fmt.Sprintf("n%d.test.", i), qtype: dns.TypeA}
		e, err := upstreamEntry(o, message(o, 0, o.name+" 300 IN A 192.0.2.1"), "x", &Settings{MaxTTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		e.key = o.name
		return e
	}
	hot := []byte("n0.test.")
	for i := range 6000 {
		c.put(entries(i), 0)
		if c.get(hot) == nil {
			t.Fatalf("after %d entries the one in use is gone", i)
		}
	}
	n, bytes := c.size()
	if bytes > most || n < 1000 || n == 6000 || c.get([]byte("n1.test.")) != nil || c.get([]byte("n5999.test.")) == nil {
		t.Errorf("got %d entries of %d bytes", n, bytes)
	}
	if got := len(c.entries()); got != n {
		t.Errorf("got %d listed; want %d", got, n)
	}
	if got := c.flush(nil); got != n {
		t.Errorf("got %d flushed; want %d", got, n)
	}
	c.put(entries(1), 0)
	if n, _ := c.size(); n != 0 {
		t.Error("what was asked for before a flush is kept")
	}
	c.put(entries(1), 1)
	if n, _ := c.size(); n != 1 {
		t.Error("nothing is kept any more")
	}
	for _, bytes := range []int64{-1, 100} {
		if none := newCache(bytes); func() int { none.put(entries(1), 0); n, _ := none.size(); return n }() != 0 {
			t.Errorf("a cache of %d bytes keeps something", bytes)
		}
	}
}

// TestMemory100k: 100,000 names, each with an address record and a CNAME before it, stay under 100 MB, and all are kept.
func TestMemory100k(t *testing.T) {
	if testing.Short() {
		t.Skip("fills a cache")
	}
	const names = 100_000
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	for i := range names {
		o := &outgoing{name: fmt.Sprintf("host-%d.some-domain-%d.example.test.", i, i%1000), qtype: dns.TypeA}
		m := message(o, 0)
		m.Answer = []dns.RR{
			&dns.CNAME{Hdr: dns.RR_Header{Name: o.name, Rrtype: dns.TypeCNAME, Class: 1, Ttl: 300}, Target: fmt.Sprintf("edge-%d.cdn.example.", i)},
			&dns.A{Hdr: dns.RR_Header{Name: fmt.Sprintf("edge-%d.cdn.example.", i), Rrtype: dns.TypeA, Class: 1, Ttl: 300}, A: net.IPv4(10, byte(i>>16), byte(i>>8), byte(i)).To4()},
		}
		e, err := upstreamEntry(o, m, "udp://9.9.9.9", &s.setup.Load().Settings)
		if err != nil {
			t.Fatal(err)
		}
		a, err := newLookup(plainText(o.name), Type(o.qtype))
		if err != nil {
			t.Fatal(err)
		}
		e.key = string(a.key())
		s.cache.put(e, 0)
	}
	used := heap() - before
	st := s.Stats()
	t.Logf("%d names: %.1f MB in use, %.1f MB by our own count", st.Cached, float64(used)/1e6, float64(st.CacheBytes)/1e6)
	if st.Cached != names {
		t.Errorf("got %d names kept; want all %d", st.Cached, names)
	}
	if used > 100e6 {
		t.Errorf("got %d bytes; want less than 100 MB", used)
	}
	if ratio := float64(used) / float64(st.CacheBytes); ratio > 1.25 {
		t.Errorf("got %.2f times what we count: the bound of the cache does not hold", ratio)
	}
	runtime.KeepAlive(s)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func cachedServer(tb testing.TB) (s *Server, packets [][]byte) {
	tb.Helper()
	s, err := New(Config{Settings: Settings{Upstreams: []Upstream{{Addr: netip.MustParseAddrPort("9.9.9.9:53")}}}})
	if err != nil {
		tb.Fatal(err)
	}
	for i := range 1000 {
		o := &outgoing{name: fmt.Sprintf("n%d.example.test.", i), qtype: dns.TypeA}
		e, err := upstreamEntry(o, message(o, 0, o.name+" 3600 IN A 192.0.2.1"), "x", &s.setup.Load().Settings)
		if err != nil {
			tb.Fatal(err)
		}
		b, err := query(strings.ToUpper(o.name), dns.TypeA).SetEdns0(1232, false).Pack()
		if err != nil {
			tb.Fatal(err)
		}
		req, _ := parseRequest(b)
		a := &ask{req: req}
		a.setKey()
		e.key = string(a.key())
		s.cache.put(e, 0)
		packets = append(packets, b)
	}
	return s, packets
}

func TestCachedAnswersAllocateNothing(t *testing.T) {
	s, packets := cachedServer(t)
	a, out := new(ask), make([]byte, 0, 4096)
	from, at := netip.MustParseAddrPort("127.0.0.1:4000"), netip.MustParseAddrPort("127.0.0.17:53")
	if n := testing.AllocsPerRun(1000, func() {
		s.begin(a, packets[0], from, at, packet.UDP, out)
		if _, ok := s.fast(a, out); !ok {
			t.Fatal("not from the cache")
		}
	}); n != 0 {
		t.Errorf("got %v allocations; want 0", n)
	}
}

func BenchmarkCached(b *testing.B) {
	s, packets := cachedServer(b)
	from, at := netip.MustParseAddrPort("127.0.0.1:4000"), netip.MustParseAddrPort("127.0.0.17:53")
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		a, out := new(ask), make([]byte, 0, 4096)
		for i := rand.IntN(1000); pb.Next(); i++ {
			s.begin(a, packets[i%len(packets)], from, at, packet.UDP, out)
			if _, ok := s.fast(a, out); !ok {
				b.Fatal("not from the cache")
			}
		}
	})
}
