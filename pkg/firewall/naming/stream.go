package naming

import "encoding/binary"

// maxMessage is how much is kept of one message over TCP: the records that come first are those of the answer.
const maxMessage = 16 << 10

// stream cuts the bytes that come in over one TCP connection into messages, each of which has its length in front (RFC 1035
// section 4.2.2). What comes out of order or was not copied is not waited for.
type stream struct {
	// next is the sequence number that is expected.
	next uint32
	// head is the length, as far as it is there; left is what is still to come of the message behind it.
	head []byte
	left int
	buf  []byte
	// cut: the rest of this message is of no use.
	cut bool
}

// add takes a segment of total bytes at seq, of which the first ones are in have. It calls done for each message that is complete,
// or cut off, and reports false if it has lost its place.
func (s *stream) add(seq uint32, have []byte, total int, done func(b []byte)) bool {
	old := int(int32(s.next - seq))
	switch {
	case old < 0:
		return false // something is missing in between
	case old >= total:
		return true // all of it came before
	}
	have, total = have[min(old, len(have)):], total-old
	s.next += uint32(total)
	for total > 0 {
		if len(s.head) < 2 {
			if len(have) == 0 {
				return false
			}
			s.head = append(s.head, have[0])
			have, total = have[1:], total-1
			if len(s.head) == 2 {
				s.left, s.buf, s.cut = int(binary.BigEndian.Uint16(s.head)), nil, false
			}
		}
		n := min(s.left, total)
		have = s.take(have, n)
		total -= n
		if len(s.head) == 2 && s.left == 0 {
			done(s.buf)
			s.head, s.buf = s.head[:0], nil
		}
	}
	return true
}

// take moves the next n bytes of the message, of which some may not be there, from have to buf.
func (s *stream) take(have []byte, n int) (rest []byte) {
	there := min(n, len(have))
	if !s.cut {
		s.buf = append(s.buf, have[:min(there, maxMessage-len(s.buf))]...)
	}
	s.cut = s.cut || there < n || len(s.buf) == maxMessage
	s.left -= n
	return have[there:]
}
