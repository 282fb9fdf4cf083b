package packet

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
)

// The errors of Decode. They are returned as they are, so that a flood of bad
// packets allocates nothing.
var (
	// ErrTruncated means that a header which Decode needs is not in the bytes
	// at hand. More of the packet may exist.
	ErrTruncated = errors.New("packet: truncated header")
	// ErrVersion means that the bytes are neither IPv4 nor IPv6.
	ErrVersion = errors.New("packet: neither IPv4 nor IPv6")
	// ErrMalformed means that the headers contradict themselves, such as a
	// length that is shorter than its header.
	ErrMalformed = errors.New("packet: malformed header")
)

const (
	ipv4MinHeader = 20
	ipv6Header    = 40
	tcpMinHeader  = 20
	udpHeader     = 8
	sctpHeader    = 12
	icmpHeader    = 8
	ahMinHeader   = 12

	// maxExtensions bounds the chain of IPv6 extension headers. RFC 8200
	// section 4.1 knows six, with one of them twice.
	maxExtensions = 8
	// unknownTotal stands for the length of a packet whose header does not
	// tell it: segments that the kernel will split later (BIG TCP).
	unknownTotal = math.MaxInt32
)

// The extension headers that Linux walks as well (ipv6_ext_hdr).
const (
	extHopByHop    Protocol = 0
	extRouting     Protocol = 43
	extFragment    Protocol = 44
	extAuth        Protocol = 51
	extDestination Protocol = 60

	extensions uint64 = 1<<extHopByHop | 1<<extRouting | 1<<extFragment | 1<<extAuth | 1<<extDestination
)

// Decode reads the headers of the packet b, which begins with its IP header and
// travels in direction dir, into i. It does not allocate and does not keep b.
//
// Decode sets Tuple, Direction, Version, TCPFlags, ICMPType, ICMPCode, Fragment,
// HopLimit, Length and HeaderLength, whatever they were before. It leaves the
// rest, which the backend knows, alone.
//
// b may be less than the packet: the IP header, the IPv6 extension headers and
// the fixed part of the transport header are enough (TCP options may be
// missing, so HeaderLength may be more than len(b)). b may also be more, as
// with Ethernet padding: what is behind the length in the IP header counts as
// missing. Length is len(b) where the IP header tells no length: 0 for TCP,
// which is how Linux queues segments over 64 KiB.
//
// Protocols without a header of their own here (IGMP, ESP, IPv4 AH, unknown
// ones, IPv6 "no next header") have no ports, and HeaderLength is where their
// header begins. So it is with fragments that are not the first; their protocol
// is what the fragment says.
//
// The error is ErrTruncated, ErrVersion or ErrMalformed itself. After an error
// Direction is set and everything else that Decode sets is zero, so that a bad
// packet matches no connection; the caller should drop it. No input makes
// Decode panic. Checksums are not verified.
func Decode(b []byte, dir Direction, i *Info) error {
	i.Direction = dir
	var err error
	switch {
	case len(b) == 0:
		err = ErrTruncated
	case b[0]>>4 == 4:
		err = i.decode4(b)
	case b[0]>>4 == 6:
		err = i.decode6(b)
	default:
		err = ErrVersion
	}
	if err != nil {
		i.Tuple = Tuple{}
		i.Version, i.HopLimit, i.Fragment = 0, 0, false
		i.TCPFlags, i.ICMPType, i.ICMPCode = 0, 0, 0
		i.Length, i.HeaderLength = 0, 0
	}
	return err
}

// echoPorts puts the identifier of an echo in the port of the side that asks.
func (i *Info) echoPorts(id uint16) (src, dst uint16) {
	switch {
	case i.IsEchoRequest():
		return id, 0
	case i.IsEchoReply():
		return 0, id
	}
	return 0, 0
}

// header is what the network layer tells. It has four fields and methods on the
// value because the compiler keeps such a struct in registers: with five, and
// methods on the pointer, Decode took three times as long.
type header struct {
	proto Protocol
	frag  fragment
	// off is where the transport header begins, total the packet's length.
	off, total int
}

// fragment is the fragment field of IPv4 without "don't fragment". That of IPv6
// is brought into the same form.
type fragment uint16

// later reports whether it is a fragment, but not the first.
func (f fragment) later() bool { return f&0x1fff != 0 }

// more reports whether it is a fragment, but not the last.
func (f fragment) more() bool { return f&0x2000 != 0 }

func (i *Info) decode4(b []byte) error {
	if len(b) < ipv4MinHeader {
		return ErrTruncated
	}
	h := ipv4((*[ipv4MinHeader]byte)(b))
	if err := h.valid4(b); err != nil {
		return err
	}
	src, dst, err := i.transport(b, h)
	if err != nil {
		return err
	}
	i.Version, i.HopLimit = 4, b[8]
	from, to := i.ends()
	*from = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), src)
	*to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), dst)
	return nil
}

func (i *Info) decode6(b []byte) error {
	h, err := ipv6(b)
	if err != nil {
		return err
	}
	src, dst, err := i.transport(b, h)
	if err != nil {
		return err
	}
	i.Version, i.HopLimit = 6, b[7]
	from, to := i.ends()
	*from = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), src)
	*to = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])).Unmap(), dst)
	return nil
}

// ends returns where source and destination belong.
func (i *Info) ends() (src, dst *netip.AddrPort) {
	if i.Direction == Inbound {
		return &i.Remote, &i.Local
	}
	return &i.Local, &i.Remote
}

// ipv4 reads an IPv4 header. Its length is for valid4 to check: in two parts
// the compiler inlines both.
func ipv4(b *[ipv4MinHeader]byte) header {
	h := header{
		proto: Protocol(b[9]),
		frag:  fragment(binary.BigEndian.Uint16(b[6:]) & 0x3fff),
		off:   int(b[0]&15) * 4,
		total: int(binary.BigEndian.Uint16(b[2:])),
	}
	if h.total == 0 && h.proto == TCP {
		h.total = unknownTotal
	}
	return h
}

// valid4 says what is wrong with an IPv4 header of length h.off, if something
// is.
func (h header) valid4(b []byte) error {
	switch {
	case h.off < ipv4MinHeader || h.off > h.total:
		return ErrMalformed
	case h.off > len(b):
		return ErrTruncated
	}
	return nil
}

func ipv6(b []byte) (header, error) {
	if len(b) < ipv6Header {
		return header{}, ErrTruncated
	}
	h := header{proto: Protocol(b[6]), off: ipv6Header, total: ipv6Header + int(binary.BigEndian.Uint16(b[4:]))}
	if h.total == ipv6Header {
		h.total = jumbo(b)
	}
	for n := 0; h.extended(); n++ {
		if n == maxExtensions {
			return header{}, ErrMalformed
		}
		var err error
		if h, err = h.extension(b); err != nil {
			return header{}, err
		}
	}
	return h, nil
}

// extended reports whether an extension header is at h.off.
func (h header) extended() bool {
	return h.proto < 64 && extensions>>h.proto&1 != 0 && !h.frag.later()
}

// extension steps over the extension header at h.off.
func (h header) extension(b []byte) (header, error) {
	if err := h.need(b, 8); err != nil {
		return h, err
	}
	e := b[h.off:]
	size := (int(e[1]) + 1) * 8
	switch h.proto {
	case extFragment:
		size = 8
		f := binary.BigEndian.Uint16(e[2:])
		h.frag = fragment(f>>3 | f&1<<13)
	case extAuth:
		size = (int(e[1]) + 2) * 4
	}
	if h.proto == extAuth && size < ahMinHeader {
		return h, ErrMalformed
	}
	if err := h.need(b, size); err != nil {
		return h, err
	}
	h.proto = Protocol(e[0])
	h.off += size
	return h, nil
}

// jumbo returns the length of an IPv6 packet whose payload length is 0.
func jumbo(b []byte) int {
	const option, fixed = 0xc2, ipv6Header + 8
	switch Protocol(b[6]) {
	case TCP: // newer Linux writes no option
		return unknownTotal
	case extHopByHop:
		// RFC 2675 section 2: the length must be a jumbo one. The option is
		// looked for where Linux writes it and its alignment wants it.
		if len(b) < fixed {
			return unknownTotal
		}
		if b[ipv6Header+2] == option && b[ipv6Header+3] == 4 {
			if n := binary.BigEndian.Uint32(b[ipv6Header+4:]); n > math.MaxUint16 && n < unknownTotal-ipv6Header {
				return ipv6Header + int(n)
			}
		}
	}
	return ipv6Header
}

// need says why size bytes from h.off on are not in b, if they are not.
func (h header) need(b []byte, size int) error {
	switch end := h.off + size; {
	case end > h.total:
		return ErrMalformed
	case end > len(b):
		return ErrTruncated
	}
	return nil
}

// transport reads the transport header of a packet that has one.
func (i *Info) transport(b []byte, h header) (src, dst uint16, err error) {
	i.Protocol = h.proto
	i.Fragment = h.frag.later()
	i.TCPFlags, i.ICMPType, i.ICMPCode = 0, 0, 0
	i.HeaderLength = h.off
	i.Length = h.total
	if h.total == unknownTotal {
		i.Length = len(b)
	}
	if h.frag.later() {
		return 0, 0, nil
	}
	var size int
	switch h.proto {
	case TCP:
		size = tcpMinHeader
	case UDP, UDPLite:
		size = udpHeader
	case SCTP:
		size = sctpHeader
	case ICMP, ICMPv6:
		return i.icmp(b, h)
	default:
		return 0, 0, nil
	}
	if err := h.need(b, size); err != nil {
		return 0, 0, err
	}
	t := b[h.off:]
	switch h.proto {
	case TCP:
		size = int(t[12]>>4) * 4
		if size < tcpMinHeader || h.off+size > h.total {
			return 0, 0, ErrMalformed
		}
		i.TCPFlags = t[13]
	case UDP, UDPLite:
		if !h.saneUDP(int(binary.BigEndian.Uint16(t[4:]))) {
			return 0, 0, ErrMalformed
		}
	}
	i.HeaderLength = h.off + size
	return binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:]), nil
}

// icmp reads the header of ICMP over IPv4 and of ICMPv6 over IPv6. The other
// two pairs mean nothing to anybody.
func (i *Info) icmp(b []byte, h header) (src, dst uint16, err error) {
	if err := h.need(b, icmpHeader); err != nil {
		return 0, 0, err
	}
	if (h.proto == ICMP) != (b[0]>>4 == 4) {
		return 0, 0, ErrMalformed
	}
	b = b[h.off:]
	i.ICMPType, i.ICMPCode = b[0], b[1]
	i.HeaderLength = h.off + icmpHeader
	src, dst = i.echoPorts(binary.BigEndian.Uint16(b[4:]))
	return src, dst, nil
}

// saneUDP checks a length as Linux does (udp_error in nf_conntrack): it is at
// least a header and inside the packet. 0 means all of it, in a jumbogram (RFC
// 2675 section 4) and as the checksum coverage of UDP-Lite (RFC 3828).
func (h header) saneUDP(n int) bool {
	if n == 0 {
		return h.proto == UDPLite || h.total > math.MaxUint16
	}
	return n >= udpHeader && (n <= h.total-h.off || h.frag.more())
}
