package nameserver

import "sync/atomic"

// counters are what Stats shows.
type counters struct {
	queries, malformed, refused, overload atomic.Uint64
	hits, misses, joined, stale           atomic.Uint64
	blocked, failed, loops                atomic.Uint64
	wrong, rebound                        atomic.Uint64
	tcpConns, tcpRefused, unsent          atomic.Uint64
}

// Stats are figures since the Server was made.
type Stats struct {
	// Queries counts packets of clients, Malformed those that no question was found in, or one that no resolver answers,
	// Refused those of other hosts, and Overload those for which there was no room.
	Queries   uint64 `json:"queries"`
	Malformed uint64 `json:"malformed"`
	Refused   uint64 `json:"refused"`
	Overload  uint64 `json:"overload"`
	// Hits counts answers from the cache, Misses questions that it had none for, Joined those of them that somebody else was
	// asking already, and Stale expired answers given.
	Hits   uint64 `json:"hits"`
	Misses uint64 `json:"misses"`
	Joined uint64 `json:"joined"`
	Stale  uint64 `json:"stale"`
	// Blocked counts queries that were refused by decision, Failed those that no server answered, and Loops our own queries
	// that came back.
	Blocked uint64 `json:"blocked"`
	Failed  uint64 `json:"failed"`
	Loops   uint64 `json:"loops"`
	// Wrong counts packets of upstream servers that answered something else, and Rebound addresses that RebindProtection removed.
	Wrong   uint64 `json:"wrong"`
	Rebound uint64 `json:"rebound"`
	// Unsent counts answers by UDP that the system did not take.
	Unsent uint64 `json:"unsent"`
	// TCPConns counts connections of clients, TCPRefused those for which there was no room.
	TCPConns   uint64 `json:"tcp_conns"`
	TCPRefused uint64 `json:"tcp_refused"`
	// Cached is the number of answers in the cache now, CacheBytes what they take.
	Cached     int   `json:"cached"`
	CacheBytes int64 `json:"cache_bytes"`
}

// Stats returns the figures.
func (s *Server) Stats() Stats {
	c := &s.stats
	st := Stats{
		Queries: c.queries.Load(), Malformed: c.malformed.Load(), Refused: c.refused.Load(), Overload: c.overload.Load(),
		Hits: c.hits.Load(), Misses: c.misses.Load(), Joined: c.joined.Load(), Stale: c.stale.Load(),
		Blocked: c.blocked.Load(), Failed: c.failed.Load(), Loops: c.loops.Load(),
		Wrong: c.wrong.Load(), Rebound: c.rebound.Load(),
		TCPConns: c.tcpConns.Load(), TCPRefused: c.tcpRefused.Load(), Unsent: c.unsent.Load(),
	}
	st.Cached, st.CacheBytes = s.cache.size()
	return st
}
