package firewall

import (
	"sync"
	"sync/atomic"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/verdict"
)

// base is what a handler, a decider or a person said about a connection, before
// tunnel and split tunnel were asked: their answer replaces it in the record.
type base struct {
	decision   verdict.Decision
	inspect    bool
	skipTunnel bool
}

// baseTable keeps the bases that a record does not tell.
type baseTable struct {
	n  atomic.Int64 // len(m): nothing kept costs one load
	mu sync.Mutex   // guards m
	m  map[*conn.Conn]base
}

// keep notes the base of a decision about c that is about to be recorded.
func (t *baseTable) keep(c *conn.Conn, r *filtered) {
	if !r.byPolicy || r.said == nil && !r.Inspect && !r.SkipTunnel {
		t.drop(c)
		return
	}
	b := base{r.Decision, r.Inspect, r.SkipTunnel}
	if r.said != nil {
		b.decision = *r.said
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = make(map[*conn.Conn]base)
	}
	t.m[c] = b
	t.n.Store(int64(len(t.m)))
}

// drop forgets about c.
func (t *baseTable) drop(c *conn.Conn) {
	if t.n.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, c)
	t.n.Store(int64(len(t.m)))
}

// of returns the base of the decision about c that s tells. ok is false if it is
// not known: somebody else decided.
func (t *baseTable) of(c *conn.Conn, s *conn.Snapshot) (b base, ok bool) {
	if t.n.Load() != 0 {
		t.mu.Lock()
		b, ok = t.m[c]
		t.mu.Unlock()
		if ok {
			return b, true
		}
	}
	switch s.Decision.Reason.Code {
	case CodeTunnel, CodeTunnelFailed, CodeSplitTun, CodeSplitTunFailed:
		return base{}, false
	}
	return base{decision: s.Decision}, true
}
