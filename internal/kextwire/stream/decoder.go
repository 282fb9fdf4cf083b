package stream

import (
	"encoding/binary"
	"fmt"

	"github.com/weirfw/weir/internal/kextwire"
)

// MaxBody is the length of the longest body that is read. It is far more than any packet, and a bandwidth report about a
// quarter of a million connections. Longer ones are skipped.
const MaxBody = 16 << 20

const (
	// headSize is the type and the length of an info.
	headSize = 1 + 4
	// minCarry and maxCarry bound the memory that is kept for infos that come in parts.
	minCarry = 2 << 10
	maxCarry = 64 << 10
)

// Decoder takes the stream of a driver apart. The zero value is at the beginning of a stream. It is not safe for use by
// several goroutines.
//
// An info that comes whole in one Feed is decoded where it lies. One that comes in parts is copied, into memory of its own
// length: no driver can make a Decoder use more than MaxBody and 64 KiB, whatever lengths and counts it sends.
type Decoder struct {
	in    []byte // what was fed and not decoded yet
	carry []byte // the beginning of an info whose end is still to come
	skip  uint64 // how much of a body that nobody wants is still to come
}

// Feed gives the decoder what was read next. Call Next until it has no more before feeding again; b belongs to the decoder
// until then.
func (d *Decoder) Feed(b []byte) { d.in = b }

// Next decodes the next info into i. It returns false and no error when it needs more of the stream.
//
// An error is about one info, which is skipped: go on calling Next. It wraps kextwire.ErrSize. Infos of unknown types are
// skipped in silence, as a later driver may send them.
func (d *Decoder) Next(i *Info) (ok bool, err error) {
	for d.discard() {
		head := d.peek(headSize)
		if head == nil {
			return false, nil
		}
		kind, length := Kind(head[0]), binary.LittleEndian.Uint32(head[1:])
		shortest, longest, known := kind.limits()
		if !known || uint64(length) < uint64(shortest) || uint64(length) > uint64(longest) {
			d.drop(headSize)
			d.skip = uint64(length)
			if known {
				return false, fmt.Errorf("%w: info %d of %d bytes, not %d to %d", kextwire.ErrSize, kind, length, shortest, longest)
			}
			continue
		}
		info := d.peek(headSize + int(length))
		if info == nil {
			return false, nil
		}
		d.drop(len(info))
		if err := i.decode(kind, info[headSize:]); err != nil {
			return false, err
		}
		return true, nil
	}
	return false, nil
}

// discard skips what nobody wants. It reports whether that is done.
func (d *Decoder) discard() bool {
	n := min(d.skip, uint64(len(d.in)))
	d.in = d.in[n:]
	d.skip -= n
	return d.skip == 0
}

// peek returns the first n bytes of the info at hand, in one piece, or nil if they are not all there.
func (d *Decoder) peek(n int) []byte {
	switch {
	case len(d.carry) == 0 && len(d.in) >= n:
		return d.in[:n]
	case len(d.carry) >= n:
		return d.carry[:n]
	}
	if cap(d.carry) < n {
		d.carry = append(make([]byte, 0, max(n, minCarry)), d.carry...)
	}
	take := min(n-len(d.carry), len(d.in))
	d.carry = append(d.carry, d.in[:take]...)
	d.in = d.in[take:]
	if len(d.carry) < n {
		return nil
	}
	return d.carry
}

// drop ends the info, or its head, of which peek has returned n bytes.
func (d *Decoder) drop(n int) {
	switch {
	case len(d.carry) == 0:
		d.in = d.in[n:]
	case cap(d.carry) > maxCarry:
		d.carry = nil // infos of that size are rare
	default:
		d.carry = d.carry[:0]
	}
}
