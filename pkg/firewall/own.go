package firewall

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// preAuth holds local ports whose next outbound connection is ours.
type preAuth struct {
	n     atomic.Int64 // len(ports): nothing registered costs one load
	mu    sync.Mutex   // guards ports
	ports map[authPort]time.Time
}

type authPort struct {
	protocol packet.Protocol
	port     uint16
}

// PreAuthenticate lets the next connection of ours from that local port pass
// without rules, once, within ttl. Call it after binding the socket and before
// connecting it. Errors wrap ErrConfig.
func (f *Firewall) PreAuthenticate(p packet.Protocol, localPort uint16, ttl time.Duration) error {
	if !p.HasPorts() || localPort == 0 || ttl <= 0 {
		return fmt.Errorf("%w: pre-authenticate %v port %d for %v: needs a protocol with ports, a port and a time", ErrConfig, p, localPort, ttl)
	}
	a := &f.preAuth
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ports == nil {
		a.ports = make(map[authPort]time.Time)
	}
	a.ports[authPort{p, localPort}] = time.Now().Add(ttl)
	a.n.Store(int64(len(a.ports)))
	return nil
}

// Withdraw takes back what PreAuthenticate registered. Call it before closing a socket whose connection may never have begun: its port
// can be another program's then.
func (f *Firewall) Withdraw(p packet.Protocol, localPort uint16) {
	f.preAuth.take(authPort{p, localPort}, time.Time{})
}

// take uses up a registration.
func (a *preAuth) take(k authPort, now time.Time) bool {
	if a.n.Load() == 0 {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	until, ok := a.ports[k]
	delete(a.ports, k)
	a.n.Store(int64(len(a.ports)))
	return ok && now.Before(until)
}

func (a *preAuth) prune(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, until := range a.ports {
		if now.After(until) {
			delete(a.ports, k)
		}
	}
	a.n.Store(int64(len(a.ports)))
}

// ownBeforeProcess recognises our own connections by what the packet says.
func (f *Firewall) ownBeforeProcess(s *conn.Snapshot) (verdict.Decision, bool) {
	switch {
	case s.Direction == packet.Outbound && f.preAuth.take(authPort{s.Tuple.Protocol, s.Tuple.Local.Port()}, s.Started):
		return decide(verdict.Accept, CodePreAuth, "a connection that this firewall announced"), true
	case f.cfg.OwnEgress != nil && f.cfg.OwnEgress(s.Tuple):
		return decide(verdict.Accept, CodeOwnEgress, "made by this firewall's proxy"), true
	}
	return verdict.Decision{}, false
}

// ownProcess recognises our own connections by their process. Inbound ones pass
// only from this host: anybody can send packets to a port of ours.
func (f *Firewall) ownProcess(s *conn.Snapshot) (verdict.Decision, bool) {
	if s.Process == nil || s.Process.PID == 0 || s.Process.PID != f.cfg.OwnPID {
		return verdict.Decision{}, false
	}
	if s.Direction == packet.Inbound && !toSelf(s) {
		return verdict.Decision{}, false
	}
	return decide(verdict.Accept, CodeOwnProcess, "a connection of this firewall itself"), true
}

// answerTime is how long after a multicast or broadcast query its answers are
// let in. SSDP devices may delay an answer by up to MX seconds, 5 at most
// (UPnP Device Architecture 1.1, section 1.3.2); mDNS and LLMNR answer sooner.
const answerTime = 10 * time.Second

// multicastQueries remembers who asked by multicast or broadcast: the answer
// comes from an address that was never sent to.
type multicastQueries struct {
	n  atomic.Int64 // of ports: nobody asked costs one load
	mu sync.Mutex   // guards m
	m  map[uint16][]*conn.Conn
}

// note remembers an accepted outbound query.
func (q *multicastQueries) note(c *conn.Conn, s *conn.Snapshot) {
	if s.Direction != packet.Outbound || s.Tuple.Protocol != packet.UDP || !s.Scope.IsGroup() || !s.Decision.Verdict.Allows() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.m == nil {
		q.m = make(map[uint16][]*conn.Conn)
	}
	port := s.Tuple.Local.Port()
	if !slices.Contains(q.m[port], c) {
		q.m[port] = append(q.m[port], c)
	}
	q.n.Store(int64(len(q.m)))
}

// answers reports whether an inbound connection of a neighbour answers a query:
// it comes to the port that asked while the asking goes on, or shortly after.
func (q *multicastQueries) answers(s *conn.Snapshot, now time.Time) bool {
	if q.n.Load() == 0 || s.Direction != packet.Inbound || s.Tuple.Protocol != packet.UDP {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.ContainsFunc(q.m[s.Tuple.Local.Port()], func(c *conn.Conn) bool { return answering(c, now) })
}

func answering(c *conn.Conn, now time.Time) bool {
	s := c.State()
	if !s.Decision.Verdict.Allows() {
		return false
	}
	if s.Live() && s.Decision.Action().Permanent() {
		// the kernel handles its packets: it goes on until its end is reported
		return true
	}
	last := c.LastSeen()
	if s.Ended.After(last) {
		last = s.Ended
	}
	return now.Sub(last) < answerTime
}

func (q *multicastQueries) prune(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for port, cs := range q.m {
		cs = slices.DeleteFunc(cs, func(c *conn.Conn) bool { return !answering(c, now) })
		if len(cs) == 0 {
			delete(q.m, port)
		} else {
			q.m[port] = cs
		}
	}
	q.n.Store(int64(len(q.m)))
}
