package nfq

import (
	"encoding/binary"

	"github.com/weirfw/weir/pkg/packet"
)

// Message types and attributes of the kernel's nfnetlink_queue.h. Netlink
// headers are in the machine's byte order; what the attributes hold is in
// network order.
const (
	subsysQueue     = 3
	msgPacket       = 0
	msgVerdict      = 1
	msgConfig       = 2
	msgVerdictBatch = 3

	attrPacketHdr  = 1
	attrVerdictHdr = 2
	attrMark       = 3
	attrIfIn       = 5
	attrIfOut      = 6
	attrPayload    = 10
	attrCapLen     = 13
	attrUID        = 16

	cfgCmd    = 1
	cfgParams = 2
	cfgMaxLen = 3
	cfgMask   = 4
	cfgFlags  = 5

	cmdBind = 1

	copyPacket = 2

	flagFailOpen = 1 << 0
	flagGSO      = 1 << 2
	flagUIDGID   = 1 << 3
)

// Generic netlink (netlink.h).
const (
	nlmsgNoop  = 1
	nlmsgError = 2

	nlmFlagRequest = 1
	nlmFlagAck     = 4

	nlmsgHeader   = 16
	queueHeader   = nlmsgHeader + 4 // with struct nfgenmsg
	attrHeader    = 4
	attrTypeMask  = 0x3fff
	packetHdrSize = 7
)

// Netfilter hooks (netfilter.h).
const (
	hookLocalOut  = 3
	hookPostRoute = 4
)

// message is one netlink message of a queue. The payload points into the bytes
// that were parsed.
type message struct {
	id      uint32
	hook    uint8
	hasUID  bool
	mark    uint32
	in, out uint32
	uid     uint32
	// length of the whole packet where the payload is only its beginning, else 0.
	length  uint32
	payload []byte
	// errno of a messageError; 0 is an acknowledgement.
	errno uint32
}

// direction tells which way the packet goes. What is forwarded counts as
// inbound.
func (m *message) direction() packet.Direction {
	if m.hook == hookLocalOut || m.hook == hookPostRoute {
		return packet.Outbound
	}
	return packet.Inbound
}

// fill sets what the kernel told beside the packet itself.
func (m *message) fill(i *packet.Info) {
	i.Mark, i.UID, i.HasUID, i.PID = m.mark, m.uid, m.hasUID, 0
	i.Interface = m.in
	if m.direction() == packet.Outbound {
		i.Interface = m.out
	}
}

// messageKind is what parse found.
type messageKind uint8

const (
	// messageBad holds no packet that a verdict could name.
	messageBad messageKind = iota
	// messagePacket is a queued packet.
	messagePacket
	// messageCut is a queued packet whose message contradicts itself or ends too
	// early: its id is known, so it needs a verdict, but the rest is not to be
	// trusted.
	messageCut
	// messageError is the kernel's answer to a request of ours.
	messageError
	// messageOther is something else, complete: nothing to do.
	messageOther
)

// parse reads the first message of b into m and returns what follows it. It
// allocates nothing and keeps no more than m.payload. Attributes that it does
// not know are skipped.
func parse(b []byte, m *message) (kind messageKind, rest []byte) {
	*m = message{}
	if len(b) < nlmsgHeader {
		return messageBad, nil
	}
	size := int(binary.NativeEndian.Uint32(b))
	kind = messagePacket
	switch {
	case size < nlmsgHeader:
		return messageBad, nil
	case size > len(b):
		kind, size = messageCut, len(b)
	case align4(size) < len(b):
		rest = b[align4(size):]
	}
	b = b[:size]
	switch binary.NativeEndian.Uint16(b[4:]) {
	case subsysQueue<<8 | msgPacket:
	case nlmsgError:
		return parseError(b, m), rest
	default:
		return messageOther, rest
	}
	if len(b) < queueHeader {
		return messageBad, rest
	}
	if hasID, whole := parseAttributes(b[queueHeader:], m); !hasID {
		return messageBad, rest
	} else if !whole {
		kind = messageCut
	}
	return kind, rest
}

// parseError reads struct nlmsgerr.
func parseError(b []byte, m *message) messageKind {
	if len(b) < nlmsgHeader+4 {
		return messageBad
	}
	m.errno = -binary.NativeEndian.Uint32(b[nlmsgHeader:])
	return messageError
}

// parseAttributes reports whether the packet's id was among b, and whether b was
// whole: every attribute ends inside it and is as long as it has to be.
func parseAttributes(b []byte, m *message) (hasID, whole bool) {
	for len(b) >= attrHeader {
		size := int(binary.NativeEndian.Uint16(b))
		if size < attrHeader || size > len(b) {
			return hasID, false
		}
		typ, v := binary.NativeEndian.Uint16(b[2:])&attrTypeMask, b[attrHeader:size]
		switch typ {
		case attrPacketHdr:
			if len(v) < packetHdrSize {
				return hasID, false
			}
			m.id, m.hook, hasID = binary.BigEndian.Uint32(v), v[6], true
		case attrPayload:
			m.payload = v
		case attrMark, attrIfIn, attrIfOut, attrCapLen, attrUID:
			if len(v) < 4 {
				return hasID, false
			}
			m.set(typ, binary.BigEndian.Uint32(v))
		}
		if align4(size) >= len(b) {
			return hasID, true
		}
		b = b[align4(size):]
	}
	return hasID, len(b) == 0
}

func (m *message) set(typ uint16, v uint32) {
	switch typ {
	case attrMark:
		m.mark = v
	case attrIfIn:
		m.in = v
	case attrIfOut:
		m.out = v
	case attrCapLen:
		m.length = v
	case attrUID:
		m.uid, m.hasUID = v, true
	}
}

func align4(n int) int { return (n + 3) &^ 3 }

// verdictSize is the most that appendVerdict appends.
const verdictSize = 40

// appendVerdict appends a message of type msgVerdict or msgVerdictBatch. The
// packet's mark is left alone if mark is 0.
func appendVerdict(o []byte, typ, queue uint16, id, nf, mark uint32) []byte {
	size := uint32(verdictSize)
	if mark == 0 {
		size -= 8
	}
	// No NLM_F_ACK: the kernel then answers errors only.
	o = appendHeader(o, size, subsysQueue<<8|typ, nlmFlagRequest, queue)
	o = binary.NativeEndian.AppendUint16(o, 12)
	o = binary.NativeEndian.AppendUint16(o, attrVerdictHdr)
	o = binary.BigEndian.AppendUint32(o, nf)
	o = binary.BigEndian.AppendUint32(o, id)
	if mark != 0 {
		o = binary.NativeEndian.AppendUint16(o, 8)
		o = binary.NativeEndian.AppendUint16(o, attrMark)
		o = binary.BigEndian.AppendUint32(o, mark)
	}
	return o
}

// appendHeader appends the headers of a message for a queue. Sequence number and
// sender are 0: answers are told apart by their order.
func appendHeader(o []byte, size uint32, typ, flags, queue uint16) []byte {
	o = binary.NativeEndian.AppendUint32(o, size)
	o = binary.NativeEndian.AppendUint16(o, typ)
	o = binary.NativeEndian.AppendUint16(o, flags)
	o = append(o, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	return binary.BigEndian.AppendUint16(o, queue)
}

// queueParams is what a queue is told when it is bound.
type queueParams struct {
	queue     uint16
	copyRange uint32
	maxLen    uint32
	flags     uint32
}

// appendConfig appends one message that binds the queue and sets everything, so
// that no packet is queued by half-set rules.
func appendConfig(o []byte, p queueParams) []byte {
	begin := len(o)
	o = appendHeader(o, 0, subsysQueue<<8|msgConfig, nlmFlagRequest|nlmFlagAck, p.queue)
	o = appendAttr(o, cfgCmd, cmdBind, 0, 0, 0)
	o = appendAttr(o, cfgParams, append(binary.BigEndian.AppendUint32(nil, p.copyRange), copyPacket)...)
	o = appendAttr(o, cfgMaxLen, binary.BigEndian.AppendUint32(nil, p.maxLen)...)
	if p.flags != 0 {
		o = appendFlags(o, p.flags)
	}
	binary.NativeEndian.PutUint32(o[begin:], uint32(len(o)-begin))
	return o
}

func appendFlags(o []byte, flags uint32) []byte {
	o = appendAttr(o, cfgFlags, binary.BigEndian.AppendUint32(nil, flags)...)
	return appendAttr(o, cfgMask, binary.BigEndian.AppendUint32(nil, flags)...)
}

func appendAttr(o []byte, typ uint16, v ...byte) []byte {
	o = binary.NativeEndian.AppendUint16(o, uint16(attrHeader+len(v)))
	o = binary.NativeEndian.AppendUint16(o, typ)
	o = append(o, v...)
	for len(o)%4 != 0 {
		o = append(o, 0)
	}
	return o
}

// appendNoop appends a request that does nothing and is answered: it wakes the
// reader of the socket that it is sent by.
func appendNoop(o []byte) []byte {
	o = binary.NativeEndian.AppendUint32(o, nlmsgHeader)
	o = binary.NativeEndian.AppendUint16(o, nlmsgNoop)
	o = binary.NativeEndian.AppendUint16(o, nlmFlagRequest|nlmFlagAck)
	return append(o, 0, 0, 0, 0, 0, 0, 0, 0)
}
