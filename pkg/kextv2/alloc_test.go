package kextv2_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/kextwire/stream"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/kextv2"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// memory is a device that gives the same bytes again and again, without a driver.
type memory struct {
	in     []byte
	closed chan struct{}
	burst  chan struct{}
}

func (m *memory) Read(b []byte) (int, error) {
	select {
	case <-m.burst:
		return copy(b, m.in), nil
	case <-m.closed:
		return 0, errors.New("closed")
	}
}

func (m *memory) Write(b []byte) (int, error) { return len(b), nil }

func (m *memory) Close() error {
	select {
	case <-m.closed:
	default:
		close(m.closed)
	}
	return nil
}

// What Lookup decides costs no allocation, payload or not.
func TestLookupAllocatesNothing(t *testing.T) {
	var flows kexttest.Flows
	in := []byte{}
	for _, kind := range intercepttest.AllKinds() {
		p := kexttest.UDP(netip.MustParseAddrPort("10.0.0.1:5"), netip.MustParseAddrPort("10.0.0.2:6"), kind.Direction)
		c := stream.Connection{ID: 1, Tuple: p.Info.Tuple, Direction: kind.Direction}
		in = stream.AppendConnection(in, stream.KindConnection4, &c)
		c.Layer, c.Payload = 3, p.Bytes
		in = stream.AppendConnection(in, stream.KindConnection4, &c)
		c.Layer, c.Payload = 4, p.Bytes[20:]
		in = stream.AppendConnection(in, stream.KindConnection4, &c)
		c.Tuple, c.Layer = flows.New(nil, intercepttest.FlowKind{Version: 6}).Tuple(), 0
		in = stream.AppendConnection(in, stream.KindConnection6, &c)
	}
	dev := &memory{in: in, closed: make(chan struct{}), burst: make(chan struct{})}
	s, err := kextv2.New(kextv2.Config{Version: version, Open: func() (kextv2.Device, error) { return dev, nil }})
	if err != nil {
		t.Fatal(err)
	}
	looked := make(chan struct{}, 64)
	h := &kexttest.Handler{OnLookup: func(*packet.Info) (verdict.Action, uint8, bool) {
		looked <- struct{}{}
		return verdict.ActionAccept, 0, true
	}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, h, nil) }()
	n := testing.AllocsPerRun(200, func() {
		dev.burst <- struct{}{}
		for range 16 {
			<-looked
		}
	})
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n != 0 {
		t.Errorf("got %v allocations for 16 packets; want 0", n)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	d := kexttest.NewStream(current, 0)
	s, err := kextv2.New(kextv2.Config{Version: version, Open: openDriver(d)})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	h := &kexttest.Handler{OnLookup: func(*packet.Info) (verdict.Action, uint8, bool) { return verdict.ActionAccept, 0, true }}
	go func() { ended <- s.Run(ctx, h, func() { close(ready) }) }()
	<-ready
	p := kexttest.UDP(netip.MustParseAddrPort("10.0.0.1:5"), netip.MustParseAddrPort("10.0.0.2:6"), packet.Outbound)
	for b.Loop() {
		const burst = 64
		var last [burst]*kexttest.Sent
		for i := range last {
			last[i] = d.Send(p)
		}
		for _, sent := range last {
			<-sent.Done()
		}
	}
	b.ReportMetric(float64(s.Stats().Verdicts)/b.Elapsed().Seconds(), "verdicts/s")
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
