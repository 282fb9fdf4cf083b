package layers_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/gopacket"
	gplayers "github.com/google/gopacket/layers"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/packet/layers"
)

const (
	ip4UDP = "\x45\x00\x00\x2e\x1c\x46\x40\x00\x40\x11\x00\x00\xc0\x00\x02\x0a\xc6\x33\x64\x07" +
		"\x9c\x40\x13\x88\x00\x1a\x00\x00" + "eighteen bytes of.."
	ip6Ping = "\x60\x00\x00\x00\x00\x0c\x3a\x40" +
		"\x20\x01\x0d\xb8\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10" +
		"\x20\x01\x0d\xb8\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" +
		"\x80\x00\x00\x00\x42\x42\x00\x01ping"
)

// held is a packet in memory.
type held struct {
	packet.Once
	info    packet.Info
	payload []byte
	err     error
}

func (h *held) Info() *packet.Info        { return &h.info }
func (h *held) Payload() ([]byte, error)  { return h.payload, h.err }
func (h *held) FastTrackedByDriver() bool { return false }
func (h *held) ExpectsInfo() bool         { return false }

// hold decodes whole and keeps the first n bytes.
func hold(tb testing.TB, whole string, n int) *held {
	tb.Helper()
	h := &held{payload: []byte(whole[:n])}
	h.info.Seen, h.info.Interface = time.Unix(1700000000, 0), 3
	if err := packet.Decode([]byte(whole), packet.Outbound, &h.info); err != nil {
		tb.Fatal(err)
	}
	return h
}

func TestDecode(t *testing.T) {
	h := hold(t, ip4UDP[:46], 46)
	p, err := layers.Decode(h)
	if err != nil {
		t.Fatal(err)
	}
	u, ok := p.Layer(gplayers.LayerTypeUDP).(*gplayers.UDP)
	if !ok || uint16(u.SrcPort) != h.info.Local.Port() || uint16(u.DstPort) != h.info.Remote.Port() {
		t.Errorf("got %+v; want the ports of %v", u, h.info.Tuple)
	}
	if ip, ok := p.NetworkLayer().(*gplayers.IPv4); !ok || ip.SrcIP.String() != h.info.Local.Addr().String() {
		t.Errorf("got %v; want from %v", p.NetworkLayer(), h.info.Local)
	}
	m := p.Metadata()
	if !m.Timestamp.Equal(h.info.Seen) || m.InterfaceIndex != 3 || m.Length != 46 || m.CaptureLength != 46 || m.Truncated {
		t.Errorf("got %+v; want the packet's", m)
	}
}

func TestDecodeIPv6(t *testing.T) {
	p, err := layers.Decode(hold(t, ip6Ping, len(ip6Ping)))
	if err != nil {
		t.Fatal(err)
	}
	e, ok := p.Layer(gplayers.LayerTypeICMPv6Echo).(*gplayers.ICMPv6Echo)
	if !ok || e.Identifier != 0x4242 {
		t.Errorf("got %+v; want the echo", e)
	}
}

func TestDecodeCopiedInPart(t *testing.T) {
	p, err := layers.Decode(hold(t, ip4UDP, 30))
	if err != nil {
		t.Fatal(err)
	}
	if p.TransportLayer() == nil {
		t.Error("no transport layer; want the one that was copied")
	}
	if m := p.Metadata(); !m.Truncated || m.Length != 46 || m.CaptureLength != 30 {
		t.Errorf("got %+v; want truncated, 30 of 46", m)
	}
}

// NoCopy: the layers are the payload.
func TestDecodeDoesNotCopy(t *testing.T) {
	h := hold(t, ip4UDP, 46)
	p, err := layers.Decode(h)
	if err != nil {
		t.Fatal(err)
	}
	if &p.Data()[0] != &h.payload[0] {
		t.Error("the payload was copied")
	}
}

func TestDecodeBytesOptions(t *testing.T) {
	b := []byte(ip4UDP)
	p, err := layers.DecodeBytes(b, gopacket.DecodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if p.TransportLayer() == nil || p.Data()[0] != 0x45 {
		t.Errorf("got %v; want a copy", p)
	}
}

func TestDecodeErrors(t *testing.T) {
	gone := fmt.Errorf("%w: driver forgot it", packet.ErrNoPayload)
	for _, tt := range []struct {
		name string
		h    *held
		want error
	}{
		{"no payload", &held{err: gone}, packet.ErrNoPayload},
		{"empty", &held{}, packet.ErrTruncated},
		{"short IPv4", &held{payload: []byte(ip4UDP[:19])}, packet.ErrTruncated},
		{"short IPv6", &held{payload: []byte(ip6Ping[:39])}, packet.ErrTruncated},
		{"neither", &held{payload: make([]byte, 40)}, packet.ErrVersion},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if p, err := layers.Decode(tt.h); !errors.Is(err, tt.want) || p != nil {
				t.Errorf("got %v, %v; want %v", p, err, tt.want)
			}
		})
	}
}

// gopacket v1.1.19 panics on this one if it is let.
func TestDecodeSurvivesGopacket(t *testing.T) {
	b := []byte("\x45\x00\x00\x16\x00\x00\x00\x00\x40\x88\x00\x00\xc0\x00\x02\x0a\xc6\x33\x64\x07\x13\x88")
	p, err := layers.DecodeBytes(b, gopacket.DecodeOptions{SkipDecodeRecovery: true, Lazy: true})
	if err != nil {
		t.Fatal(err)
	}
	if p.ErrorLayer() == nil {
		t.Error("no error layer for half a UDP-Lite header")
	}
}

func FuzzDecodeBytes(f *testing.F) {
	f.Add([]byte(ip4UDP))
	f.Add([]byte(ip6Ping))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := layers.DecodeBytes(b, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
		if err != nil {
			if !errors.Is(err, packet.ErrTruncated) && !errors.Is(err, packet.ErrVersion) {
				t.Errorf("got %v; want a known error", err)
			}
			return
		}
		if len(p.Layers()) == 0 {
			t.Error("no layer")
		}
	})
}

// What a look at the addresses costs here, beside packet.Decode.
func BenchmarkDecode(b *testing.B) {
	h := hold(b, ip4UDP, 46)
	b.Run("layers", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if p, err := layers.Decode(h); err != nil || p.TransportLayer() == nil {
				b.Fatal(p, err)
			}
		}
	})
	b.Run("packet", func(b *testing.B) {
		b.ReportAllocs()
		i := new(packet.Info)
		for b.Loop() {
			if err := packet.Decode(h.payload, packet.Outbound, i); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func ExampleDecode() {
	var p packet.Packet = &held{payload: []byte(ip6Ping)}
	d, err := layers.Decode(p)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, l := range d.Layers() {
		fmt.Println(l.LayerType())
	}
	// Output:
	// IPv6
	// ICMPv6
	// ICMPv6Echo
}
