package kextv2_test

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"testing"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/kextwire/stream"
	"github.com/weirfw/weir/pkg/kextv2"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// recorded is a device that gives what a driver may have sent, in two reads, and then ends.
type recorded struct {
	parts    [][]byte
	verdicts int
}

func (r *recorded) Read(b []byte) (int, error) {
	for len(r.parts) > 0 && len(r.parts[0]) == 0 {
		r.parts = r.parts[1:]
	}
	if len(r.parts) == 0 {
		return 0, io.EOF
	}
	n := copy(b, r.parts[0])
	r.parts[0] = r.parts[0][n:]
	return n, nil
}

func (r *recorded) Write(b []byte) (int, error) {
	if b[0] == 1 {
		r.verdicts++ // by the reader, and after it ended
	}
	return len(b), nil
}

func (r *recorded) Close() error { return nil }

// FuzzRead gives a source any stream: it must not panic, must answer each connection exactly once, and must end with the
// stream's error.
func FuzzRead(f *testing.F) {
	p := kexttest.UDP(netip.MustParseAddrPort("10.0.0.1:5"), netip.MustParseAddrPort("10.0.0.2:6"), packet.Outbound)
	for _, layer := range []stream.Layer{0, 3, 4} {
		c := stream.Connection{ID: 7, Tuple: p.Info.Tuple, Layer: layer, Payload: p.Bytes}
		f.Add(stream.AppendConnection(nil, stream.KindConnection4, &c), 20)
		f.Add(stream.AppendConnection(nil, stream.KindConnection6, &c), 3)
	}
	f.Add(stream.AppendEnd([]byte{99, 1, 0, 0, 0, 0}, stream.KindEnd6, &stream.End{}), 1)
	f.Add(stream.AppendBandwidth(nil, stream.KindBandwidth6, 17, []stream.Usage{{}}), 9)
	f.Fuzz(func(t *testing.T, in []byte, split int) {
		split = max(0, min(split, len(in)))
		dev := &recorded{parts: [][]byte{in[:split], in[split:]}}
		s, err := kextv2.New(kextv2.Config{Open: func() (kextv2.Device, error) { return dev, nil }})
		if err != nil {
			t.Fatal(err)
		}
		h := &kexttest.Handler{
			OnLookup: func(i *packet.Info) (verdict.Action, uint8, bool) {
				return verdict.ActionAccept, 0, i.Local.Port()%2 == 0
			},
			OnHandle: func(p packet.Packet) {
				_, perr := p.Payload()
				if perr != nil && !errors.Is(perr, packet.ErrNoPayload) {
					t.Errorf("got %v; want ErrNoPayload", perr)
				}
				if err := p.Block(); err != nil && !errors.Is(err, packet.ErrAlreadyDecided) {
					t.Error(err)
				}
			},
		}
		if err := s.Run(context.Background(), h, nil); !errors.Is(err, io.EOF) {
			t.Errorf("got %v; want EOF", err)
		}
		if st := s.Stats(); int(st.Packets) != dev.verdicts || int(st.Verdicts) != dev.verdicts {
			t.Errorf("got %d verdicts for %d packets", dev.verdicts, st.Packets)
		}
	})
}
