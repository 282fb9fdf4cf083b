package connstore_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/connstore/connstoretest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// live is a store with these connections.
func live(t *testing.T, all []conn.Snapshot) *connstore.Live {
	t.Helper()
	l := connstore.NewLive(connstore.Config{MaxEnded: len(all) + 1, MaxQueries: len(all) + 1})
	for _, s := range all {
		first := s
		if s.Query != nil {
			first.ID = 0
			if id := l.PutQuery(first); id != s.ID {
				t.Fatalf("query %d is there as %d", s.ID, id)
			}
			continue
		}
		first.Ended = time.Time{}
		c, added := l.GetOrAdd(s.Tuple, func() *conn.Snapshot { return &first })
		if !added || c.State().ID != s.ID {
			t.Fatalf("connection %d is there as %d", s.ID, c.State().ID)
		}
		c.AddUsage(s.ReceivedBytes, s.SentBytes)
		for range s.Packets {
			c.Saw(&packet.Info{Seen: s.LastSeen})
		}
		if !s.Live() {
			l.End(s.Tuple, s.Ended)
		}
	}
	return l
}

func TestConformance(t *testing.T) {
	connstoretest.Conformance(t, func(t *testing.T, all []conn.Snapshot) connstoretest.Ask {
		t.Helper()
		l := live(t, all)
		return func(q connstore.Query) (connstore.Page, error) { return l.Query(q), nil }
	})
}

func TestValidate(t *testing.T) {
	for _, q := range []connstore.Query{
		{Order: 9}, {Order: connstore.MostConnectionsFirst}, {Direction: 3}, {Life: 3}, {Kind: 3}, {GroupBy: 99}, {Every: time.Millisecond}, {Every: -time.Second},
		{Offset: -1}, {Limit: -1}, {Exactly: map[connstore.Field]string{connstore.NoField: ""}}, {Exactly: map[connstore.Field]string{99: "x"}},
	} {
		if err := q.Validate(); !errors.Is(err, connstore.ErrQuery) {
			t.Errorf("%+v: got %v; want ErrQuery", q, err)
		}
	}
	for _, q := range []connstore.Query{{}, {Order: connstore.MostConnectionsFirst, GroupBy: connstore.ByApp, Every: time.Second, Limit: 3}} {
		if err := q.Validate(); err != nil {
			t.Errorf("%+v: got %v", q, err)
		}
	}
}

// Programs in other languages write queries, and read answers.
func TestJSON(t *testing.T) {
	in := `{"verdicts":["RerouteToSplitTun"],"remote":"10.0.0.0/8","direction":"out","life":"live","exactly":{"app":"/bin/a"},` +
		`"groupBy":"domain","every":60000000000,"order":"most-bytes","limit":5}`
	var q connstore.Query
	if err := json.Unmarshal([]byte(in), &q); err != nil {
		t.Fatal(err)
	}
	want := connstore.Query{
		Verdicts: []verdict.Verdict{verdict.RerouteToSplitTun}, Remote: netip.MustParsePrefix("10.0.0.0/8"), Direction: connstore.OnlyOutbound,
		Life: connstore.OnlyLive, Exactly: map[connstore.Field]string{connstore.ByApp: "/bin/a"}, GroupBy: connstore.ByDomain, Every: time.Minute,
		Order: connstore.MostBytesFirst, Limit: 5,
	}
	if !reflect.DeepEqual(q, want) {
		t.Errorf("got %+v; want %+v", q, want)
	}
	if out, err := json.Marshal(q); err != nil || string(out) != in {
		t.Errorf("got %s, %v; want %s", out, err, in)
	}
	for _, bad := range []string{`{"order":"biggest"}`, `{"direction":"up"}`, `{"life":"dead"}`, `{"kind":"odd"}`, `{"groupBy":"colour"}`, `{"exactly":{"colour":"red"}}`} {
		if err := json.Unmarshal([]byte(bad), &q); !errors.Is(err, connstore.ErrQuery) {
			t.Errorf("%s: got %v; want ErrQuery", bad, err)
		}
	}
	if out, err := json.Marshal(connstore.Query{}); err != nil || string(out) != "{}" {
		t.Errorf("got %s, %v; want {}", out, err)
	}
}

// A series that is too long keeps its end.
func TestLongSeries(t *testing.T) {
	all := connstoretest.Sample(2, 1)
	all[1].Started = all[0].Started.Add(10 * connstore.MaxPoints * time.Second)
	p := live(t, all).Query(connstore.Query{Every: time.Second})
	if n := len(p.Series); n != connstore.MaxPoints || p.Series[n-1].Total != 1 || p.Series[0].Total != 0 || !p.Series[n-1].Start.Equal(all[1].Started.Truncate(time.Second)) {
		t.Errorf("got %d points, %+v to %+v; want the latest %d", n, p.Series[0], p.Series[n-1], connstore.MaxPoints)
	}
}

func TestSums(t *testing.T) {
	s := connstore.Sums{ByVerdict: map[verdict.Verdict]int{}}
	for _, v := range verdict.All() {
		s.ByVerdict[v] = 1 << v
	}
	if a, r := s.Allowed(), s.Refused(); a != 1<<2+1<<5+1<<6+1<<8 || r != 1<<3+1<<4+1<<7 {
		t.Errorf("got %b allowed, %b refused; want verdicts 2, 5, 6, 8, and 3, 4, 7", a, r)
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

// Lists have an end: looking for a million numbers would take a store's time from others.
func TestListsAreBounded(t *testing.T) {
	for what, fill := range map[string]func(q *connstore.Query, n int){
		"ids":       func(q *connstore.Query, n int) { q.IDs = make([]conn.ID, n) },
		"verdicts":  func(q *connstore.Query, n int) { q.Verdicts = make([]verdict.Verdict, n) },
		"protocols": func(q *connstore.Query, n int) { q.Protocols = make([]packet.Protocol, n) },
	} {
		var q connstore.Query
		if fill(&q, connstore.MaxValues); q.Validate() != nil {
			t.Errorf("%s: got %v for %d", what, q.Validate(), connstore.MaxValues)
		}
		if fill(&q, connstore.MaxValues+1); !errors.Is(q.Validate(), connstore.ErrQuery) {
			t.Errorf("%s: got %v; want ErrQuery", what, q.Validate())
		}
	}
}
