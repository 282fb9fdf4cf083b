package refd

import (
	"context"
	"fmt"
	"sync"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
)

// Connection implements api.Backend.
func (b backend) Connection(ctx context.Context, id conn.ID) (conn.Snapshot, error) {
	if c := b.d.store.ByID(id); c != nil {
		return c.Snapshot(), nil
	}
	page, err := b.Connections(ctx, connstore.Query{IDs: []conn.ID{id}, Limit: 1})
	if err != nil {
		return conn.Snapshot{}, err
	}
	if len(page.Connections) == 0 {
		return conn.Snapshot{}, fmt.Errorf("connection %d: %w: it ended, and is kept no more", id, api.ErrNotFound)
	}
	return page.Connections[0], nil
}

// LookUp implements api.Backend.
func (b backend) LookUp(_ context.Context, ids []conn.ID) ([]conn.Snapshot, error) {
	return b.d.lookups.find(b.d.store, ids), nil
}

// maxLookups is how many connections are remembered.
const maxLookups = 4096

// lookups finds connections by their numbers, of which the store has no index. A page asks for the same ones every two seconds: what was
// found is remembered, so that not all connections are looked at again and again.
type lookups struct {
	mu    sync.Mutex // guards known
	known map[conn.ID]*conn.Conn
}

// find returns those that live. One that is over does not come back: its number is not given again.
func (l *lookups) find(store *connstore.Live, ids []conn.ID) []conn.Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil || len(l.known) > maxLookups {
		l.known = make(map[conn.ID]*conn.Conn)
	}
	missing := make(map[conn.ID]bool)
	for _, id := range ids {
		if _, ok := l.known[id]; !ok {
			l.known[id], missing[id] = nil, true
		}
	}
	if len(missing) > 0 {
		store.Range(func(c *conn.Conn) bool {
			if id := c.State().ID; missing[id] {
				l.known[id] = c
				delete(missing, id)
			}
			return len(missing) > 0
		})
	}
	found := []conn.Snapshot{}
	for _, id := range ids {
		if c := l.known[id]; c != nil && c.State().Live() {
			found = append(found, c.Snapshot())
		}
	}
	return found
}
