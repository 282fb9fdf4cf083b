package connstoretest

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// randomQuery makes a valid query with up to three filters, most of which select some of all.
func randomQuery(r *rand.Rand, all []conn.Snapshot) connstore.Query {
	q := connstore.Query{
		Order: connstore.Order(r.IntN(4)), Limit: pick(r, 0, 1, 7, 50), Offset: pick(r, 0, 0, 0, 3, 40),
		Every: pick(r, 0, 0, time.Minute, 7*time.Second, 24*time.Hour),
	}
	if r.IntN(3) == 0 {
		q.GroupBy, q.Order = pick(r, connstore.Fields()...), connstore.Order(r.IntN(5))
	}
	for range r.IntN(4) {
		restrict(r, &q, &all[r.IntN(len(all))])
	}
	return q
}

// restrict adds a filter that selects s.
func restrict(r *rand.Rand, q *connstore.Query, s *conn.Snapshot) {
	filters := []func(){
		func() { q.Verdicts = append(q.Verdicts, s.Decision.Verdict, verdict.Block) },
		func() { q.Protocols = append(q.Protocols, s.Tuple.Protocol, packet.UDP) },
		func() { q.Direction = connstore.Direction(r.IntN(3)) },
		func() { q.Life = connstore.Life(r.IntN(3)) },
		func() { q.Kind = connstore.Kind(r.IntN(3)) },
		func() { q.Rule = s.Decision.Reason.Rule },
		func() { q.Without = append(q.Without, s.Decision.Reason.Code) },
		func() { q.Port = pick(r, s.Tuple.Remote.Port(), s.Tuple.Local.Port()) },
		func() { q.Domain = pick(r, "EXAMPLE", "host1", ".test") },
		func() {
			q.Text = pick(r, "Example", "2001:DB8", "app3", "edge7", "curl", "51.100.1", "ünïcode", "rule")
		},
		func() { q.App = pick(r, "app", "CURL", "fetch", "svchost") },
		func() { q.Since = s.Started },
		func() { q.Until = s.Started },
		func() { q.IDs = append(q.IDs, s.ID, s.ID/2, s.ID+1) },
		func() {
			a := s.Tuple.Remote.Addr()
			q.Remote = netip.PrefixFrom(a, pick(r, 0, 12, 24, a.BitLen())).Masked()
		},
		func() {
			if s.Process != nil {
				q.PID = s.Process.PID
			}
		},
		func() {
			f := pick(r, connstore.Fields()...)
			q.Exactly = maps.Clone(q.Exactly)
			if q.Exactly == nil {
				q.Exactly = map[connstore.Field]string{}
			}
			q.Exactly[f] = f.Of(s)
		},
	}
	pick(r, filters...)()
}
