package refd

import (
	"context"
	"fmt"

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
	wanted := make(map[conn.ID]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	found := []conn.Snapshot{}
	b.d.store.Range(func(c *conn.Conn) bool {
		if wanted[c.State().ID] {
			found = append(found, c.Snapshot())
		}
		return len(found) < len(wanted)
	})
	return found, nil
}
