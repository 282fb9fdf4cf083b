package intercepttest_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
)

// TestConformance runs the suite on the fake itself: they must agree about what
// a source is.
func TestConformance(t *testing.T) {
	for name, memory := range map[string]intercepttest.Memory{
		"remembers": intercepttest.Remembers,
		"forgets":   intercepttest.Forgets,
	} {
		t.Run(name, func(t *testing.T) {
			var source *intercepttest.Source
			var port uint16
			intercepttest.Conformance(t, intercepttest.Harness{
				New: func(_ *testing.T, timeout time.Duration) intercept.Source {
					source = intercepttest.New(intercepttest.Config{Timeout: timeout, Memory: memory})
					return source
				},
				Flow: func(t *testing.T, kind intercepttest.FlowKind) intercepttest.Flow {
					port++
					return newFakeFlow(t, source, kind, port)
				},
				Shows:    intercepttest.Complete,
				Kinds:    intercepttest.AllKinds(),
				Memory:   memory,
				DropTime: time.Millisecond,
			})
		})
	}
}

// fakeFlow sends packets through the fake.
type fakeFlow struct {
	source *intercepttest.Source
	packet intercepttest.Packet
	last   *intercepttest.Result
}

func newFakeFlow(t *testing.T, s *intercepttest.Source, kind intercepttest.FlowKind, port uint16) *fakeFlow {
	t.Helper()
	local, remote := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	if kind.Version == 6 {
		local, remote = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	}
	p := kexttest.UDP(netip.AddrPortFrom(local, port), netip.AddrPortFrom(remote, 53), kind.Direction)
	return &fakeFlow{source: s, packet: intercepttest.Packet{Payload: p.Bytes, Info: p.Info}}
}

func (f *fakeFlow) Tuple() packet.Tuple { return f.packet.Info.Tuple }

func (f *fakeFlow) Send() error {
	f.last = f.source.Send(f.packet)
	return nil
}

func (f *fakeFlow) Fate(within time.Duration) intercepttest.Fate {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	o, err := f.last.Wait(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return intercepttest.Lost
	}
	return intercepttest.Complete(o.Action, intercepttest.FlowKind{})
}
