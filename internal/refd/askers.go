package refd

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/packet"
)

// What is remembered of queries.
const (
	// maxRedirected bounds the sockets whose queries are redirected.
	maxRedirected = 4096
	// maxAskers are queries under way whose process is not looked for again: it is wanted up to three times, and its socket may be
	// gone by then. The nameserver has no more of them waiting.
	maxAskers = nameserver.DefaultMaxQueries
)

// askers find the processes that ask our nameserver.
type askers struct {
	processes  firewall.QuickFinder
	redirected redirected
	known      [maxAskers]atomic.Pointer[asker]
}

// asker is who asks a query.
type asker struct {
	query uint64
	// process is nil if it is not known.
	process *conn.Process
	// asked is the server that the process means to ask.
	asked netip.AddrPort
}

// info describes the packet that a query came with, as its process sent it.
func (a *askers) info(q *nameserver.Query) *packet.Info {
	i := &packet.Info{Direction: packet.Outbound, Version: 6, Seen: q.Time}
	i.Tuple = packet.Tuple{Protocol: q.Protocol, Local: q.Client, Remote: q.Server}
	if to, ok := a.redirected.meant(q.Protocol, q.Client); ok {
		i.Remote = to
	}
	if i.Is4() {
		i.Version = 4
	}
	return i
}

// find returns who asks.
func (a *askers) find(ctx context.Context, q *nameserver.Query) *asker {
	if who := a.found(q); who != nil {
		return who
	}
	i := a.info(q)
	who := &asker{query: q.ID, asked: i.Remote}
	p, err := a.processes.Find(ctx, i, packet.Outbound)
	if err != nil && i.Remote != q.Server {
		// its socket was redirected once, and asks us of itself now
		i.Remote = q.Server
		p, err = a.processes.Find(ctx, i, packet.Outbound)
	}
	if err == nil {
		who.process = p
	}
	a.keep(who)
	return who
}

// quick is find without waiting; ok is false if it would have to wait.
func (a *askers) quick(q *nameserver.Query) (who *asker, ok bool) {
	if who := a.found(q); who != nil {
		return who, true
	}
	i := a.info(q)
	p, ok := a.processes.FindQuick(i, packet.Outbound)
	if !ok {
		return nil, false
	}
	who = &asker{q.ID, p, i.Remote}
	a.keep(who)
	return who, true
}

func (a *askers) found(q *nameserver.Query) *asker {
	if who := a.known[q.ID%maxAskers].Load(); who != nil && who.query == q.ID {
		return who
	}
	return nil
}

func (a *askers) keep(who *asker) { a.known[who.query%maxAskers].Store(who) }

// redirected remembers where queries were to go that are redirected to us: their sockets are found by that.
type redirected struct {
	mu    sync.Mutex // guards what follows
	to    map[socket]netip.AddrPort
	order []socket // a ring, of which next is the oldest
	next  int
}

type socket struct {
	protocol packet.Protocol
	local    netip.AddrPort
}

// note remembers a connection that is about to be redirected.
func (r *redirected) note(t packet.Tuple) {
	k := socket{t.Protocol, t.Local}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.to == nil {
		r.to = make(map[socket]netip.AddrPort)
	}
	if _, known := r.to[k]; !known {
		if len(r.order) < maxRedirected {
			r.order = append(r.order, k)
		} else {
			delete(r.to, r.order[r.next])
			r.order[r.next] = k
			r.next = (r.next + 1) % maxRedirected
		}
	}
	r.to[k] = t.Remote
}

// meant returns the server that a socket asked last.
func (r *redirected) meant(p packet.Protocol, local netip.AddrPort) (to netip.AddrPort, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	to, ok = r.to[socket{p, local}]
	return to, ok
}
