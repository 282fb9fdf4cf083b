package packet

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// Protocol is an IP protocol number (IANA "Assigned Internet Protocol Numbers").
type Protocol uint8

// Protocols that the firewall knows by name.
const (
	ICMP    Protocol = 1
	IGMP    Protocol = 2
	TCP     Protocol = 6
	UDP     Protocol = 17
	ICMPv6  Protocol = 58
	SCTP    Protocol = 132
	UDPLite Protocol = 136
)

// ErrUnknownProtocol is wrapped by errors about a protocol name nobody knows.
var ErrUnknownProtocol = errors.New("packet: unknown protocol")

// String returns the protocol's short name in lower case, or its number.
func (p Protocol) String() string {
	switch p {
	case ICMP:
		return "icmp"
	case IGMP:
		return "igmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMPv6:
		return "icmpv6"
	case SCTP:
		return "sctp"
	case UDPLite:
		return "udplite"
	}
	return strconv.Itoa(int(p))
}

// MarshalText returns String.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText takes a name or a number from 0 to 255. The error wraps
// ErrUnknownProtocol.
func (p *Protocol) UnmarshalText(b []byte) error {
	for _, k := range [...]Protocol{ICMP, IGMP, TCP, UDP, ICMPv6, SCTP, UDPLite} {
		if k.String() == string(b) {
			*p = k
			return nil
		}
	}
	n, err := strconv.ParseUint(string(b), 10, 8)
	if err != nil {
		return fmt.Errorf("%w %q: use tcp, udp, udplite, sctp, icmp, icmpv6, igmp or a number from 0 to 255", ErrUnknownProtocol, b)
	}
	*p = Protocol(n)
	return nil
}

// HasPorts reports whether the protocol's header begins with two port numbers.
func (p Protocol) HasPorts() bool { return p == TCP || p == UDP || p == UDPLite || p == SCTP }

// IsICMP reports whether p is ICMP or ICMPv6.
func (p Protocol) IsICMP() bool { return p == ICMP || p == ICMPv6 }

// Direction says which side of this host a packet or a connection comes from.
type Direction uint8

const (
	// Outbound packets are sent by this host.
	Outbound Direction = iota
	// Inbound packets are received by this host.
	Inbound
)

// ErrUnknownDirection is wrapped by errors about a direction that does not
// exist.
var ErrUnknownDirection = errors.New("packet: unknown direction")

// String returns "out" or "in".
func (d Direction) String() string {
	if d == Inbound {
		return "in"
	}
	return "out"
}

// MarshalText returns String.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes "out" or "in". The error wraps ErrUnknownDirection.
func (d *Direction) UnmarshalText(b []byte) error {
	switch string(b) {
	case "out":
		*d = Outbound
	case "in":
		*d = Inbound
	default:
		return fmt.Errorf("%w %q: use in or out", ErrUnknownDirection, b)
	}
	return nil
}

// Tuple is the key of a connection as this host sees it: comparable, the same
// for packets in both directions. Addresses are unmapped (never ::ffff:1.2.3.4)
// and have no zone.
//
// The ports of protocols without ports are 0, but for ICMP echo: there the
// identifier stands in the port of the side that asks, so that a ping out and a
// ping in between the same hosts are two connections.
type Tuple struct {
	Local    netip.AddrPort `json:"local"`
	Remote   netip.AddrPort `json:"remote"`
	Protocol Protocol       `json:"protocol"`
}

// String returns the tuple for people, such as "tcp 10.0.0.1:1234 10.0.0.2:80".
func (t Tuple) String() string {
	return t.Protocol.String() + " " + t.Local.String() + " " + t.Remote.String()
}

// Reverse returns the tuple of the other side.
func (t Tuple) Reverse() Tuple {
	return Tuple{Local: t.Remote, Remote: t.Local, Protocol: t.Protocol}
}

// Is4 reports whether the connection is an IPv4 one.
func (t Tuple) Is4() bool { return t.Remote.Addr().Is4() }

// TCP flags of Info.TCPFlags (RFC 9293 section 3.1).
const (
	TCPFin uint8 = 1 << iota
	TCPSyn
	TCPRst
	TCPPsh
	TCPAck
)

// Info is what the headers of a packet and its backend tell. It is a plain
// value; a backend reuses it, so copy what must outlive the call.
type Info struct {
	Tuple
	// Direction of this packet, not of the connection.
	Direction Direction
	// Version of IP, 4 or 6.
	Version uint8
	// TCPFlags are the flags of a TCP header.
	TCPFlags uint8
	// ICMPType and ICMPCode are of ICMP and ICMPv6.
	ICMPType, ICMPCode uint8
	// Fragment is set for a fragment that is not the first: it has no ports.
	Fragment bool
	// HopLimit is the TTL or hop limit.
	HopLimit uint8
	// HasUID tells that UID is known.
	HasUID bool
	// UID is the user that owns the sending socket.
	UID uint32
	// PID is the process if the backend knows it, else 0.
	PID int
	// Interface is the index of the interface it came by or goes by, 0 if
	// unknown.
	Interface uint32
	// Mark is the packet's mark when it reached the backend (Linux).
	Mark uint32
	// Length is the length of the whole packet in bytes as its IP header says.
	Length int
	// HeaderLength is the number of bytes in front of the transport payload.
	HeaderLength int
	// Seen is when the backend read the packet.
	Seen time.Time
}

// IsEcho reports whether the packet is an ICMP or ICMPv6 echo request or
// reply.
func (i *Info) IsEcho() bool { return i.IsEchoRequest() || i.IsEchoReply() }

// IsEchoRequest reports whether the packet is an echo request (RFC 792, RFC
// 4443 section 4.1). It is false for a later fragment, which has no type.
func (i *Info) IsEchoRequest() bool {
	return !i.Fragment && (i.Protocol == ICMP && i.ICMPType == 8 || i.Protocol == ICMPv6 && i.ICMPType == 128)
}

// IsEchoReply reports whether the packet is an echo reply. It is false for a
// later fragment, which has no type.
func (i *Info) IsEchoReply() bool {
	return !i.Fragment && (i.Protocol == ICMP && i.ICMPType == 0 || i.Protocol == ICMPv6 && i.ICMPType == 129)
}

// Source returns where the packet comes from.
func (i *Info) Source() netip.AddrPort {
	if i.Direction == Inbound {
		return i.Remote
	}
	return i.Local
}

// Destination returns where the packet goes.
func (i *Info) Destination() netip.AddrPort {
	if i.Direction == Inbound {
		return i.Local
	}
	return i.Remote
}
