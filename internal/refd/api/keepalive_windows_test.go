package api_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
)

// slow takes its time, in which net/http reads ahead.
type slow struct{ fake }

func (slow) Status(ctx context.Context) (api.Status, error) {
	select {
	case <-ctx.Done():
		return api.Status{}, fmt.Errorf("the request ended: %w", context.Cause(ctx))
	case <-time.After(3 * time.Millisecond):
	}
	return api.Status{Version: "1"}, nil
}

// Many requests on one connection are served, each to its end.
func TestKeepAlive(t *testing.T) {
	pipe := serve(t, slow{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			c := api.NewClient(pipe)
			defer c.Close()
			for n := range 100 {
				began := time.Now()
				if _, err := c.Status(t.Context()); err != nil {
					t.Errorf("%d: %v after %v", n, err, time.Since(began))
					return
				}
			}
		})
	}
	wg.Wait()
}
