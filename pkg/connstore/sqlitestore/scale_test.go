package sqlitestore_test

import (
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/connstore/connstoretest"
	"github.com/weirfw/weir/pkg/connstore/sqlitestore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// rowsVar has TestScale measure, with that many connections; see scripts/bench-history.sh.
const rowsVar = "WEIR_HISTORY_ROWS"

// bytesPerRow is what a connection may take on the disk.
const bytesPerRow = 600

// Many connections: they fit, and every kind of question is answered. How long that takes is told, and judged only where it is measured.
func TestScale(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv(rowsVar))
	measured, times := err == nil, 5
	if !measured {
		n, times = rowsInTests, 1
	}
	path := database(t)
	s := open(t, path)
	began := time.Now()
	for i := 0; i < n; i += 2000 {
		part := connstoretest.Sample(2000, uint64(i))
		for k := range part {
			part[k].ID += conn.ID(i)
			part[k].Started = part[k].Started.Add(time.Duration(i) * 10 * time.Second)
		}
		write(t, s, part)
	}
	t.Logf("%d written in %v", n, time.Since(began).Round(time.Millisecond))
	if s.Len() != n {
		t.Fatalf("got %d connections; want %d", s.Len(), n)
	}
	size, err := s.Size()
	if err != nil || size > int64(n)*bytesPerRow+8<<20 {
		t.Errorf("got %d bytes, %v; want %d a connection", size, err, bytesPerRow)
	}
	t.Logf("%d bytes, %d a connection", size, size/int64(n))
	for name, q := range pages() {
		var slowest time.Duration
		for range times {
			began := time.Now()
			p := ask(t, s, q)
			slowest = max(slowest, time.Since(began))
			if p.Total == 0 {
				t.Errorf("%s: nothing is selected", name)
			}
		}
		t.Logf("%-28s %v", name, slowest.Round(100*time.Microsecond))
		if measured && slowest > 200*time.Millisecond {
			t.Errorf("%s: a page took %v; want 200 ms at most", name, slowest)
		}
	}
	if measured {
		memory(t, s, path)
	}
}

// pages are a page of each kind.
func pages() map[string]connstore.Query {
	all := map[string]connstore.Query{
		"everything":       {},
		"text":             {Text: "example"},
		"text of address":  {Text: "51.100.3"},
		"split tunneled":   {Verdicts: []verdict.Verdict{verdict.RerouteToSplitTun}},
		"app":              {App: "app3"},
		"pid":              {PID: 11},
		"domain":           {Domain: "host1"},
		"network":          {Remote: netip.MustParsePrefix("198.51.100.0/28")},
		"IPv6 network":     {Remote: netip.MustParsePrefix("2001:db8:1::/48")},
		"port":             {Port: 22},
		"protocol":         {Protocols: []packet.Protocol{packet.UDP}},
		"inbound":          {Direction: connstore.OnlyInbound},
		"rule":             {Rule: "web"},
		"time":             {Since: connstoretest.Epoch().Add(time.Hour), Until: connstoretest.Epoch().Add(20 * time.Hour)},
		"exactly":          {Exactly: map[connstore.Field]string{connstore.ByInterface: "wlan0", connstore.ByPort: "443"}},
		"number":           {IDs: []conn.ID{17}},
		"far away":         {Offset: 4_000},
		"most bytes":       {Order: connstore.MostBytesFirst},
		"last seen":        {Order: connstore.LastSeenFirst},
		"oldest":           {Order: connstore.OldestFirst},
		"series":           {Every: time.Hour},
		"filtered, series": {App: "curl", Verdicts: []verdict.Verdict{verdict.Accept}, Port: 443, Every: time.Hour},
	}
	for _, f := range connstore.Fields() {
		all["by "+f.String()] = connstore.Query{GroupBy: f, Order: connstore.MostConnectionsFirst}
	}
	for name, q := range all {
		q.Limit = 100
		all[name] = q
	}
	return all
}

// memory tells what an open database takes, and how long it takes to open.
func memory(t *testing.T, s *sqlitestore.Store, path string) {
	t.Helper()
	n := s.Len()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	second := open(t, path)
	t.Logf("opened in %v", time.Since(began).Round(time.Millisecond))
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("%d bytes of memory a connection", (after.HeapAlloc-before.HeapAlloc)/uint64(n))
	if second.Len() != n {
		t.Errorf("got %d connections; want %d", second.Len(), n)
	}
}
