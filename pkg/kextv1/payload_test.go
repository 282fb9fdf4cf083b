package kextv1_test

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/kextwire/ioctl"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/kextv1"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// The payload stays in the driver until it is asked for, and is gone after the verdict.
func TestPayload(t *testing.T) {
	testutil.NoLeaks(t)
	d := newDriver(t)
	got := make(chan packet.Packet, 1)
	start(t, d, kextv1.Config{}, &kexttest.Handler{OnHandle: func(p packet.Packet) { got <- p }})
	sent := udp(packet.Outbound)
	d.Send(sent)
	p := <-got
	if n := len(told(d, codeGetPayload)); n != 0 {
		t.Errorf("got %d questions for the payload before it was wanted; want 0", n)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if b, err := p.Payload(); err != nil || !bytes.Equal(b, sent.Bytes) {
				t.Errorf("got % x, %v; want % x", b, err, sent.Bytes)
			}
		})
	}
	all.Wait()
	if got, want := told(d, codeGetPayload), []byte{1, 0, 0, 0, 29, 0, 0, 0}; len(got) != 1 || !slices.Equal(got[0], want) {
		t.Errorf("got % x; want one % x", got, want)
	}
	if err := p.Accept(); err != nil {
		t.Error(err)
	}
	if b, err := p.Payload(); err != nil || !bytes.Equal(b, sent.Bytes) {
		t.Errorf("after the verdict got % x, %v; want what was fetched before", b, err)
	}
	d.Send(sent)
	p = <-got
	if err := p.Accept(); err != nil {
		t.Error(err)
	}
	if b, err := p.Payload(); !errors.Is(err, packet.ErrNoPayload) || b != nil {
		t.Errorf("got % x, %v; want ErrNoPayload: the packet left", b, err)
	}
	sent.Bytes = nil // an empty packet
	d.Send(sent)
	p = <-got
	if b, err := p.Payload(); !errors.Is(err, packet.ErrNoPayload) || b != nil {
		t.Errorf("got % x, %v; want ErrNoPayload", b, err)
	}
}

// lying is a device that answers one function in its own way.
type lying struct {
	kextv1.Device
	code   uint32
	answer func(out []byte) (int, error)
}

func (l *lying) Control(code uint32, in, out []byte) (int, error) {
	if code == l.code {
		return l.answer(out)
	}
	return l.Device.Control(code, in, out)
}

func openLying(d *kexttest.Ioctl, code uint32, answer func(out []byte) (int, error)) func() (kextv1.Device, error) {
	return func() (kextv1.Device, error) {
		dev, err := d.Open()
		return &lying{dev, code, answer}, err
	}
}

// A payload that the driver cannot give, or says is longer than any packet, is an error and takes no memory.
func TestBadPayload(t *testing.T) {
	gone := errors.New("device gone")
	for name, answer := range map[string]func([]byte) (int, error){
		"nothing": func([]byte) (int, error) { return 0, nil },
		"error":   func([]byte) (int, error) { return 0, gone },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t)
			got := make(chan packet.Packet, 1)
			start(t, d, kextv1.Config{Open: openLying(d, codeGetPayload, answer)}, &kexttest.Handler{OnHandle: func(p packet.Packet) { got <- p }})
			d.Send(udp(packet.Outbound))
			_, err := (<-got).Payload()
			if !errors.Is(err, packet.ErrNoPayload) || name == "error" && !errors.Is(err, gone) {
				t.Errorf("got %v; want ErrNoPayload", err)
			}
		})
	}
	d := kexttest.NewIoctl([4]byte{1}) // the default verdict on packet 7, which it does not have, is a fault
	got := make(chan packet.Packet, 1)
	start(t, d, kextv1.Config{}, &kexttest.Handler{OnHandle: func(p packet.Packet) { got <- p }})
	d.Inject(ioctl.AppendRequest(nil, &ioctl.Request{ID: 7, Version: 4, Tuple: udp(0).Info.Tuple, PacketSize: 0xffffffff}))
	if b, err := (<-got).Payload(); !errors.Is(err, packet.ErrNoPayload) || b != nil {
		t.Errorf("got %d bytes, %v; want ErrNoPayload", len(b), err)
	}
	if n := len(told(d, codeGetPayload)); n != 0 {
		t.Errorf("got %d questions for 4 GiB; want 0", n)
	}
}

func TestHeaderLength(t *testing.T) {
	v4, v6 := udp(packet.Outbound).Info.Tuple, packet.Tuple{Local: netip.MustParseAddrPort("[fd00::1]:5"), Remote: netip.MustParseAddrPort("[fd00::2]:6")}
	d := newDriver(t)
	got := make(chan packet.Info, 1)
	start(t, d, kextv1.Config{}, &kexttest.Handler{OnLookup: func(i *packet.Info) (verdict.Action, uint8, bool) {
		got <- *i
		return 0, 0, false
	}})
	for _, tt := range []struct {
		tuple    packet.Tuple
		protocol packet.Protocol
		size     uint32
		want     int
	}{
		{v4, packet.TCP, 60, 40}, {v6, packet.TCP, 60, 60}, {v4, packet.UDP, 60, 28}, {v6, packet.ICMPv6, 60, 48},
		{v4, packet.SCTP, 60, 32}, {v4, packet.IGMP, 60, 20}, {v4, packet.TCP, 10, 10},
	} {
		version := uint8(6)
		if tt.tuple.Is4() {
			version = 4
		}
		tt.tuple.Protocol = tt.protocol
		d.Inject(ioctl.AppendRequest(nil, &ioctl.Request{Version: version, Tuple: tt.tuple, PacketSize: tt.size}))
		if i := <-got; i.HeaderLength != tt.want || i.Length != int(tt.size) || i.Version != version || i.Tuple != tt.tuple {
			t.Errorf("%v: got %+v; want %d bytes of headers", tt.tuple, i, tt.want)
		}
	}
}
