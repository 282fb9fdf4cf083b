package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/weirfw/weir/pkg/connstore"
)

// ErrNoHistory is wrapped by History where none is kept.
var ErrNoHistory = errors.New("refd keeps no history")

// Memory is the part of a Backend that knows what was.
type Memory interface {
	// History answers a query about connections from the history on disk.
	History(ctx context.Context, q connstore.Query) (connstore.Page, error)
}

func historyRoutes(ask *asker) []*route {
	return []*route{
		on(http.MethodGet, "/api/v1/history", ReadOnly, "List connections of the history on disk, a page at a time.",
			func(ctx context.Context, r ListRequest) (Rows, error) {
				rows, err := list(ctx, ask.history, r)
				if errors.Is(err, ErrNoHistory) {
					return Rows{Rows: []Row{}}, nil
				}
				return rows, err
			}),
		on(http.MethodPost, "/api/v1/history/query", ReadOnly, "Query the history on disk, with everything that is known of connections, in groups, or over time.", ask.history),
	}
}

// History asks for connections in the history on disk. The error wraps ErrRefused if there is none.
func (c *Client) History(ctx context.Context, q connstore.Query) (p connstore.Page, err error) {
	return p, c.call(ctx, http.MethodPost, "history/query", q, &p)
}
