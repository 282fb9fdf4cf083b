package packet

import (
	"encoding/binary"
	"net/netip"
)

// quoted is what an ICMP error holds at least of the transport header (RFC 792,
// RFC 4443 section 2.4).
const quoted = 8

// DecodeEmbedded returns the connection that the ICMP or ICMPv6 error b is
// about, as this host sees it: the same key that Decode gives for the packets
// of that connection. b travels in direction dir and i is what Decode(b, dir, i)
// told; i is only read.
//
// An inbound error is about a packet that this host sent, an outbound one about
// a packet that it received. An error that an address sends to itself, such as
// those of REJECT, is about what this host sent in both directions.
//
// ok is false if b is no error (RFC 792, RFC 4443), if it quotes too little, a
// later fragment or another ICMP error, or if it does not go to the source of
// what it quotes, as every genuine error does. The quote proves nothing: anybody
// can send it, so look the tuple up before trusting it. DecodeEmbedded does not
// allocate and does not panic.
func DecodeEmbedded(b []byte, dir Direction, i *Info) (t Tuple, ok bool) {
	if !i.isICMPError() || i.HeaderLength < icmpHeader || i.HeaderLength > min(len(b), i.Length) {
		return Tuple{}, false
	}
	b = b[i.HeaderLength:min(len(b), i.Length)]
	h, err := network(b)
	if err != nil || h.frag.later() || b[0]>>4 != i.Version || h.need(b, quoted) != nil {
		return Tuple{}, false
	}
	var src, dst uint16
	switch q := b[h.off:]; {
	case h.proto.HasPorts():
		src, dst = binary.BigEndian.Uint16(q), binary.BigEndian.Uint16(q[2:])
	case h.proto.IsICMP():
		in := Info{Tuple: Tuple{Protocol: h.proto}, ICMPType: q[0]}
		if in.isICMPError() || (h.proto == ICMP) != (i.Version == 4) {
			return Tuple{}, false
		}
		src, dst = in.echoPorts(binary.BigEndian.Uint16(q[4:]))
	}
	from, to := addresses(b)
	recipient := i.Remote.Addr()
	if dir == Inbound {
		recipient = i.Local.Addr()
	}
	if from != recipient {
		return Tuple{}, false
	}
	t = Tuple{Local: netip.AddrPortFrom(from, src), Remote: netip.AddrPortFrom(to, dst), Protocol: h.proto}
	if dir == Outbound && i.Local.Addr() != i.Remote.Addr() {
		t = t.Reverse()
	}
	return t, true
}

// isICMPError reports whether the packet quotes the beginning of another one.
func (i *Info) isICMPError() bool {
	if i.Fragment {
		return false
	}
	if i.Protocol == ICMPv6 {
		return i.ICMPType < 128
	}
	// unreachable, source quench, redirect, time exceeded, parameter problem
	const errs = 1<<3 | 1<<4 | 1<<5 | 1<<11 | 1<<12
	return i.Protocol == ICMP && i.ICMPType < 32 && errs>>i.ICMPType&1 != 0
}

// addresses returns source and destination; network has checked the length.
func addresses(b []byte) (src, dst netip.Addr) {
	if b[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	}
	return netip.AddrFrom16([16]byte(b[8:24])).Unmap(), netip.AddrFrom16([16]byte(b[24:40])).Unmap()
}

// network reads the IP header and what is between it and the transport header.
func network(b []byte) (header, error) {
	switch {
	case len(b) == 0:
		return header{}, ErrTruncated
	case b[0]>>4 == 6:
		return ipv6(b)
	case b[0]>>4 != 4:
		return header{}, ErrVersion
	case len(b) < ipv4MinHeader:
		return header{}, ErrTruncated
	}
	h := ipv4((*[ipv4MinHeader]byte)(b))
	return h, h.valid4(b)
}
