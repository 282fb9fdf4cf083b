package proxy

import (
	"context"
	"hash/maphash"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Server relays connections. Make it with New, then Run it. Its methods may be called from any goroutine.
type Server struct {
	cfg      Config
	counters []counters // one for each loop
	marks    verifyMarks
	impl
}

// New checks the configuration, without opening anything. The error says what is wrong with it; where proxies are not supported
// it wraps errors.ErrUnsupported.
func New(cfg Config) (*Server, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, counters: make([]counters, cfg.Loops)}
	s.marks.seed = maphash.MakeSeed()
	return s, nil
}

// Run listens, calls ready (if that is not nil), and relays until ctx is done. Then it stops accepting, gives running sessions
// Config.Drain to end, resets the rest, and returns nil. Other errors mean that it could not listen, or could not go on. It may
// run again after it returned; while it is active, another call returns ErrRunning. It must run in the network namespace of the
// process, and needs CAP_NET_ADMIN, and CAP_NET_BIND_SERVICE for ports below 1024.
func (s *Server) Run(ctx context.Context, ready func()) error { return s.run(ctx, ready) }

// Addrs returns the addresses that are listened on now; none unless Run is active and accepting.
func (s *Server) Addrs() []netip.AddrPort { return slices.Clone(s.addrs()) }

// Sessions lists the sessions that run now, in no order. It waits for the loops, which takes less than a millisecond each.
func (s *Server) Sessions() []Session { return s.sessions() }

// Reset ends the sessions of a request, TCP ones with a reset. It does not wait, but what arrives for the proxy
// afterwards comes after it.
func (s *Server) Reset(r Request) { s.reset(r) }

// Cut ends the sessions for which which returns true, TCP ones with a reset, and returns their number when they have ended.
// The function is called from the loops, several at a time. The only error is ctx's.
func (s *Server) Cut(ctx context.Context, which func(Request, Egress) bool) (int, error) {
	return s.cut(ctx, which)
}

// Verify tells that a client's address and port begin a new UDP connection. A session that has the same ones is looked up in
// conntrack again, and the Director is asked about it if it is a Keeper, before it carries another datagram of the client. It does not block and
// does not allocate.
func (s *Server) Verify(client netip.AddrPort) { s.marks.mark(client) }

// Stats returns the figures of this Server since it was made.
func (s *Server) Stats() Stats {
	st := Stats{Listen: s.Addrs()}
	for i := range s.counters {
		s.counters[i].addTo(&st)
	}
	return st
}

// Session is a session that runs.
type Session struct {
	Request
	Egress Egress `json:"egress"`
	// Peer is the client as the proxy sees it; its port differs from the client's own if conntrack had to change it.
	Peer netip.AddrPort `json:"peer"`
	// Connecting is set until the destination of a TCP session has answered.
	Connecting bool `json:"connecting,omitempty"`
	// Age is the time since the request was granted, Idle since the last data.
	Age  time.Duration `json:"age_ns"`
	Idle time.Duration `json:"idle_ns"`
	// Sent and Received are bytes of payload, towards the destination and towards the client.
	Sent     uint64 `json:"sent_bytes"`
	Received uint64 `json:"received_bytes"`
}

// verifyMarks remembers which clients began something new. Clients share a counter when their hashes collide; that costs a
// needless question to conntrack, and saves a lock and a table that would have to be cleaned.
type verifyMarks struct {
	seed    maphash.Seed
	epoch   atomic.Uint32 // all marks so far
	buckets [1 << 12]atomic.Uint32
}

func (m *verifyMarks) bucket(client netip.AddrPort) *atomic.Uint32 {
	return &m.buckets[maphash.Comparable(m.seed, client)%uint64(len(m.buckets))]
}

func (m *verifyMarks) mark(client netip.AddrPort) {
	m.bucket(client).Add(1)
	m.epoch.Add(1)
}
