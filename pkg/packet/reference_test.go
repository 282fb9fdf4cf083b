package packet_test

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/gopacket"
	gplayers "github.com/google/gopacket/layers"

	"github.com/weirfw/weir/pkg/packet"
)

// The slow twin of Decode: gopacket's decoders, one header after the other, on
// a copy of the packet that is padded to its full length and whose options are
// blanked, because gopacket reads options and Decode does not.

// twin is the state of the slow decoding of one packet.
type twin struct {
	info packet.Info
	// needed is how many bytes of the packet Decode must have seen.
	needed int
	more   bool
	jumbo  bool
}

// reference returns what Decode must tell; ok is false if it must fail.
func reference(b []byte, dir packet.Direction) (info packet.Info, ok bool) {
	if len(b) == 0 {
		return packet.Info{}, false
	}
	var t twin
	t.info.Direction = dir
	switch b[0] >> 4 {
	case 4:
		ok = t.ip4(b)
	case 6:
		ok = t.ip6(b)
	}
	if dir == packet.Inbound {
		t.info.Tuple = t.info.Reverse()
	}
	return t.info, ok && t.needed <= len(b)
}

// pad returns a copy of b with n bytes at least.
func pad(b []byte, n int) []byte {
	b = slices.Clone(b)
	return append(b, make([]byte, max(0, n-len(b)))...)
}

// blank fills b[from:to] with no-operation options.
func blank(b []byte, from, to int) {
	for i := from; i < min(to, len(b)); i++ {
		b[i] = 1
	}
}

func (t *twin) ip4(b []byte) bool {
	if len(b) < 20 {
		return false
	}
	whole := pad(b, int(binary.BigEndian.Uint16(b[2:])))
	t.info.Length = int(binary.BigEndian.Uint16(b[2:]))
	if t.info.Length == 0 {
		if b[9] != 6 {
			return false
		}
		t.info.Length = len(b)
		whole = pad(b, len(b)+120)
		binary.BigEndian.PutUint16(whole[2:], uint16(len(whole)))
	}
	blank(whole, 20, int(b[0]&15)*4)
	var ip gplayers.IPv4
	if ip.DecodeFromBytes(whole, gopacket.NilDecodeFeedback) != nil {
		return false
	}
	t.addresses(ip.SrcIP, ip.DstIP)
	t.info.Version, t.info.HopLimit = 4, ip.TTL
	t.more = ip.Flags&gplayers.IPv4MoreFragments != 0
	t.info.Fragment = ip.FragOffset != 0
	t.info.HeaderLength = len(ip.Contents)
	t.needed = len(ip.Contents)
	return t.transport(uint8(ip.Protocol), ip.Payload)
}

func (t *twin) ip6(b []byte) bool {
	if len(b) < 40 {
		return false
	}
	n := 40 + int(binary.BigEndian.Uint16(b[4:]))
	t.info.Length = n
	whole := pad(b, n)[:n]
	if n == 40 {
		switch {
		case b[6] == 6:
			t.info.Length = len(b)
			whole = pad(b, len(b)+120)
		case b[6] == 0 && len(b) >= 48 && b[42] == 0xc2 && b[43] == 4:
			j := binary.BigEndian.Uint32(b[44:])
			if j <= 0xffff || j >= 1<<31-1-40 {
				return false
			}
			t.jumbo = true
			t.info.Length = 40 + int(j)
			whole = pad(b, len(b)+8*300)
		}
		// gopacket steps wrongly over the option of a jumbogram and wants no
		// length of 0 otherwise
		binary.BigEndian.PutUint16(whole[4:], uint16(len(whole)-40))
	}
	next := whole[6]
	whole[6] = uint8(gplayers.IPProtocolNoNextHeader)
	var ip gplayers.IPv6
	if err := ip.DecodeFromBytes(whole, gopacket.NilDecodeFeedback); err != nil && len(whole) > 40 {
		return false
	}
	t.addresses(ip.SrcIP, ip.DstIP)
	t.info.Version, t.info.HopLimit = 6, ip.HopLimit
	t.needed, t.info.HeaderLength = 40, 40
	rest, next, ok := t.extensions(next, whole[40:])
	return ok && t.transport(next, rest)
}

// extensions walks the extension headers.
func (t *twin) extensions(next uint8, b []byte) (rest []byte, proto uint8, ok bool) {
	for n := 0; !t.info.Fragment; n++ {
		var size int
		switch next {
		case 0, 43, 60:
			var s gplayers.IPv6ExtensionSkipper
			if s.DecodeFromBytes(b, gopacket.NilDecodeFeedback) != nil {
				return nil, 0, false
			}
			next, size = uint8(s.NextHeader), len(s.Contents)
		case 44:
			f, ok := only[*gplayers.IPv6Fragment](b, gplayers.LayerTypeIPv6Fragment)
			if !ok {
				return nil, 0, false
			}
			next, size = uint8(f.NextHeader), 8
			t.info.Fragment, t.more = f.FragmentOffset != 0, f.MoreFragments
		case 51:
			a, ok := only[*gplayers.IPSecAH](b, gplayers.LayerTypeIPSecAH)
			if !ok {
				return nil, 0, false
			}
			next, size = uint8(a.NextHeader), len(a.Contents)
		default:
			return b, next, true
		}
		if n == 8 {
			return nil, 0, false
		}
		b = b[size:]
		t.needed += size
		t.info.HeaderLength += size
	}
	return b, next, true
}

// only decodes the one layer that has no method for it.
func only[T gopacket.Layer](b []byte, typ gopacket.LayerType) (layer T, ok bool) {
	layer, ok = gopacket.NewPacket(b, typ, gopacket.DecodeOptions{Lazy: true, NoCopy: true}).Layer(typ).(T)
	return layer, ok
}

func (t *twin) addresses(src, dst []byte) {
	s, _ := netip.AddrFromSlice(src)
	d, _ := netip.AddrFromSlice(dst)
	t.info.Local = netip.AddrPortFrom(s.Unmap(), 0)
	t.info.Remote = netip.AddrPortFrom(d.Unmap(), 0)
}

func (t *twin) ports(src, dst uint16, fixed, header int) bool {
	t.info.Local = netip.AddrPortFrom(t.info.Local.Addr(), src)
	t.info.Remote = netip.AddrPortFrom(t.info.Remote.Addr(), dst)
	t.needed += fixed
	t.info.HeaderLength += header
	return true
}

func (t *twin) transport(proto uint8, b []byte) bool {
	t.info.Protocol = packet.Protocol(proto)
	if t.info.Fragment {
		return true
	}
	df := gopacket.NilDecodeFeedback
	switch t.info.Protocol {
	case packet.TCP:
		var l gplayers.TCP
		if len(b) > 12 {
			blank(b, 20, int(b[12]>>4)*4)
		}
		if l.DecodeFromBytes(b, df) != nil {
			return false
		}
		t.info.TCPFlags = b[13]
		return t.ports(uint16(l.SrcPort), uint16(l.DstPort), 20, len(l.Contents))
	case packet.UDP:
		var l gplayers.UDP
		if l.DecodeFromBytes(b, df) != nil || int(l.Length) > len(b) && !t.more && !t.jumbo || l.Length == 0 && !t.jumbo {
			return false
		}
		return t.ports(uint16(l.SrcPort), uint16(l.DstPort), 8, 8)
	case packet.UDPLite:
		l, ok := only[*gplayers.UDPLite](b, gplayers.LayerTypeUDPLite)
		if c := 0; ok {
			c = int(l.ChecksumCoverage)
			ok = c == 0 || c >= 8 && (c <= len(b) || t.more || t.jumbo)
		}
		return ok && t.ports(uint16(l.SrcPort), uint16(l.DstPort), 8, 8)
	case packet.SCTP:
		var l gplayers.SCTP
		return l.DecodeFromBytes(b, df) == nil && t.ports(uint16(l.SrcPort), uint16(l.DstPort), 12, 12)
	case packet.ICMP, packet.ICMPv6:
		return t.icmp(b)
	}
	return true
}

func (t *twin) icmp(b []byte) bool {
	if (t.info.Protocol == packet.ICMP) != (t.info.Version == 4) {
		return false
	}
	var src, dst, id uint16
	var typ, code uint8
	if t.info.Version == 4 {
		var l gplayers.ICMPv4
		if l.DecodeFromBytes(b, gopacket.NilDecodeFeedback) != nil {
			return false
		}
		typ, code, id = l.TypeCode.Type(), l.TypeCode.Code(), l.Id
	} else {
		var l gplayers.ICMPv6
		var e gplayers.ICMPv6Echo
		if l.DecodeFromBytes(b, gopacket.NilDecodeFeedback) != nil || e.DecodeFromBytes(l.Payload, gopacket.NilDecodeFeedback) != nil {
			return false
		}
		typ, code, id = l.TypeCode.Type(), l.TypeCode.Code(), e.Identifier
	}
	t.info.ICMPType, t.info.ICMPCode = typ, code
	switch {
	case t.info.Version == 4 && typ == gplayers.ICMPv4TypeEchoRequest, t.info.Version == 6 && typ == gplayers.ICMPv6TypeEchoRequest:
		src = id
	case t.info.Version == 4 && typ == gplayers.ICMPv4TypeEchoReply, t.info.Version == 6 && typ == gplayers.ICMPv6TypeEchoReply:
		dst = id
	}
	return t.ports(src, dst, 8, 8)
}
