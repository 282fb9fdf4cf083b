package kextv1_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/kextwire/ioctl"
	"github.com/weirfw/weir/pkg/kextv1"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// recorded is a device that gives what a driver may have answered, 72 bytes at a time, and then ends.
type recorded struct {
	in       []byte
	verdicts int
}

func (r *recorded) Control(code uint32, _, out []byte) (int, error) {
	switch code {
	case 0x9c40e008:
		if len(r.in) == 0 {
			return 0, io.EOF
		}
		n := copy(out, r.in)
		r.in = r.in[n:]
		return n, nil
	case 0x9c40e00c:
		r.verdicts++ // by the reader
	case 0x9c40e010:
		return len(out) / 2, nil
	}
	return 0, nil
}

func (r *recorded) Close() error { return nil }

// FuzzReceive gives a source any requests: it must not panic, must answer each that wants a verdict exactly once, and must end
// with the device's error.
func FuzzReceive(f *testing.F) {
	for _, flags := range []uint8{0, 1, 2, 4, 7} {
		f.Add(ioctl.AppendRequest(nil, &ioctl.Request{ID: 7, Version: 4, Flags: flags, Tuple: udp(packet.Outbound).Info.Tuple, PacketSize: 60}))
	}
	f.Add(ioctl.AppendRequest(nil, &ioctl.Request{Version: 6, PID: 9, PacketSize: 0xffffffff}))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, in []byte) {
		in = in[:min(len(in), 4*ioctl.RequestSize)]
		dev := &recorded{in: in}
		want := 0
		for b := in; len(b) >= ioctl.RequestSize; b = b[ioctl.RequestSize:] {
			var r ioctl.Request
			if err := ioctl.DecodeRequest(b[:ioctl.RequestSize], &r); err != nil {
				t.Fatal(err)
			}
			if r.ID != 0 && r.PID == 0 && r.Flags&2 == 0 {
				want++
			}
		}
		s, err := kextv1.New(kextv1.Config{Open: func() (kextv1.Device, error) { return dev, nil }})
		if err != nil {
			t.Fatal(err)
		}
		h := &kexttest.Handler{
			OnLookup: func(i *packet.Info) (verdict.Action, uint8, bool) {
				return verdict.ActionAccept, 0, i.Local.Port()%2 == 0
			},
			OnHandle: func(p packet.Packet) {
				if b, err := p.Payload(); err != nil && !errors.Is(err, packet.ErrNoPayload) || len(b) > 40+1<<16 {
					t.Errorf("got %d bytes, %v", len(b), err)
				}
				_ = p.Block() // counted by the device
			},
		}
		if err := s.Run(context.Background(), h, nil); !errors.Is(err, io.EOF) {
			t.Errorf("got %v; want EOF", err)
		}
		if dev.verdicts != want {
			t.Errorf("got %d verdicts; want %d", dev.verdicts, want)
		}
	})
}
