package nameserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/netscope"
)

// setup is what follows from one set of Settings. It is replaced as a whole.
type setup struct {
	Settings
	pool    *pool
	routes  domains[*pool]
	spare   domains[struct{}] // of RebindProtection
	servers map[Upstream]*server

	mu      sync.Mutex // guards flights
	flights map[string]*flight
}

// flight is a question under way; all who ask it wait for the same answer.
type flight struct {
	done  chan struct{}
	entry *entry // set when done
	err   error
}

// newSetup makes a setup. Servers that old has, too, stay as they are.
func (s *Server) newSetup(settings Settings, old *setup) *setup {
	st := &setup{
		Settings: settings, routes: domains[*pool]{}, spare: domains[struct{}]{}, servers: map[Upstream]*server{},
		flights: map[string]*flight{},
	}
	st.pool = s.newPool(st, settings.Upstreams, old)
	st.pool.global = true
	for _, r := range settings.Routes {
		p := s.newPool(st, r.Upstreams, old)
		for _, d := range r.Domains {
			st.routes[d] = p
		}
	}
	for _, d := range settings.RebindAllow {
		st.spare[d] = struct{}{}
	}
	return st
}

func (s *Server) newPool(st *setup, list []Upstream, old *setup) *pool {
	p := &pool{spawn: s.spawn}
	for _, u := range list {
		srv := st.servers[u]
		if srv == nil && old != nil {
			srv = old.servers[u]
		}
		if srv == nil {
			srv = &server{Upstream: u, exchanger: s.newExchanger(u), states: s.cfg.States}
		}
		st.servers[u] = srv
		p.servers = append(p.servers, srv)
	}
	return p
}

func (s *Server) newExchanger(u Upstream) exchanger {
	switch u.Protocol {
	case PlainTCP:
		return s.newStreamExchanger(u, nil)
	case DoT:
		return s.newStreamExchanger(u, tlsConfig(u, s.cfg.RootCAs, "dot"))
	case DoH:
		return newHTTPSExchanger(u, &s.dialer, tlsConfig(u, s.cfg.RootCAs, "h2", "http/1.1"), &s.stats)
	case PlainUDP:
	}
	return &udpExchanger{upstream: u, dialer: &s.dialer, own: &s.own, stats: &s.stats, tcp: s.newStreamExchanger(u, nil)}
}

func tlsConfig(u Upstream, roots *x509.CertPool, protocols ...string) *tls.Config {
	return &tls.Config{
		ServerName: u.tlsName(), RootCAs: roots, MinVersion: tls.VersionTLS12, NextProtos: protocols,
		ClientSessionCache: tls.NewLRUClientSessionCache(4),
	}
}

// poolOf returns the servers for a name.
func (st *setup) poolOf(name string) *pool {
	if p, ok := st.routes.find(name); ok {
		return p
	}
	return st.pool
}

// join returns the flight of a question, and whether it is a new one.
func (st *setup) join(key string) (f *flight, first bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if f := st.flights[key]; f != nil {
		return f, false
	}
	f = &flight{done: make(chan struct{})}
	st.flights[key] = f
	return f, true
}

// flies reports whether a question is under way.
func (st *setup) flies(key []byte) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.flights[string(key)] != nil
}

// land ends a flight.
func (st *setup) land(key string, f *flight, e *entry, err error) {
	f.entry, f.err = e, err
	st.mu.Lock()
	delete(st.flights, key)
	st.mu.Unlock()
	close(f.done)
}

const (
	// staleWait is how long an answer is waited for before an expired one is given, staleRetry how long expired ones are given without
	// asking after that failed (RFC 8767 section 5: the client response timer and the failure recheck timer).
	staleWait  = 1800 * time.Millisecond
	staleRetry = 30 * time.Second
	// failLife is how long a failure is kept (RFC 9520 section 3.2 wants a second at least).
	failLife = time.Second
)

// errReplaced says that other settings came while a question was under way.
var errReplaced = errors.New("nameserver: settings have changed")

// resolve returns the answer to a question from the cache or from servers. An entry may be a failure, with its err.
func (s *Server) resolve(ctx context.Context, name string, a *ask) (*entry, Source, error) {
	for {
		st := s.setup.Load()
		e, src, err := s.resolveBy(ctx, st, name, a)
		if err == nil || ctx.Err() != nil || s.setup.Load() == st {
			return e, src, err
		}
	}
}

func (s *Server) resolveBy(ctx context.Context, st *setup, name string, a *ask) (*entry, Source, error) {
	now := time.Now().UnixNano()
	old := s.cache.get(a.key())
	if old != nil && old.fresh(now) {
		s.stats.hits.Add(1)
		return old, FromCache, nil
	}
	var patience <-chan time.Time
	if old != nil && !old.stale(now, st.StaleFor) {
		old = nil
	}
	if old != nil {
		if now < old.retry.Load() {
			s.stats.stale.Add(1)
			return old, FromStale, nil
		}
		t := time.NewTimer(staleWait)
		defer t.Stop()
		patience = t.C
	}
	s.stats.misses.Add(1)
	if err := s.goesRound(ctx, st, name, a); err != nil {
		return nil, FromUpstream, err
	}
	f := s.fly(st, name, a, old)
	select {
	case <-f.done:
		if f.err == nil {
			return f.entry, FromUpstream, nil
		}
		if old == nil {
			return nil, FromUpstream, f.err
		}
	case <-patience:
	case <-ctx.Done():
		return nil, FromUpstream, ctx.Err()
	}
	s.stats.stale.Add(1)
	return old, FromStale, nil
}

// fly asks the servers, or joins those who do already.
func (s *Server) fly(st *setup, name string, a *ask, old *entry) *flight {
	key := string(a.key())
	f, first := st.join(key)
	if !first {
		s.stats.joined.Add(1)
		return f
	}
	o := &outgoing{name: dns.Fqdn(name), qtype: a.req.qtype, do: a.req.do, cd: a.req.flags&bitCD != 0}
	s.spawn(func() {
		// Not the client's context: others may wait for the answer, and the cache does.
		ctx, cancel := context.WithTimeout(s.life(), st.Timeout)
		defer cancel()
		gen := s.cache.gen.Load()
		if s.setup.Load() != st {
			st.land(key, f, nil, errReplaced)
			return
		}
		e, err := s.forwardSafely(ctx, st, o)
		if p := (*panicError)(nil); errors.As(err, &p) {
			s.cfg.Log.Error("an answer could not be read: this is a bug of weir's", "name", name, "panic", p.value, "stack", string(p.stack))
		}
		if err != nil {
			err = fmt.Errorf("%w for %s: %w", ErrNoAnswer, name, err)
		} else if s.looped.Swap(false) && s.cfg.States != nil {
			s.cfg.States.Remove(stateLoop)
		}
		st.land(key, f, e, s.keep(key, name, o, gen, e, err, old))
	})
	return f
}

// panicError is a panic while an answer was read. What is read comes from the network, and the program around the Server may be one that
// must not end.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return "an answer that this program cannot bear" }

// survive is to be deferred by what reads answers.
func survive(err *error) {
	if p := recover(); p != nil {
		*err = &panicError{p, debug.Stack()}
	}
}

// forwardSafely is forward; a panic of it is an error.
func (s *Server) forwardSafely(ctx context.Context, st *setup, o *outgoing) (e *entry, err error) {
	defer survive(&err)
	return s.forward(ctx, st, o)
}

// keep puts the result into the cache, and returns the error that it has.
func (s *Server) keep(key, name string, o *outgoing, gen uint64, e *entry, err error, old *entry) error {
	switch {
	case err == nil:
	case old != nil:
		old.retry.Store(time.Now().Add(staleRetry).UnixNano())
		return err
	case s.life().Err() != nil:
		return err
	default:
		var perr error
		if e, perr = failureEntry(name, o, err); perr != nil {
			return errors.Join(err, perr)
		}
	}
	e.key = key
	if e.life > 0 {
		s.cache.put(e, gen)
	}
	return err
}

// failureEntry is SERVFAIL for a second.
func failureEntry(name string, o *outgoing, err error) (*entry, error) {
	m := &dns.Msg{
		MsgHdr:   dns.MsgHdr{Response: true, Rcode: dns.RcodeServerFailure},
		Question: []dns.Question{{Name: o.name, Qtype: o.qtype, Qclass: dns.ClassINET}},
	}
	e, perr := newEntry(name, m, failLife)
	if perr != nil {
		return nil, perr
	}
	e.err = err
	e.note = failureNote(err)
	return e, nil
}

// failureNote says in an answer why there is none.
func failureNote(err error) note {
	var rcode *rcodeError
	if errors.As(err, &rcode) {
		return note{code: dns.ExtendedErrorCodeOther, text: "the servers asked failed: " + rcode.Error(), set: true}
	}
	return note{code: dns.ExtendedErrorCodeNetworkError, text: "no server could be reached", set: true}
}

// forward asks the servers of a name, and makes an entry of the answer.
func (s *Server) forward(ctx context.Context, st *setup, o *outgoing) (*entry, error) {
	name := plainText(o.name)
	p := st.poolOf(name)
	m, from, err := p.ask(ctx, o, st.FailoverAfter)
	if err != nil {
		return nil, err
	}
	if st.RebindProtection && p.global && netscope.Of(from.Addr.Addr()) == netscope.Global {
		if _, spared := st.spare.find(name); !spared {
			s.stats.rebound.Add(uint64(removeLocal(m)))
		}
	}
	return upstreamEntry(o, m, from.Upstream.String(), &st.Settings)
}

// removeLocal takes out of a message the addresses that are not global, and returns their number.
func removeLocal(m *dns.Msg) (removed int) {
	kept := m.Answer[:0]
	for _, rr := range m.Answer {
		if n := localIn(rr); n > 0 {
			removed += n
			continue
		}
		kept = append(kept, rr)
	}
	m.Answer = kept
	return removed
}

// localIn counts the addresses in a record that are not global. Service bindings are left out whole: without a hint the client would ask
// for the address, with a part of them it would do what nobody meant.
func localIn(rr dns.RR) (n int) {
	var a Answer
	switch rr := rr.(type) {
	case *dns.A:
		a.addIP(rr.A)
	case *dns.AAAA:
		a.addIP(rr.AAAA)
	case *dns.SVCB:
		a.addService(rr)
	case *dns.HTTPS:
		a.addService(&rr.SVCB)
	}
	for _, addr := range a.Addrs {
		if local(addr) {
			n++
		}
	}
	return n
}

func local(a netip.Addr) bool {
	switch netscope.Of(a) {
	case netscope.Global, netscope.GlobalMulticast:
		return false
	default:
		return true
	}
}
