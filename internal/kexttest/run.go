package kexttest

import (
	"context"
	"sync"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Handler is an intercept.Handler that hands packets to the test, and an intercept.Traffic. The zero value knows nothing and decides
// nothing.
type Handler struct {
	OnLookup func(*packet.Info) (verdict.Action, uint8, bool)
	OnHandle func(packet.Packet)

	mu    sync.Mutex // guards what follows
	usage []intercept.Usage
	ends  []packet.Tuple
}

// Lookup implements intercept.Handler.
func (h *Handler) Lookup(i *packet.Info) (verdict.Action, uint8, bool) {
	if h.OnLookup == nil {
		return 0, 0, false
	}
	return h.OnLookup(i)
}

// Handle implements intercept.Handler.
func (h *Handler) Handle(p packet.Packet) {
	if h.OnHandle != nil {
		h.OnHandle(p)
	}
}

// ReportUsage implements intercept.Traffic.
func (h *Handler) ReportUsage(u []intercept.Usage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.usage = append(h.usage, u...)
}

// ReportEnd implements intercept.Traffic.
func (h *Handler) ReportEnd(e intercept.End) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ends = append(h.ends, e.Tuple)
}

// Usage returns what was reported so far.
func (h *Handler) Usage() []intercept.Usage {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]intercept.Usage(nil), h.usage...)
}

// Ends returns what was reported so far.
func (h *Handler) Ends() []packet.Tuple {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]packet.Tuple(nil), h.ends...)
}

// Decide makes a Handler apply an action to every packet.
func Decide(t testutil.TB, action verdict.Action) func(packet.Packet) {
	return func(p packet.Packet) {
		if err := packet.Apply(p, action, 0); err != nil {
			t.Errorf("%v: %v", action, err)
		}
	}
}

// Start runs a source until the test ends, and returns when it is ready. It may be used in a bubble. What ends by itself is told by
// ended, too.
func Start(t testutil.TB, s intercept.Source, h intercept.Handler) (stop func() error, ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, over, result := make(chan struct{}), make(chan error, 1), make(chan error, 1)
	go func() {
		err := s.Run(ctx, h, func() { close(ready) })
		over <- err
		result <- err
	}()
	stop = sync.OnceValue(func() error { cancel(); return <-over })
	t.Cleanup(func() { _ = stop() }) //nolint:errcheck // the test that cares has called it
	select {
	case <-ready:
	case err := <-over:
		over <- err
		t.Fatalf("got %v; want a running source", err)
	}
	return stop, result
}

// NoFaults fails the test if the driver was told what it does not understand.
func NoFaults(t testutil.TB, d interface{ Faults() []string }) {
	t.Helper()
	t.Cleanup(func() {
		if f := d.Faults(); len(f) > 0 {
			t.Errorf("got %d faults, the first: %s; want none", len(f), f[0])
		}
	})
}
