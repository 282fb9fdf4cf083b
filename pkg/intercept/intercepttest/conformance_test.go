package intercepttest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

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
	src, dst := netip.AddrPortFrom(local, port), netip.AddrPortFrom(remote, 53)
	if kind.Direction == packet.Inbound {
		src, dst = dst, src
	}
	f := &fakeFlow{source: s, packet: intercepttest.Packet{Payload: udpPacket(src, dst)}}
	if err := packet.Decode(f.packet.Payload, kind.Direction, &f.packet.Info); err != nil {
		t.Fatal(err)
	}
	return f
}

// udpPacket is a UDP packet with one byte of payload, without checksums.
func udpPacket(src, dst netip.AddrPort) []byte {
	const udp = 17
	var b []byte
	if src.Addr().Is4() {
		b = append(b, 0x45, 0, 0, 29, 0, 0, 0, 0, 64, udp, 0, 0)
	} else {
		b = append(b, 0x60, 0, 0, 0, 0, 9, udp, 64)
	}
	b = append(b, src.Addr().AsSlice()...)
	b = append(b, dst.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	return append(b, 0, 9, 0, 0, 'x')
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
