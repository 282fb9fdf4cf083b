// Package layers hands a packet to users of gopacket, with all its layers.
//
// It is not for the packet path: gopacket allocates, and packet.Decode is over
// twenty times as fast. Use it where somebody wants to look into single packets,
// such as an inspector or a dump.
package layers

import (
	"fmt"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/weirfw/weir/pkg/packet"
)

// Decode returns the payload of p as a gopacket.Packet whose first layer is IPv4
// or IPv6.
//
// It works with gopacket's options Lazy and NoCopy:
//
//   - Lazy: layers are decoded when they are asked for. So a malformed inner
//     layer is no error of Decode; ErrorLayer tells it. And several goroutines
//     must not use the packet at once.
//   - NoCopy: the layers point into the payload. They are valid as long as the
//     payload is, so for the same time as p, and nobody must change them.
//
// A backend may have copied less than the packet. Then Metadata().Truncated is
// set, and Metadata().Length is the length on the wire as p.Info tells it. The
// timestamp is when the packet was seen, and the interface index is p.Info's.
//
// Use DecodeBytes with other options for a packet that outlives p.
//
// The error wraps packet.ErrNoPayload if the payload cannot be had, and
// packet.ErrTruncated or packet.ErrVersion if it does not begin with a whole
// IPv4 or IPv6 header.
func Decode(p packet.Packet) (gopacket.Packet, error) {
	b, err := p.Payload()
	if err != nil {
		return nil, fmt.Errorf("payload of %v: %w", p.Info().Tuple, err)
	}
	d, err := DecodeBytes(b, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	if err != nil {
		return nil, fmt.Errorf("payload of %v: %w", p.Info().Tuple, err)
	}
	describe(d.Metadata(), p.Info(), len(b))
	return d, nil
}

// DecodeBytes is Decode for bytes and with options of the caller. Without Lazy
// the packet may be used by several goroutines; without NoCopy b may be changed
// afterwards. SkipDecodeRecovery is ignored: gopacket panics on some malformed
// packets (v1.1.19: a UDP-Lite header of under 8 bytes), and without recovery
// anybody on the network could stop the firewall.
func DecodeBytes(b []byte, options gopacket.DecodeOptions) (gopacket.Packet, error) {
	first, err := firstLayer(b)
	if err != nil {
		return nil, err
	}
	options.SkipDecodeRecovery = false
	d := gopacket.NewPacket(b, first, options)
	d.Metadata().CaptureLength, d.Metadata().Length = len(b), len(b)
	return d, nil
}

func firstLayer(b []byte) (gopacket.LayerType, error) {
	if len(b) == 0 {
		return 0, fmt.Errorf("%w: no bytes", packet.ErrTruncated)
	}
	switch version := b[0] >> 4; {
	case version == 4 && len(b) >= 20:
		return layers.LayerTypeIPv4, nil
	case version == 6 && len(b) >= 40:
		return layers.LayerTypeIPv6, nil
	case version == 4 || version == 6:
		return 0, fmt.Errorf("%w: %d bytes of IPv%d", packet.ErrTruncated, len(b), version)
	default:
		return 0, fmt.Errorf("%w: version %d", packet.ErrVersion, version)
	}
}

// describe fills in what gopacket would have from a capture.
func describe(m *gopacket.PacketMetadata, i *packet.Info, have int) {
	m.Timestamp = i.Seen
	m.InterfaceIndex = int(i.Interface)
	m.Length = max(i.Length, have)
	m.Truncated = m.Truncated || m.Length > have
}
