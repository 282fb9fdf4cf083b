package nameserver

import (
	"encoding/binary"
	"strings"

	"github.com/miekg/dns"
)

// Limits and offsets of the format (RFC 1035 sections 2.3.4, 4.1 and 4.2).
const (
	headerLen   = 12
	maxName     = 255
	maxLabel    = 63
	maxMessage  = 65535
	minUDP      = 512
	typeAndMore = 10 // of a record: type, class, TTL, length of data
	optLen      = 11 // an OPT record without options
)

// Bits of the second 16-bit word of a header.
const (
	bitQR = 1 << 15
	bitTC = 1 << 9
	bitRD = 1 << 8
	bitRA = 1 << 7
	bitAD = 1 << 5
	bitCD = 1 << 4

	opcodeMask = 0xf << 11
	rcodeMask  = 0xf
)

// bitDO is in the TTL of an OPT record (RFC 6891 section 6.1.4).
const bitDO = 1 << 15

// ignore is what parseRequest returns instead of an rcode for packets that get no answer.
const ignore = -1

// request is what a client's packet says. name and question point into the packet.
type request struct {
	id     uint16
	flags  uint16
	name   []byte // as it is on the wire, with the final zero, in the client's case
	qtype  uint16
	qclass uint16
	edns   bool
	do     bool
	size   int // the largest answer by UDP that the client takes
}

// parseRequest reads a query. It returns an rcode other than success for what is answered with just that, and ignore for what gets no
// answer: answering answers makes loops, and a packet without a header has no id to answer to. Packages that decode whole messages
// allocate a lot for the little that a query is, and the time that takes is most of what a cached answer costs.
func parseRequest(b []byte) (r request, rcode int) {
	if len(b) < headerLen {
		return r, ignore
	}
	r.id = binary.BigEndian.Uint16(b)
	r.flags = binary.BigEndian.Uint16(b[2:])
	r.size = minUDP
	if r.flags&bitQR != 0 {
		return r, ignore
	}
	if r.flags&opcodeMask != 0 {
		return r, dns.RcodeNotImplemented
	}
	questions, others := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint32(b[6:])
	extra := int(binary.BigEndian.Uint16(b[10:]))
	if questions != 1 || others != 0 {
		return r, dns.RcodeFormatError // RFC 9619: a query has one question
	}
	end, ok := plainName(b, headerLen)
	if !ok || len(b) < end+4 {
		return r, dns.RcodeFormatError
	}
	r.name = b[headerLen:end]
	r.qtype = binary.BigEndian.Uint16(b[end:])
	r.qclass = binary.BigEndian.Uint16(b[end+2:])
	if rcode := r.parseExtra(b, end+4, extra); rcode != dns.RcodeSuccess {
		return r, rcode
	}
	return r, r.refusal()
}

// refusal is the rcode for questions that are none for a resolver of this kind.
func (r *request) refusal() int {
	if r.qclass != dns.ClassINET {
		return dns.RcodeRefused
	}
	switch r.qtype {
	case dns.TypeAXFR, dns.TypeIXFR, dns.TypeMAILA, dns.TypeMAILB, dns.TypeTKEY:
		return dns.RcodeRefused
	case dns.TypeNone, dns.TypeOPT, dns.TypeTSIG:
		return dns.RcodeFormatError
	}
	return dns.RcodeSuccess
}

// parseExtra reads the additional section, of which only OPT matters.
func (r *request) parseExtra(b []byte, off, n int) (rcode int) {
	for range n {
		root := off < len(b) && b[off] == 0
		end, ok := skipName(b, off)
		if !ok || len(b) < end+typeAndMore {
			return dns.RcodeFormatError
		}
		data := end + typeAndMore
		off = data + int(binary.BigEndian.Uint16(b[end+8:]))
		if off > len(b) {
			return dns.RcodeFormatError
		}
		if binary.BigEndian.Uint16(b[end:]) != dns.TypeOPT {
			continue
		}
		if r.edns || !root || !optionsFit(b[data:off]) {
			return dns.RcodeFormatError // RFC 6891 section 6.1.1: one, owned by the root
		}
		r.edns = true
		r.size = max(minUDP, int(binary.BigEndian.Uint16(b[end+2:])))
		ttl := binary.BigEndian.Uint32(b[end+4:])
		r.do = ttl&bitDO != 0
		if ttl>>16&0xff != 0 {
			return dns.RcodeBadVers
		}
	}
	return dns.RcodeSuccess
}

// optionsFit reports whether the data of an OPT record is a list of whole options.
func optionsFit(b []byte) bool {
	for len(b) > 0 {
		if len(b) < 4 {
			return false
		}
		n := 4 + int(binary.BigEndian.Uint16(b[2:]))
		if n > len(b) {
			return false
		}
		b = b[n:]
	}
	return true
}

// plainName returns the end of a name that is not compressed.
func plainName(b []byte, off int) (end int, ok bool) {
	start := off
	for off < len(b) {
		n := int(b[off])
		off += 1 + n
		switch {
		case n > maxLabel || off-start > maxName:
			return 0, false
		case n == 0:
			return off, true
		}
	}
	return 0, false
}

// skipName returns the end of a name that may end in a pointer, which is not followed.
func skipName(b []byte, off int) (end int, ok bool) {
	for start := off; off < len(b) && off-start <= maxName; {
		n := int(b[off])
		switch {
		case n == 0:
			return off + 1, true
		case n&0xc0 == 0xc0:
			return off + 2, off+2 <= len(b)
		case n > maxLabel:
			return 0, false
		}
		off += 1 + n
	}
	return 0, false
}

// lower writes the name in lower case to dst. The lengths of labels are not letters.
func lower(dst, name []byte) {
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst[i] = c
	}
}

// equalFold compares names on the wire without regard to case (RFC 4343).
func equalFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	var x, y [maxName]byte
	if len(a) > maxName {
		return false
	}
	lower(x[:], a)
	lower(y[:], b)
	return string(x[:len(a)]) == string(y[:len(b)])
}

// bareReply answers with an rcode and the question, if it could be read.
func bareReply(dst []byte, r *request, rcode int) []byte {
	flags := r.flags&(bitRD|bitCD|opcodeMask) | bitQR | bitRA | uint16(rcode&rcodeMask)
	dst = binary.BigEndian.AppendUint16(dst, r.id)
	dst = binary.BigEndian.AppendUint16(dst, flags)
	questions, extra := uint16(0), uint16(0)
	if r.name != nil {
		questions = 1
	}
	if r.edns {
		extra = 1
	}
	dst = binary.BigEndian.AppendUint16(dst, questions)
	dst = binary.BigEndian.AppendUint32(dst, 0)
	dst = binary.BigEndian.AppendUint16(dst, extra)
	if r.name != nil {
		dst = append(dst, r.name...)
		dst = binary.BigEndian.AppendUint16(dst, r.qtype)
		dst = binary.BigEndian.AppendUint16(dst, r.qclass)
	}
	if r.edns {
		dst = appendOPT(dst, rcode, r.do, note{})
	}
	return dst
}

// note is an extended error (RFC 8914) to put into an answer; with the zero value there is none.
type note struct {
	code uint16
	text string
	set  bool
}

// maxNote keeps the text of an extended error from filling a packet.
const maxNote = 200

// clipped is the text at its longest, which ends with a whole character (RFC 8914 section 2 wants UTF-8).
func (n note) clipped() string { return strings.ToValidUTF8(n.text[:min(len(n.text), maxNote)], "") }

// appendOPT appends our OPT record.
func appendOPT(dst []byte, rcode int, do bool, n note) []byte { //nolint:revive // do is a bit of the protocol
	dst = append(dst, 0)
	dst = binary.BigEndian.AppendUint16(dst, dns.TypeOPT)
	dst = binary.BigEndian.AppendUint16(dst, ednsSize)
	ttl := uint32(rcode>>4) << 24
	if do {
		ttl |= bitDO
	}
	dst = binary.BigEndian.AppendUint32(dst, ttl)
	if !n.set {
		return binary.BigEndian.AppendUint16(dst, 0)
	}
	text := n.clipped()
	dst = binary.BigEndian.AppendUint16(dst, uint16(6+len(text)))
	dst = binary.BigEndian.AppendUint16(dst, dns.EDNS0EDE)
	dst = binary.BigEndian.AppendUint16(dst, uint16(2+len(text)))
	dst = binary.BigEndian.AppendUint16(dst, n.code)
	return append(dst, text...)
}

// ttlOffsets returns where the TTLs of a packed message without OPT are, and false if the message is not as we pack them.
func ttlOffsets(b []byte) (offsets []uint16, ok bool) {
	if len(b) < headerLen || len(b) > maxMessage {
		return nil, false
	}
	n := int(binary.BigEndian.Uint16(b[6:])) + int(binary.BigEndian.Uint16(b[8:])) + int(binary.BigEndian.Uint16(b[10:]))
	off, ok := skipName(b, headerLen)
	if off += 4; !ok || off > len(b) {
		return nil, false
	}
	offsets = make([]uint16, 0, min(n, len(b)/typeAndMore))
	for range n {
		end, ok := skipName(b, off)
		if !ok || len(b) < end+typeAndMore {
			return nil, false
		}
		offsets = append(offsets, uint16(end+4))
		if off = end + typeAndMore + int(binary.BigEndian.Uint16(b[end+8:])); off > len(b) {
			return nil, false
		}
	}
	return offsets, true
}
