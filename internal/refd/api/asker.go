package api

import (
	"context"
	"fmt"

	"github.com/weirfw/weir/pkg/connstore"
)

const (
	// MaxPage is how many connections, or groups, one answer has. Who wants more asks for the next page.
	MaxPage = 10_000
	// maxQueries is how many queries are answered at once: each may look at all connections, and none needs more than a role to read.
	maxQueries = 4
)

// query answers a Query.
type query func(context.Context, connstore.Query) (connstore.Page, error)

// asker bounds what queries cost.
type asker struct{ live, history query }

func newAsker(live, history query) *asker {
	slots := make(chan struct{}, maxQueries)
	bounded := func(ask query) query {
		return func(ctx context.Context, q connstore.Query) (connstore.Page, error) {
			if err := q.Validate(); err != nil {
				return connstore.Page{}, fmt.Errorf("%w: %w", ErrRefused, err)
			}
			if q.Limit == 0 || q.Limit > MaxPage {
				q.Limit = MaxPage
			}
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			case <-ctx.Done():
				return connstore.Page{}, context.Cause(ctx) //nolint:wrapcheck // nobody reads it
			}
			return ask(ctx, q)
		}
	}
	return &asker{bounded(live), bounded(history)}
}
