package api

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
)

// Queries wait for each other, as long as who asks does, and have pages.
func TestQueriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn, running := make(chan struct{}), 0
		var limit int
		slow := func(_ context.Context, q connstore.Query) (connstore.Page, error) {
			limit = q.Limit
			running++
			<-goOn
			return connstore.Page{}, nil
		}
		a := newAsker(slow, slow)
		for i := range 3 * maxQueries {
			ask := []query{a.live, a.history}[i%2]
			go func() { _, _ = ask(t.Context(), connstore.Query{}) }() // it is about when
			synctest.Wait()
		}
		if running != maxQueries || limit != MaxPage {
			t.Errorf("%d run at once, with a page of %d; want %d, %d", running, limit, maxQueries, MaxPage)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := a.live(ctx, connstore.Query{}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v; want it not to be waited for", err)
		}
		if _, err := a.history(t.Context(), connstore.Query{IDs: make([]conn.ID, connstore.MaxValues+1)}); !errors.Is(err, ErrRefused) {
			t.Errorf("got %v; want ErrRefused", err)
		}
		close(goOn)
		synctest.Wait()
		if running != 3*maxQueries {
			t.Errorf("%d were answered", running)
		}
	})
}
