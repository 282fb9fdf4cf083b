package nfq

import (
	"encoding/binary"
	"net/netip"

	"github.com/weirfw/weir/pkg/packet"
)

// Message types and attributes of the kernel's nfnetlink_conntrack.h.
const (
	subsysConntrack = 1
	ctMsgNew        = 0
	ctMsgGet        = 1
	ctMsgDelete     = 2

	ctTupleOrig     = 1
	ctTupleReply    = 2
	ctStatus        = 3
	ctProtoInfo     = 4
	ctTimeout       = 7
	ctMark          = 8
	ctCountersOrig  = 9
	ctCountersReply = 10
	ctID            = 12
	ctZone          = 18
	ctMarkMask      = 21
	ctLabels        = 22
	ctLabelsMask    = 23

	ctSeenReply = 2 // of the status

	ctTupleIP    = 1
	ctTupleProto = 2

	ctIPv4Src = 1
	ctIPv6Src = 3

	ctProtoNum    = 1
	ctProtoSrc    = 2
	ctProtoDst    = 3
	ctProtoICMP   = 4 // id, type and code; of ICMPv6 from 7 on
	ctProtoICMPv6 = 7

	ctInfoTCP       = 1
	ctTCPState      = 1
	ctTCPFlagsOrig  = 4
	ctTCPFlagsReply = 5
	// tcpLiberal keeps the kernel from judging sequence numbers it has never seen.
	tcpLiberal     = 0x08
	ctCounterBytes = 2
	labelBytesSize = 16
)

// flowTuple is one direction of a connection as the kernel's connection tracking knows it: its packets' source, destination and
// protocol. The id of an ICMP question stands in the port of the side that asks, as in packet.Tuple.
type flowTuple struct {
	src, dst           netip.AddrPort
	protocol           packet.Protocol
	icmpType, icmpCode uint8
}

// flow is an entry of the kernel's connection tracking.
type flow struct {
	orig, reply flowTuple
	mark        uint32
	id          uint32
	zone        uint16
	labels      [labelBytesSize]byte
	// replied: packets of both directions were seen, whatever became of them.
	replied bool
	// midway: of a TCP connection the kernel has not seen the beginning.
	midway bool
	// sent and received are bytes, from the view of who opened the connection. They are 0 without accounting.
	sent, received uint64
	// left is how many seconds the entry has if nothing more comes.
	left uint32
	// state is TCP's.
	state uint8
}

// isRequest reports whether an ICMP message asks something.
func isRequest(p packet.Protocol, icmpType uint8) bool {
	if p == packet.ICMPv6 {
		return icmpType == 128 || icmpType == 139
	}
	switch icmpType {
	case 8, 13, 15, 17:
		return true
	}
	return false
}

// flowOf returns the connection whose first packet went in direction dir.
func flowOf(t packet.Tuple, dir packet.Direction) flow {
	if dir == packet.Inbound {
		t = t.Reverse()
	}
	f := flow{
		orig:  flowTuple{src: t.Local, dst: t.Remote, protocol: t.Protocol},
		reply: flowTuple{src: t.Remote, dst: t.Local, protocol: t.Protocol},
	}
	if t.Protocol.IsICMP() {
		f.orig.icmpType, f.reply.icmpType = echoTypes(t.Protocol)
	}
	return f
}

// echoTypes are echo request and reply.
func echoTypes(p packet.Protocol) (request, reply uint8) {
	if p == packet.ICMPv6 {
		return 128, 129
	}
	return 8, 0
}

// outbound is the connection as this host sees it if it opened it, inbound if another did. Address translation on the way lies
// between the two.
func (f *flow) outbound() packet.Tuple {
	return packet.Tuple{Local: f.orig.src, Remote: f.orig.dst, Protocol: f.orig.protocol}
}

func (f *flow) inbound() packet.Tuple {
	return packet.Tuple{Local: f.reply.src, Remote: f.reply.dst, Protocol: f.reply.protocol}
}

// labelled reports whether the entry has our label.
func (f *flow) labelled() bool {
	for i, b := range labelBytes(judgedLabel) {
		if f.labels[i]&b != 0 {
			return true
		}
	}
	return false
}

// appendNest begins an attribute that holds others; closeNest ends the one that began at len(b).
func appendNest(b []byte, typ uint16) []byte {
	b = append(b, 0, 0)
	return binary.NativeEndian.AppendUint16(b, typ|attrNested)
}

func closeNest(b []byte, at int) {
	binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at))
}

func appendUint32(b []byte, typ uint16, v uint32) []byte {
	b = append(b, 8, 0, 0, 0)
	at := len(b) - 4
	binary.NativeEndian.PutUint16(b[at:], 8)
	binary.NativeEndian.PutUint16(b[at+2:], typ)
	return binary.BigEndian.AppendUint32(b, v)
}

func appendUint16(b []byte, typ, v uint16) []byte { return appendAttr(b, typ, byte(v>>8), byte(v)) }

// appendFlowTuple appends one direction as attribute typ.
func appendFlowTuple(b []byte, typ uint16, t flowTuple) []byte {
	outer := len(b)
	b = appendNest(b, typ)
	inner := len(b)
	b = appendNest(b, ctTupleIP)
	if t.src.Addr().Is4() {
		src, dst := t.src.Addr().As4(), t.dst.Addr().As4()
		b = appendAttr(appendAttr(b, ctIPv4Src, src[:]...), ctIPv4Src+1, dst[:]...)
	} else {
		src, dst := t.src.Addr().As16(), t.dst.Addr().As16()
		b = appendAttr(appendAttr(b, ctIPv6Src, src[:]...), ctIPv6Src+1, dst[:]...)
	}
	closeNest(b, inner)
	inner = len(b)
	b = appendNest(b, ctTupleProto)
	b = appendAttr(b, ctProtoNum, byte(t.protocol))
	if t.protocol.IsICMP() {
		first := uint16(ctProtoICMP)
		if t.protocol == packet.ICMPv6 {
			first = ctProtoICMPv6
		}
		b = appendUint16(b, first, max(t.src.Port(), t.dst.Port())) // one of them is 0
		b = appendAttr(b, first+1, t.icmpType)
		b = appendAttr(b, first+2, t.icmpCode)
	} else {
		b = appendUint16(b, ctProtoSrc, t.src.Port())
		b = appendUint16(b, ctProtoDst, t.dst.Port())
	}
	closeNest(b, inner)
	closeNest(b, outer)
	return b
}

// appendFlow appends both directions of an entry and where it lies.
func appendFlow(b []byte, f *flow) []byte {
	b = appendFlowTuple(b, ctTupleOrig, f.orig)
	b = appendFlowTuple(b, ctTupleReply, f.reply)
	if f.zone != 0 {
		b = appendUint16(b, ctZone, f.zone)
	}
	return b
}

// nfFamily is the address family of a direction.
func (t *flowTuple) nfFamily() uint8 {
	if t.src.Addr().Is4() {
		return nfproto4
	}
	return nfproto6
}

// appendConntrackHeader begins a request. Its length and sequence number are filled in when it is sent.
func appendConntrackHeader(b []byte, typ, flags uint16, nfFamily, version uint8) []byte {
	b = appendHeader(b, 0, subsysConntrack<<8|typ, nlmFlagRequest|flags, 0)
	b[len(b)-4], b[len(b)-3] = nfFamily, version
	return b
}

// nextAttr cuts the first attribute off b. ok is false at the end and when the rest makes no sense.
func nextAttr(b []byte) (typ uint16, value, rest []byte, ok bool) {
	if len(b) < attrHeader {
		return 0, nil, nil, false
	}
	size := int(binary.NativeEndian.Uint16(b))
	if size < attrHeader || size > len(b) {
		return 0, nil, nil, false
	}
	if end := align4(size); end < len(b) {
		rest = b[end:]
	}
	return binary.NativeEndian.Uint16(b[2:]) & attrTypeMask, b[attrHeader:size], rest, true
}

// parseFlow reads the attributes of an entry. It allocates nothing. What it does not know it skips; it reports false if the
// directions are not there.
func parseFlow(b []byte, f *flow) bool {
	*f = flow{}
	hasOrig, hasReply := false, false
	for typ, v, rest, ok := nextAttr(b); ok; typ, v, rest, ok = nextAttr(rest) {
		switch typ {
		case ctTupleOrig:
			hasOrig = f.orig.parse(v)
		case ctTupleReply:
			hasReply = f.reply.parse(v)
		case ctStatus:
			f.replied = beUint32(v)&ctSeenReply != 0
		case ctProtoInfo:
			f.midway = isMidway(v)
			f.state = tcpState(v)
		case ctTimeout:
			f.left = beUint32(v)
		case ctMark:
			f.mark = beUint32(v)
		case ctID:
			f.id = beUint32(v)
		case ctZone:
			f.zone = beUint16(v)
		case ctLabels:
			copy(f.labels[:], v)
		case ctCountersOrig:
			f.sent = counterBytes(v)
		case ctCountersReply:
			f.received = counterBytes(v)
		}
	}
	return hasOrig && hasReply
}

// parse reports whether b holds two addresses of one family and a protocol.
func (t *flowTuple) parse(b []byte) bool {
	*t = flowTuple{}
	var src, dst netip.Addr
	var sport, dport, id uint16
	hasProtocol := false
	for typ, v, rest, ok := nextAttr(b); ok; typ, v, rest, ok = nextAttr(rest) {
		for inner, v, rest, ok := nextAttr(v); ok; inner, v, rest, ok = nextAttr(rest) {
			switch {
			case typ == ctTupleIP && (inner == ctIPv4Src || inner == ctIPv6Src):
				src, _ = netip.AddrFromSlice(v)
			case typ == ctTupleIP && (inner == ctIPv4Src+1 || inner == ctIPv6Src+1):
				dst, _ = netip.AddrFromSlice(v)
			case typ != ctTupleProto || len(v) == 0:
			case inner == ctProtoNum:
				t.protocol, hasProtocol = packet.Protocol(v[0]), true
			case inner == ctProtoSrc:
				sport = beUint16(v)
			case inner == ctProtoDst:
				dport = beUint16(v)
			case inner == ctProtoICMP || inner == ctProtoICMPv6:
				id = beUint16(v)
			case inner == ctProtoICMP+1 || inner == ctProtoICMPv6+1:
				t.icmpType = v[0]
			case inner == ctProtoICMP+2 || inner == ctProtoICMPv6+2:
				t.icmpCode = v[0]
			}
		}
	}
	if t.protocol.IsICMP() {
		sport, dport = 0, id
		if isRequest(t.protocol, t.icmpType) {
			sport, dport = id, 0
		}
	} else {
		t.icmpType, t.icmpCode = 0, 0
	}
	t.src, t.dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return hasProtocol && src.IsValid() && dst.IsValid() && src.Is4() == dst.Is4()
}

// isMidway reads the protocol's part of an entry. Both sides have the flag that stops the kernel from judging sequence numbers
// where it picked the connection up on its way, and where remember said so.
func isMidway(b []byte) bool {
	liberal := 0
	for typ, v, rest, ok := nextAttr(b); ok; typ, v, rest, ok = nextAttr(rest) {
		if typ != ctInfoTCP {
			continue
		}
		for inner, v, rest, ok := nextAttr(v); ok; inner, v, rest, ok = nextAttr(rest) {
			if (inner == ctTCPFlagsOrig || inner == ctTCPFlagsReply) && len(v) > 0 && v[0]&tcpLiberal != 0 {
				liberal++
			}
		}
	}
	return liberal == 2
}

// States of TCP in the kernel's connection tracking (nf_conntrack_tcp.h) of a connection that is over.
const (
	ctTCPTimeWait = 7
	ctTCPClose    = 8
)

// closed reports whether a TCP connection is over.
func (f *flow) closed() bool { return f.state == ctTCPTimeWait || f.state == ctTCPClose }

// tcpState reads the state from the protocol's part of an entry, 0 if it has none.
func tcpState(b []byte) uint8 {
	for typ, v, rest, ok := nextAttr(b); ok; typ, v, rest, ok = nextAttr(rest) {
		if typ != ctInfoTCP {
			continue
		}
		for inner, v, rest, ok := nextAttr(v); ok; inner, v, rest, ok = nextAttr(rest) {
			if inner == ctTCPState && len(v) > 0 {
				return v[0]
			}
		}
	}
	return 0
}

func counterBytes(b []byte) uint64 {
	for typ, v, rest, ok := nextAttr(b); ok; typ, v, rest, ok = nextAttr(rest) {
		if typ == ctCounterBytes && len(v) >= 8 {
			return binary.BigEndian.Uint64(v)
		}
	}
	return 0
}

func beUint32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(v)
}

func beUint16(v []byte) uint16 {
	if len(v) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(v)
}
