package connstore_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// five are connections 1 to 5; 4 and 5 have ended.
func five(t *testing.T) *connstore.Live {
	t.Helper()
	l := connstore.NewLive(connstore.Config{})
	for n, s := range []conn.Snapshot{
		{
			Tuple:    packet.Tuple{Local: netip.MustParseAddrPort("10.0.0.1:5001"), Remote: netip.MustParseAddrPort("198.51.100.7:443"), Protocol: packet.TCP},
			Process:  &conn.Process{PID: 11, Path: "/usr/bin/Curl"},
			Domain:   "www.Example.org",
			Decision: verdict.Decision{Verdict: verdict.Accept, Reason: verdict.Reason{Rule: "web"}},
		},
		{
			Tuple:    packet.Tuple{Local: netip.MustParseAddrPort("10.0.0.1:5002"), Remote: netip.MustParseAddrPort("198.51.100.8:53"), Protocol: packet.UDP},
			Process:  &conn.Process{PID: 12, Path: "/usr/bin/python3", Script: "/srv/fetch.py"},
			Decision: verdict.Decision{Verdict: verdict.Block},
		},
		{
			Tuple:     packet.Tuple{Local: netip.MustParseAddrPort("[2001:db8::1]:443"), Remote: netip.MustParseAddrPort("[2001:db8:1::9]:5003"), Protocol: packet.TCP},
			Direction: packet.Inbound,
			Decision:  verdict.Decision{Verdict: verdict.Drop, Reason: verdict.Reason{Rule: "no-in"}},
		},
		{
			Tuple:    packet.Tuple{Local: netip.MustParseAddrPort("10.0.0.1:5004"), Remote: netip.MustParseAddrPort("203.0.113.5:443"), Protocol: packet.TCP},
			Process:  &conn.Process{PID: 11, Path: "/usr/bin/Curl"},
			Decision: verdict.Decision{Verdict: verdict.RerouteToSplitTun},
		},
		{
			Tuple:    packet.Tuple{Local: netip.MustParseAddrPort("10.0.0.1:5005"), Remote: netip.MustParseAddrPort("203.0.113.5:0"), Protocol: packet.ICMP},
			Decision: verdict.Decision{Verdict: verdict.Accept},
		},
	} {
		s.Started = after(time.Duration(n+1) * time.Minute)
		c, _ := l.GetOrAdd(s.Tuple, func() *conn.Snapshot { return &s })
		c.AddUsage(uint64(100*(n%3)), 1)
		c.Saw(&packet.Info{Seen: after(time.Duration(10-n) * time.Hour)})
		if n >= 3 {
			l.End(s.Tuple, after(20*time.Hour))
		}
	}
	return l
}

func ids(p connstore.Page) (got []int) {
	for _, s := range p.Connections {
		got = append(got, int(s.ID))
	}
	return got
}

func TestQuery(t *testing.T) {
	l := five(t)
	for _, tt := range []struct {
		name string
		q    connstore.Query
		want []int
	}{
		{"all, newest first", connstore.Query{}, []int{5, 4, 3, 2, 1}},
		{"oldest first", connstore.Query{Order: connstore.OldestFirst}, []int{1, 2, 3, 4, 5}},
		{"most bytes, then newest", connstore.Query{Order: connstore.MostBytesFirst}, []int{3, 5, 2, 4, 1}},
		{"last seen", connstore.Query{Order: connstore.LastSeenFirst}, []int{1, 2, 3, 4, 5}},
		{"verdict", connstore.Query{Verdicts: []verdict.Verdict{verdict.Accept}}, []int{5, 1}},
		{"split tunneled", connstore.Query{Verdicts: []verdict.Verdict{verdict.RerouteToSplitTun, verdict.Drop}}, []int{4, 3}},
		{"app, any case", connstore.Query{App: "cURL"}, []int{4, 1}},
		{"script", connstore.Query{App: "fetch"}, []int{2}},
		{"pid", connstore.Query{PID: 11}, []int{4, 1}},
		{"domain", connstore.Query{Domain: "example.ORG"}, []int{1}},
		{"network", connstore.Query{Remote: netip.MustParsePrefix("198.51.100.0/24")}, []int{2, 1}},
		{"network6", connstore.Query{Remote: netip.MustParsePrefix("2001:db8:1::/48")}, []int{3}},
		{"port of either side", connstore.Query{Port: 443}, []int{4, 3, 1}},
		{"protocol", connstore.Query{Protocols: []packet.Protocol{packet.UDP, packet.ICMP}}, []int{5, 2}},
		{"out", connstore.Query{Direction: connstore.OnlyOutbound}, []int{5, 4, 2, 1}},
		{"in", connstore.Query{Direction: connstore.OnlyInbound}, []int{3}},
		{"live", connstore.Query{Life: connstore.OnlyLive}, []int{3, 2, 1}},
		{"ended", connstore.Query{Life: connstore.OnlyEnded}, []int{5, 4}},
		{"rule", connstore.Query{Rule: "web"}, []int{1}},
		{"since", connstore.Query{Since: after(4 * time.Minute)}, []int{5, 4}},
		{"until", connstore.Query{Until: after(2 * time.Minute)}, []int{1}},
		{"both", connstore.Query{PID: 11, Life: connstore.OnlyLive}, []int{1}},
		{"none", connstore.Query{PID: 99}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := l.Query(tt.q)
			if got := ids(p); !slices.Equal(got, tt.want) || p.Total != len(tt.want) {
				t.Errorf("got %v of %d; want %v", got, p.Total, tt.want)
			}
			if p.Connections == nil || p.ByVerdict == nil {
				t.Error("got null in JSON")
			}
		})
	}
}

// Pages count everything that is selected, whatever they show of it.
func TestPages(t *testing.T) {
	l := five(t)
	for _, tt := range []struct {
		offset, limit int
		want          []int
	}{
		{0, 2, []int{5, 4}},
		{2, 2, []int{3, 2}},
		{4, 2, []int{1}},
		{5, 2, nil},
		{99, 0, nil},
		{-3, 1, []int{5}},
		{3, 0, []int{2, 1}},
		{0, -1, []int{5, 4, 3, 2, 1}},
	} {
		t.Run(fmt.Sprint(tt.offset, tt.limit), func(t *testing.T) {
			p := l.Query(connstore.Query{Offset: tt.offset, Limit: tt.limit})
			if got := ids(p); !slices.Equal(got, tt.want) {
				t.Errorf("got %v; want %v", got, tt.want)
			}
			by := p.ByVerdict
			if p.Total != 5 || by[verdict.Accept] != 2 || by[verdict.Block] != 1 || by[verdict.Drop] != 1 || by[verdict.RerouteToSplitTun] != 1 || len(by) != 4 {
				t.Errorf("got %d, %v; want 5 by verdict", p.Total, by)
			}
		})
	}
}

// A connection that ends between two looks of a query is in the answer once.
func TestEndingIsShownOnce(t *testing.T) {
	l := connstore.NewLive(connstore.Config{})
	const n = 200
	for k := range n {
		add(t, l, key(k), verdict.Accept, epoch())
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for k := range n {
			l.End(key(k), epoch())
		}
	}()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		if p := l.Query(connstore.Query{}); p.Total != n {
			t.Errorf("got %d; want %d", p.Total, n)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	l := connstore.NewLive(connstore.Config{})
	const n = 50_000
	for k := range n {
		l.GetOrAdd(key(k), snapshot)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for k := 0; pb.Next(); k++ {
			l.Get(key(k % n))
		}
	})
}

func BenchmarkAddAndEnd(b *testing.B) {
	l := connstore.NewLive(connstore.Config{})
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		l.GetOrAdd(key(n%60_000), snapshot)
		l.End(key(n%60_000), epoch())
	}
}

func BenchmarkQuery(b *testing.B) {
	l := connstore.NewLive(connstore.Config{})
	for k := range 10_000 {
		l.GetOrAdd(key(k), snapshot)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.Query(connstore.Query{Port: 2000, Limit: 50})
	}
}

func ExampleLive_Query() {
	l := connstore.NewLive(connstore.Config{})
	for n, v := range []verdict.Verdict{verdict.Accept, verdict.Block, verdict.Accept} {
		c, _ := l.GetOrAdd(key(n), snapshot)
		c.Update(func(s *conn.Snapshot) { s.Decision.Verdict = v })
	}
	l.End(key(2), after(time.Second))
	p := l.Query(connstore.Query{Verdicts: []verdict.Verdict{verdict.Accept}})
	fmt.Println(p.Total, "accepted")
	for _, s := range p.Connections {
		fmt.Println(s.ID, s.Tuple.Remote, "live:", s.Live())
	}
	// Output:
	// 2 accepted
	// 3 198.51.0.2:443 live: false
	// 1 198.51.0.0:443 live: true
}
