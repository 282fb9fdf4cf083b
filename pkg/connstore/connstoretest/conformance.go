package connstoretest

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Ask puts a query to a store.
type Ask func(q connstore.Query) (connstore.Page, error)

// Conformance tests that a store answers as every store has to. open makes a store that has exactly these connections, which are in
// the order of their numbers, for as long as t runs.
func Conformance(t *testing.T, open func(t *testing.T, all []conn.Snapshot) Ask) {
	t.Run("Filters", func(t *testing.T) { testFilters(t, open(t, five())) })
	t.Run("Pages", func(t *testing.T) { testPages(t, open(t, five())) })
	t.Run("Groups", func(t *testing.T) { testGroups(t, open(t, five())) })
	t.Run("Series", func(t *testing.T) { testSeries(t, open(t, five())) })
	t.Run("Empty", func(t *testing.T) { testEmpty(t, open(t, nil)) })
	t.Run("Model", func(t *testing.T) {
		all := Sample(300, 1)
		ask := open(t, all)
		r := rand.New(rand.NewPCG(2, 3)) //nolint:gosec // the same queries each time
		for range 250 {
			q := randomQuery(r, all)
			if err := q.Validate(); err != nil {
				t.Fatalf("%s: %v", text(t, q), err)
			}
			p, err := ask(q)
			if err != nil {
				t.Fatalf("%s: %v", text(t, q), err)
			}
			if got, want := text(t, inUTC(p)), text(t, inUTC(model(all, q))); got != want {
				t.Fatalf("%s: %s", text(t, q), difference(got, want))
			}
		}
	})
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// difference shows where two texts part.
func difference(got, want string) string {
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	around := func(s string) string { return s[max(0, min(i, len(s))-200):min(len(s), i+200)] }
	return "got ..." + around(got) + "...; want ..." + around(want) + "..."
}

// inUTC makes pages comparable: stores need not keep a time's zone.
func inUTC(p connstore.Page) connstore.Page {
	p.Connections = slices.Clone(p.Connections)
	for i := range p.Connections {
		s := &p.Connections[i]
		s.Started, s.Ended, s.LastSeen = s.Started.UTC(), s.Ended.UTC(), s.LastSeen.UTC()
	}
	return p
}

// five are connections 1 to 5, of which the second is a DNS query; 4 and 5 have ended.
func five() []conn.Snapshot {
	addr, day := netip.MustParseAddrPort, 24*time.Hour
	curl := &conn.Process{PID: 11, Path: "/usr/bin/Curl"}
	all := []conn.Snapshot{
		{
			Tuple: packet.Tuple{Local: addr("10.0.0.1:5001"), Remote: addr("198.51.100.7:443"), Protocol: packet.TCP}, Process: curl,
			Domain: "www.Example.org", CNAMEs: []string{"edge.Example.net"},
			Decision: verdict.Decision{Verdict: verdict.Accept, Reason: verdict.Reason{Code: "rule", Rule: "web"}},
		},
		{
			Tuple:    packet.Tuple{Local: addr("10.0.0.1:5002"), Remote: addr("198.51.100.8:53"), Protocol: packet.UDP},
			Process:  &conn.Process{PID: 12, Path: "/usr/bin/python3", Script: "/srv/fetch.py"},
			Decision: verdict.Decision{Verdict: verdict.Block},
			Query:    &conn.Query{Type: "AAAA", Error: "refused"},
		},
		{
			Tuple:     packet.Tuple{Local: addr("[2001:db8::1]:443"), Remote: addr("[2001:db8:1::9]:5003"), Protocol: packet.TCP},
			Direction: packet.Inbound,
			Decision:  verdict.Decision{Verdict: verdict.Drop, Reason: verdict.Reason{Rule: "no-in"}},
		},
		{
			Tuple: packet.Tuple{Local: addr("10.0.0.1:5004"), Remote: addr("203.0.113.5:443"), Protocol: packet.TCP}, Process: curl,
			Decision: verdict.Decision{Verdict: verdict.RerouteToSplitTun},
			SplitTun: &conn.SplitTunContext{Interface: "wlan0", Source: netip.MustParseAddr("192.0.2.4"), Engine: "kroute", Route: 1},
		},
		{
			Tuple:    packet.Tuple{Local: addr("10.0.0.1:0"), Remote: addr("203.0.113.5:0"), Protocol: packet.ICMP},
			Decision: verdict.Decision{Verdict: verdict.Accept},
		},
	}
	for n := range all {
		s := &all[n]
		s.ID = conn.ID(n + 1)
		s.Started = Epoch().Add(time.Duration(n+1) * time.Minute)
		s.LastSeen = Epoch().Add(time.Duration(10-n) * time.Hour)
		s.ReceivedBytes, s.SentBytes, s.Packets = uint64(100*(n%3)), 1, 1
		if n >= 3 {
			s.Ended = Epoch().Add(day)
		}
	}
	return all
}

type filterCase struct {
	name string
	q    connstore.Query
	want []conn.ID
}

func filters() []filterCase {
	after := func(d time.Duration) time.Time { return Epoch().Add(d) }
	return []filterCase{
		{"all, newest first", connstore.Query{}, []conn.ID{5, 4, 3, 2, 1}},
		{"oldest first", connstore.Query{Order: connstore.OldestFirst}, []conn.ID{1, 2, 3, 4, 5}},
		{"most bytes, then newest", connstore.Query{Order: connstore.MostBytesFirst}, []conn.ID{3, 5, 2, 4, 1}},
		{"last seen", connstore.Query{Order: connstore.LastSeenFirst}, []conn.ID{1, 2, 3, 4, 5}},
		{"number", connstore.Query{IDs: []conn.ID{2, 4, 77}}, []conn.ID{4, 2}},
		{"verdict", connstore.Query{Verdicts: []verdict.Verdict{verdict.Accept}}, []conn.ID{5, 1}},
		{"split tunneled", connstore.Query{Verdicts: []verdict.Verdict{verdict.RerouteToSplitTun, verdict.Drop}}, []conn.ID{4, 3}},
		{"app, any case", connstore.Query{App: "cURL"}, []conn.ID{4, 1}},
		{"script", connstore.Query{App: "fetch"}, []conn.ID{2}},
		{"interpreter", connstore.Query{App: "python"}, []conn.ID{2}},
		{"pid", connstore.Query{PID: 11}, []conn.ID{4, 1}},
		{"domain", connstore.Query{Domain: "example.ORG"}, []conn.ID{1}},
		{"network", connstore.Query{Remote: netip.MustParsePrefix("198.51.100.0/24")}, []conn.ID{2, 1}},
		{"network6", connstore.Query{Remote: netip.MustParsePrefix("2001:db8:1::/48")}, []conn.ID{3}},
		{"every IPv4 address", connstore.Query{Remote: netip.MustParsePrefix("0.0.0.0/0")}, []conn.ID{5, 4, 2, 1}},
		{"every IPv6 address", connstore.Query{Remote: netip.MustParsePrefix("::/0")}, []conn.ID{3}},
		{"port of either side", connstore.Query{Port: 443}, []conn.ID{4, 3, 1}},
		{"protocol", connstore.Query{Protocols: []packet.Protocol{packet.UDP, packet.ICMP}}, []conn.ID{5, 2}},
		{"out", connstore.Query{Direction: connstore.OnlyOutbound}, []conn.ID{5, 4, 2, 1}},
		{"in", connstore.Query{Direction: connstore.OnlyInbound}, []conn.ID{3}},
		{"live", connstore.Query{Life: connstore.OnlyLive}, []conn.ID{3, 2, 1}},
		{"ended", connstore.Query{Life: connstore.OnlyEnded}, []conn.ID{5, 4}},
		{"connections", connstore.Query{Kind: connstore.OnlyConnections}, []conn.ID{5, 4, 3, 1}},
		{"DNS queries", connstore.Query{Kind: connstore.OnlyQueries}, []conn.ID{2}},
		{"rule", connstore.Query{Rule: "web"}, []conn.ID{1}},
		{"rule, not a part", connstore.Query{Rule: "we"}, nil},
		{"without a reason", connstore.Query{Without: []verdict.Code{"own-service", "rule"}}, []conn.ID{5, 4, 3, 2}},
		{"since", connstore.Query{Since: after(4 * time.Minute)}, []conn.ID{5, 4}},
		{"until", connstore.Query{Until: after(2 * time.Minute)}, []conn.ID{1}},
	}
}

func texts() []filterCase {
	exactly := func(f connstore.Field, value string) connstore.Query {
		return connstore.Query{Exactly: map[connstore.Field]string{f: value}}
	}
	return []filterCase{
		{"text in app", connstore.Query{Text: "FETCH"}, []conn.ID{2}},
		{"text in domain", connstore.Query{Text: "www"}, []conn.ID{1}},
		{"text in CNAME", connstore.Query{Text: "edge.example.net"}, []conn.ID{1}},
		{"text in rule", connstore.Query{Text: "no-IN"}, []conn.ID{3}},
		{"text in address", connstore.Query{Text: "51.100.8"}, []conn.ID{2}},
		{"text in IPv6 address", connstore.Query{Text: "DB8:1:"}, []conn.ID{3}},
		{"text nowhere", connstore.Query{Text: "nowhere"}, nil},
		{"exactly an app", exactly(connstore.ByApp, "/usr/bin/Curl"), []conn.ID{4, 1}},
		{"exactly a script", exactly(connstore.ByApp, "/srv/fetch.py"), []conn.ID{2}},
		{"a script's interpreter", exactly(connstore.ByApp, "/usr/bin/python3"), nil},
		{"app not known", exactly(connstore.ByApp, ""), []conn.ID{5, 3}},
		{"part of an app", exactly(connstore.ByApp, "/usr/bin/Cur"), nil},
		{"exactly a domain", exactly(connstore.ByDomain, "www.Example.org"), []conn.ID{1}},
		{"domain not known", exactly(connstore.ByDomain, ""), []conn.ID{5, 4, 3, 2}},
		{"exactly an address", exactly(connstore.ByAddress, "203.0.113.5"), []conn.ID{5, 4}},
		{"exactly an IPv6 address", exactly(connstore.ByAddress, "2001:db8:1::9"), []conn.ID{3}},
		{"exactly a remote port", exactly(connstore.ByPort, "443"), []conn.ID{4, 1}},
		{"no port", exactly(connstore.ByPort, ""), []conn.ID{5}},
		{"exactly a verdict", exactly(connstore.ByVerdict, "Block"), []conn.ID{2}},
		{"exactly a protocol", exactly(connstore.ByProtocol, "icmp"), []conn.ID{5}},
		{"exactly a direction", exactly(connstore.ByDirection, "in"), []conn.ID{3}},
		{"exactly a rule", exactly(connstore.ByRule, "no-in"), []conn.ID{3}},
		{"no rule", exactly(connstore.ByRule, ""), []conn.ID{5, 4, 2}},
		{"exactly an interface", exactly(connstore.ByInterface, "wlan0"), []conn.ID{4}},
		{"no such value", exactly(connstore.ByProtocol, "nothing"), nil},
		{"both", connstore.Query{PID: 11, Life: connstore.OnlyLive}, []conn.ID{1}},
		{"exactly both", connstore.Query{Exactly: map[connstore.Field]string{connstore.ByApp: "/usr/bin/Curl", connstore.ByInterface: ""}}, []conn.ID{1}},
		{"none", connstore.Query{PID: 99}, nil},
	}
}

func testFilters(t *testing.T, ask Ask) {
	for _, tt := range slices.Concat(filters(), texts()) {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ask(tt.q)
			if got := ids(p); err != nil || !slices.Equal(got, tt.want) || p.Total != len(tt.want) {
				t.Errorf("got %v of %d, %v; want %v", got, p.Total, err, tt.want)
			}
			if p.Connections == nil || p.ByVerdict == nil {
				t.Error("got null in JSON")
			}
		})
	}
}

func ids(p connstore.Page) (got []conn.ID) {
	for _, s := range p.Connections {
		got = append(got, s.ID)
	}
	return got
}

// Pages count everything that is selected, whatever they show of it.
func testPages(t *testing.T, ask Ask) {
	for _, tt := range []struct {
		offset, limit int
		want          []conn.ID
	}{
		{0, 2, []conn.ID{5, 4}},
		{2, 2, []conn.ID{3, 2}},
		{4, 2, []conn.ID{1}},
		{5, 2, nil},
		{99, 0, nil},
		{3, 0, []conn.ID{2, 1}},
		{3, int(^uint(0) >> 1), []conn.ID{2, 1}},
	} {
		p, err := ask(connstore.Query{Offset: tt.offset, Limit: tt.limit})
		if got := ids(p); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%d from %d: got %v, %v; want %v", tt.limit, tt.offset, got, err, tt.want)
		}
		if got, want := text(t, p.Sums), `{"total":5,"byVerdict":{"Accept":2,"Block":1,"Drop":1,"RerouteToSplitTun":1},"receivedBytes":400,"sentBytes":5}`; got != want {
			t.Errorf("got %s; want %s", got, want)
		}
	}
}

func testGroups(t *testing.T, ask Ask) {
	for _, tt := range []struct {
		by    connstore.Field
		order connstore.Order
		want  string
	}{
		{connstore.ByApp, connstore.MostConnectionsFirst, "|/usr/bin/Curl|/srv/fetch.py"},
		{connstore.ByApp, connstore.MostBytesFirst, "|/srv/fetch.py|/usr/bin/Curl"},
		{connstore.ByApp, connstore.NewestFirst, "|/usr/bin/Curl|/srv/fetch.py"},
		{connstore.ByApp, connstore.OldestFirst, "/usr/bin/Curl|/srv/fetch.py|"},
		{connstore.ByApp, connstore.LastSeenFirst, "/usr/bin/Curl|/srv/fetch.py|"},
		{connstore.ByDomain, connstore.OldestFirst, "www.Example.org|"},
		{connstore.ByAddress, connstore.OldestFirst, "198.51.100.7|198.51.100.8|2001:db8:1::9|203.0.113.5"},
		{connstore.ByPort, connstore.OldestFirst, "443|53|5003|"},
		{connstore.ByVerdict, connstore.OldestFirst, "Accept|Block|Drop|RerouteToSplitTun"},
		{connstore.ByProtocol, connstore.MostConnectionsFirst, "tcp|icmp|udp"},
		{connstore.ByDirection, connstore.OldestFirst, "out|in"},
		{connstore.ByRule, connstore.OldestFirst, "web||no-in"},
		{connstore.ByInterface, connstore.OldestFirst, "|wlan0"},
	} {
		p, err := ask(connstore.Query{GroupBy: tt.by, Order: tt.order})
		var keys []string
		for _, g := range p.Groups {
			keys = append(keys, g.Key)
		}
		if got := strings.Join(keys, "|"); err != nil || got != tt.want || len(p.Connections) != 0 || p.TotalGroups != len(keys) || p.Total != 5 {
			t.Errorf("by %v, %v: got %q of %d, %d connections of %d, %v; want %q and none of 5", tt.by, tt.order, got, p.TotalGroups, len(p.Connections), p.Total, err, tt.want)
		}
	}
	p, err := ask(connstore.Query{GroupBy: connstore.ByApp, Order: connstore.MostConnectionsFirst, Offset: 1, Limit: 1})
	want := `[{"key":"/usr/bin/Curl","total":2,"byVerdict":{"Accept":1,"RerouteToSplitTun":1},"receivedBytes":0,"sentBytes":2,` +
		`"first":"2026-01-02T03:05:05Z","last":"2026-01-02T03:08:05Z","lastSeen":"2026-01-02T13:04:05Z"}]`
	if got := text(t, p.Groups); err != nil || got != want || p.TotalGroups != 3 {
		t.Errorf("a page of groups: got %s of %d, %v; want %s of 3", got, p.TotalGroups, err, want)
	}
}

func testSeries(t *testing.T, ask Ask) {
	p, err := ask(connstore.Query{Exactly: map[connstore.Field]string{connstore.ByApp: "/usr/bin/Curl"}, Every: time.Minute, Limit: 1})
	want := `[{"start":"2026-01-02T03:05:00Z","total":1,"byVerdict":{"Accept":1},"receivedBytes":0,"sentBytes":1},` +
		`{"start":"2026-01-02T03:06:00Z","total":0,"byVerdict":{},"receivedBytes":0,"sentBytes":0},` +
		`{"start":"2026-01-02T03:07:00Z","total":0,"byVerdict":{},"receivedBytes":0,"sentBytes":0},` +
		`{"start":"2026-01-02T03:08:00Z","total":1,"byVerdict":{"RerouteToSplitTun":1},"receivedBytes":0,"sentBytes":1}]`
	if got := text(t, p.Series); err != nil || got != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}

func testEmpty(t *testing.T, ask Ask) {
	for _, q := range []connstore.Query{{}, {GroupBy: connstore.ByApp}, {Every: time.Hour}, {Offset: 3, Limit: 3}} {
		p, err := ask(q)
		if got, want := text(t, p), `{"total":0,"byVerdict":{},"receivedBytes":0,"sentBytes":0,"connections":[]}`; err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", text(t, q), got, err, want)
		}
	}
}
