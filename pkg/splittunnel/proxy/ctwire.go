package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/weirfw/weir/pkg/packet"
)

// The messages of ctnetlink (linux/netfilter/nfnetlink_conntrack.h) that ask for one connection. Headers are in the host's byte
// order, addresses and ports in the network's.
const (
	nlHeaderLen   = 16
	nlErrorType   = 2
	nfHeaderLen   = 4
	attrHeaderLen = 4
	ctMsgNew      = 1 << 8
	ctMsgAsk      = 1<<8 + 1
	nlRequest     = 1

	attrTypeMask  = 0x3fff
	attrNested    = 0x8000
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaIPv4Src    = 1
	ctaIPv4Dst    = 2
	ctaIPv6Src    = 3
	ctaIPv6Dst    = 4
	ctaProtoNum   = 1
	ctaProtoSrc   = 2
	ctaProtoDst   = 3

	// Families in a message about connections.
	familyIPv4 = 2
	familyIPv6 = 10
)

// errCtMessage is wrapped when an answer is not as the kernel writes it.
var errCtMessage = errors.New("malformed conntrack message")

// ctTuple is one direction of a tracked connection.
type ctTuple struct {
	proto    packet.Protocol
	src, dst netip.AddrPort
}

// appendCtAsk appends the question for the connection whose answers have the tuple.
func appendCtAsk(b []byte, seq uint32, reply ctTuple) []byte {
	start := len(b)
	family, srcType, dstType := byte(familyIPv6), uint16(ctaIPv6Src), uint16(ctaIPv6Dst)
	if reply.src.Addr().Is4() {
		family, srcType, dstType = familyIPv4, ctaIPv4Src, ctaIPv4Dst
	}
	b = append(b, make([]byte, nlHeaderLen)...)
	b = append(b, family, 0, 0, 0)
	tuple := len(b)
	b = appendAttr(b, ctaTupleReply|attrNested, nil)
	ip := len(b)
	b = appendAttr(b, ctaTupleIP|attrNested, nil)
	b = appendAddr(b, srcType, reply.src.Addr())
	b = appendAddr(b, dstType, reply.dst.Addr())
	closeAttr(b, ip)
	proto := len(b)
	b = appendAttr(b, ctaTupleProto|attrNested, nil)
	b = appendAttr(b, ctaProtoNum, []byte{byte(reply.proto)})
	b = appendPort(b, ctaProtoSrc, reply.src.Port())
	b = appendPort(b, ctaProtoDst, reply.dst.Port())
	closeAttr(b, proto)
	closeAttr(b, tuple)
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	binary.NativeEndian.PutUint16(b[start+4:], ctMsgAsk)
	binary.NativeEndian.PutUint16(b[start+6:], nlRequest)
	binary.NativeEndian.PutUint32(b[start+8:], seq)
	return b
}

func appendAttr(b []byte, typ uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attrHeaderLen+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func appendAddr(b []byte, typ uint16, a netip.Addr) []byte {
	if a.Is4() {
		v := a.As4()
		return appendAttr(b, typ, v[:])
	}
	v := a.As16()
	return appendAttr(b, typ, v[:])
}

func appendPort(b []byte, typ uint16, port uint16) []byte {
	var v [2]byte
	binary.BigEndian.PutUint16(v[:], port)
	return appendAttr(b, typ, v[:])
}

// closeAttr sets the length of the nested attribute that begins at start and contains all that follows.
func closeAttr(b []byte, start int) { binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start)) }

// decodeCtAnswer reads the answer to question seq. known is false if b answers another question. The error is the kernel's (a
// syscall.Errno; ENOENT if there is no such connection), or wraps errCtMessage.
func decodeCtAnswer(b []byte, seq uint32) (orig, reply ctTuple, known bool, err error) {
	if len(b) < nlHeaderLen {
		return orig, reply, false, fmt.Errorf("%w: %d bytes", errCtMessage, len(b))
	}
	length := binary.NativeEndian.Uint32(b)
	if length < nlHeaderLen || uint64(length) > uint64(len(b)) {
		return orig, reply, false, fmt.Errorf("%w: says %d bytes, has %d", errCtMessage, length, len(b))
	}
	if binary.NativeEndian.Uint32(b[8:]) != seq {
		return orig, reply, false, nil
	}
	typ := binary.NativeEndian.Uint16(b[4:])
	b = b[nlHeaderLen:length]
	switch {
	case typ == nlErrorType && len(b) >= 4:
		errno := -int32(binary.NativeEndian.Uint32(b))
		if errno <= 0 {
			return orig, reply, true, fmt.Errorf("%w: an acknowledgement", errCtMessage)
		}
		return orig, reply, true, syscall.Errno(errno)
	case typ != ctMsgNew || len(b) < nfHeaderLen:
		return orig, reply, true, fmt.Errorf("%w: type %#x, %d bytes", errCtMessage, typ, len(b))
	}
	orig, reply, err = decodeCtEntry(b[nfHeaderLen:])
	return orig, reply, true, err
}

// decodeCtEntry reads the two tuples among the attributes of a connection.
func decodeCtEntry(b []byte) (orig, reply ctTuple, err error) {
	for len(b) > 0 {
		var typ uint16
		var value []byte
		if typ, value, b, err = nextAttr(b); err != nil {
			return ctTuple{}, ctTuple{}, err
		}
		switch typ {
		case ctaTupleOrig:
			orig, err = decodeCtTuple(value)
		case ctaTupleReply:
			reply, err = decodeCtTuple(value)
		}
		if err != nil {
			return ctTuple{}, ctTuple{}, err
		}
	}
	if !orig.src.IsValid() || !reply.src.IsValid() {
		return ctTuple{}, ctTuple{}, fmt.Errorf("%w: a tuple is missing", errCtMessage)
	}
	return orig, reply, nil
}

func nextAttr(b []byte) (typ uint16, value, rest []byte, err error) {
	if len(b) < attrHeaderLen {
		return 0, nil, nil, fmt.Errorf("%w: attribute of %d bytes", errCtMessage, len(b))
	}
	n := int(binary.NativeEndian.Uint16(b))
	if n < attrHeaderLen || n > len(b) {
		return 0, nil, nil, fmt.Errorf("%w: attribute says %d bytes, has %d", errCtMessage, n, len(b))
	}
	return binary.NativeEndian.Uint16(b[2:]) & attrTypeMask, b[attrHeaderLen:n], b[min((n+3)&^3, len(b)):], nil
}

// tupleParts is what the attributes of a tuple say.
type tupleParts struct {
	src, dst         netip.Addr
	srcPort, dstPort uint16
	proto            packet.Protocol
	ports            int
}

func decodeCtTuple(b []byte) (ctTuple, error) {
	var p tupleParts
	for len(b) > 0 {
		typ, value, rest, err := nextAttr(b)
		if err != nil {
			return ctTuple{}, err
		}
		for b = rest; len(value) > 0 && (typ == ctaTupleIP || typ == ctaTupleProto); {
			var inner uint16
			var v []byte
			if inner, v, value, err = nextAttr(value); err != nil {
				return ctTuple{}, err
			}
			if typ == ctaTupleIP {
				p.addr(inner, v)
			} else {
				p.port(inner, v)
			}
		}
	}
	if !p.src.IsValid() || !p.dst.IsValid() || p.src.Is4() != p.dst.Is4() || p.ports != 3 {
		return ctTuple{}, fmt.Errorf("%w: incomplete tuple", errCtMessage)
	}
	return ctTuple{
		proto: p.proto, src: netip.AddrPortFrom(p.src, p.srcPort), dst: netip.AddrPortFrom(p.dst, p.dstPort),
	}, nil
}

func (p *tupleParts) addr(typ uint16, v []byte) {
	a, ok := netip.AddrFromSlice(v)
	switch {
	case !ok:
	case typ == ctaIPv4Src && a.Is4(), typ == ctaIPv6Src && a.Is6():
		p.src = a
	case typ == ctaIPv4Dst && a.Is4(), typ == ctaIPv6Dst && a.Is6():
		p.dst = a
	}
}

func (p *tupleParts) port(typ uint16, v []byte) {
	switch {
	case typ == ctaProtoNum && len(v) == 1:
		p.proto = packet.Protocol(v[0])
	case typ == ctaProtoSrc && len(v) == 2:
		p.srcPort = binary.BigEndian.Uint16(v)
		p.ports |= 1
	case typ == ctaProtoDst && len(v) == 2:
		p.dstPort = binary.BigEndian.Uint16(v)
		p.ports |= 2
	}
}
