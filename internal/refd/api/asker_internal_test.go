package api

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
)

// Queries wait for each other, as long as who asks does, and have pages.
func TestQueriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		var running, limit atomic.Int64
		slow := func(_ context.Context, q connstore.Query) (connstore.Page, error) {
			limit.Store(int64(q.Limit))
			running.Add(1)
			<-goOn
			return connstore.Page{}, nil
		}
		a := newAsker(slow, slow)
		for i := range 3 * maxQueries {
			ask := []query{a.live, a.history}[i%2]
			go func() { _, _ = ask(t.Context(), connstore.Query{}) }() // it is about when
			synctest.Wait()
		}
		if running.Load() != maxQueries || limit.Load() != MaxPage {
			t.Errorf("%d run at once, with a page of %d; want %d, %d", running.Load(), limit.Load(), maxQueries, MaxPage)
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
		if n := running.Load(); n != 3*maxQueries {
			t.Errorf("%d were answered", n)
		}
	})
}
