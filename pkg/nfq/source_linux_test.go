package nfq_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet/testflow"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// newSource returns a source whose timeout is short enough for a test.
func newSource(t *testing.T, cfg nfq.Config) *nfq.Source {
	t.Helper()
	s, err := nfq.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// withRules is a configuration whose rules are gone when Run ends.
func withRules(t *testing.T) nfq.Config {
	t.Helper()
	return nfq.Config{Host: nfq.HostConfig{
		Variant:   nfq.VariantNFT,
		OnExit:    nfq.ExitOpen,
		StateFile: filepath.Join(t.TempDir(), "state.json"),
		Redirects: nfq.DefaultRedirects(),
	}}
}

// TestIntegrationConformance is the contract of package intercept, with our
// ruleset, real packets and what their senders and receivers see.
func TestIntegrationConformance(t *testing.T) {
	n := testflow.Isolate(t)
	if n == nil {
		return
	}
	var elsewhere []net.PacketConn
	for _, address := range []string{"127.0.0.17:53", "127.0.0.17:717", "127.0.0.17:719", "[::1]:53", "[::1]:717", "[::1]:719"} {
		c, err := net.ListenPacket("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() }) // it ends with the process anyway
		elsewhere = append(elsewhere, c)
	}
	intercepttest.Conformance(t, intercepttest.Harness{
		New: func(t *testing.T, timeout time.Duration) intercept.Source {
			cfg := withRules(t)
			cfg.Timeout = timeout
			return newSource(t, cfg)
		},
		Flow: func(t *testing.T, kind intercepttest.FlowKind) intercepttest.Flow {
			return n.Flow(t, kind, elsewhere...)
		},
		Shows:    intercepttest.Complete,
		Kinds:    intercepttest.AllKinds(),
		Memory:   intercepttest.Remembers,
		DropTime: 80 * time.Millisecond,
	})
}

// TestIntegrationConformancePlain is the same without our ruleset: what the
// caller's own rules feed.
func TestIntegrationConformancePlain(t *testing.T) {
	n := testflow.Isolate(t)
	if n == nil {
		return
	}
	testflow.FeedQueue(t, 7)
	intercepttest.Conformance(t, intercepttest.Harness{
		New: func(t *testing.T, timeout time.Duration) intercept.Source {
			return newSource(t, nfq.Config{
				SkipRuleset: true, ReadQueues: []uint16{7}, Style: nfq.StylePlain, Timeout: timeout,
			})
		},
		Flow: func(t *testing.T, kind intercepttest.FlowKind) intercepttest.Flow { return n.Flow(t, kind) },
		Shows: func(a verdict.Action, _ intercepttest.FlowKind) intercepttest.Fate {
			if a.Verdict().Allows() {
				return intercepttest.Passed // marked, and no rule minds
			}
			return intercepttest.Lost
		},
		// The reader is the same: two kinds that differ in everything are enough.
		Kinds:    []intercepttest.FlowKind{{Version: 6, Direction: packet.Outbound}, {Version: 4, Direction: packet.Inbound}},
		Memory:   intercepttest.Forgets,
		DropTime: 80 * time.Millisecond,
	})
}

// accepting decides everything by Lookup.
type accepting struct{}

func (accepting) Lookup(*packet.Info) (verdict.Action, uint8, bool) {
	return verdict.ActionAccept, 0, true
}
func (accepting) Handle(p packet.Packet) { _ = p.Accept() } // not called

func TestIntegrationQueueTaken(t *testing.T) {
	if testflow.Isolate(t) == nil {
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	first := newSource(t, withRules(t))
	go func() { ended <- first.Run(ctx, accepting{}, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	err := newSource(t, withRules(t)).Run(ctx, accepting{}, func() { t.Error("the second source is ready") })
	if !errors.Is(err, nfq.ErrQueueTaken) || !errors.Is(err, intercept.ErrNotInterceptable) || !strings.Contains(err.Error(), "17040") {
		t.Errorf("got %v; want ErrQueueTaken for queue 17040", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
