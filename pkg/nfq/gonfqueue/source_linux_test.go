package gonfqueue_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	nfqueue "github.com/florianl/go-nfqueue/v2"

	"github.com/weirfw/weir/internal/testnet/testflow"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/nfq/gonfqueue"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

const testQueue = 7

func newSource(t *testing.T, cfg gonfqueue.Config) *gonfqueue.Source {
	t.Helper()
	cfg.Queue.NfQueue = testQueue
	s, err := gonfqueue.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestIntegrationConformance is the contract of package intercept, with real
// packets and what their senders and receivers see.
func TestIntegrationConformance(t *testing.T) {
	n := testflow.Isolate(t)
	if n == nil {
		return
	}
	testflow.FeedQueue(t, testQueue)
	for _, fallback := range []verdict.Action{verdict.ActionDrop, verdict.ActionAccept} {
		t.Run("default "+fallback.String(), func(t *testing.T) {
			intercepttest.Conformance(t, intercepttest.Harness{
				New: func(t *testing.T, timeout time.Duration) intercept.Source {
					return newSource(t, gonfqueue.Config{Timeout: timeout, Default: fallback})
				},
				Flow:     func(t *testing.T, kind intercepttest.FlowKind) intercepttest.Flow { return n.Flow(t, kind) },
				Shows:    shows,
				Kinds:    kinds(fallback),
				Memory:   intercepttest.Forgets,
				Default:  fallback,
				DropTime: 60 * time.Millisecond,
			})
		})
	}
}

// kinds are all, but for the second default two that differ in everything are
// enough.
func kinds(fallback verdict.Action) []intercepttest.FlowKind {
	if fallback == verdict.ActionDrop {
		return intercepttest.AllKinds()
	}
	return []intercepttest.FlowKind{{Version: 6, Direction: packet.Outbound}, {Version: 4, Direction: packet.Inbound}}
}

// shows is what an action looks like when no rule minds the marks.
func shows(a verdict.Action, _ intercepttest.FlowKind) intercepttest.Fate {
	if a.Verdict().Allows() {
		return intercepttest.Passed
	}
	return intercepttest.Lost
}

// idle is a handler that is never asked.
type idle struct{}

func (idle) Lookup(*packet.Info) (verdict.Action, uint8, bool) { return verdict.ActionAccept, 0, true }
func (idle) Handle(packet.Packet)                              {}

func TestIntegrationQueueTaken(t *testing.T) {
	if testflow.Isolate(t) == nil {
		return
	}
	testutil.NoLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	source := newSource(t, gonfqueue.Config{})
	go func() { ended <- source.Run(ctx, idle{}, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	if err := source.Run(ctx, idle{}, nil); err == nil {
		t.Error("got nil for a second Run; want an error")
	}
	err := newSource(t, gonfqueue.Config{}).Run(ctx, idle{}, func() { t.Error("the second source is ready") })
	if !errors.Is(err, intercept.ErrNotInterceptable) || !strings.Contains(err.Error(), "queue 7") {
		t.Errorf("got %v; want ErrNotInterceptable for queue 7", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestIntegrationBindWhilePacketsFlow: the library takes a packet that comes while
// it binds for a wrong answer.
func TestIntegrationBindWhilePacketsFlow(t *testing.T) {
	n := testflow.Isolate(t)
	if n == nil {
		return
	}
	testutil.NoLeaks(t)
	testflow.FeedQueue(t, testQueue)
	f := n.Flow(t, intercepttest.FlowKind{Version: 4, Direction: packet.Outbound})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				if err := f.Send(); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	for range 500 { // the moment is short
		ctx, cancel := context.WithCancel(t.Context())
		source := newSource(t, gonfqueue.Config{Queue: nfqueue.Config{MaxQueueLen: 100}})
		if err := source.Run(ctx, idle{}, cancel); err != nil {
			t.Error(err)
		}
		cancel()
	}
	close(stop)
	<-stopped
}
