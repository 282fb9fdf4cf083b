package proxy

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/weirfw/weir/pkg/packet"
)

// clientTable has the request that was announced last for each client.
type clientTable map[clientKey]Request

type clientKey struct {
	protocol packet.Protocol
	client   netip.AddrPort
}

// minClients is how many entries are not worth a look at which of them are over.
const minClients = 1024

// announce notes where a client goes. The lock is held.
func (e *Engine) announce(r Request) error {
	key := clientKey{r.Protocol, r.Client}
	if old, ok := e.clients[key]; ok && old != r && e.inUse(old) {
		return fmt.Errorf("%w: %v to %v", ErrAmbiguous, old.Client, old.Destination)
	}
	if e.clients == nil {
		e.clients = clientTable{}
	}
	if len(e.clients) >= minClients+2*(e.pending.len()+len(e.live)) {
		for k, old := range e.clients {
			if !e.pending.has(old) && e.live[old].sessions == 0 {
				delete(e.clients, k)
			}
		}
	}
	if old, ok := e.clients[key]; ok && old != r {
		e.pending.remove(old) // it only waited for whether it goes on
	}
	e.clients[key] = r
	return nil
}

// inUse reports whether a request has a session, or is on its way.
func (e *Engine) inUse(r Request) bool {
	return e.live[r].sessions > 0 || e.pending.onItsWay(r, time.Now())
}

var _ Finder = (*director)(nil)

// Find implements Finder.
func (d *director) Find(p packet.Protocol, client netip.AddrPort) (Request, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.clients[clientKey{p, client}]
	return r, ok
}

// has reports whether r is here, maybe for too long.
func (t *pendingTable) has(r Request) bool {
	_, ok := t.entries[r]
	return ok
}

// onItsWay reports whether r was announced and has not arrived.
func (t *pendingTable) onItsWay(r Request, now time.Time) bool {
	e, ok := t.entries[r]
	return ok && !e.back && !now.After(e.until)
}
