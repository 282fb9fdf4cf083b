package rules

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// point is a number of 128 bits: an address in its 16-byte form (IPv4 in
// ::ffff:0:0/96, so that both families share a line), or a port.
type point struct{ hi, lo uint64 }

func addrPoint(a netip.Addr) point {
	b := a.As16()
	return point{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func portPoint(p uint16) point { return point{lo: uint64(p)} }

func (p point) less(q point) bool { return p.hi < q.hi || p.hi == q.hi && p.lo < q.lo }

func (p point) compare(q point) int {
	if c := cmp.Compare(p.hi, q.hi); c != 0 {
		return c
	}
	return cmp.Compare(p.lo, q.lo)
}

// next returns p+1; ok is false if p is the last point.
func (p point) next() (n point, ok bool) {
	n = point{p.hi, p.lo + 1}
	if n.lo == 0 {
		n.hi++
	}
	return n, n != point{}
}

func (p point) prev() point {
	if p.lo == 0 {
		p.hi--
	}
	p.lo--
	return p
}

// span is the points from first to last, both included.
type span struct{ first, last point }

// mapped is where IPv4 lives on the line.
func mapped() span {
	return span{point{0, 0xffff_0000_0000}, point{0, 0xffff_ffff_ffff}}
}

// withoutMapped cuts the home of IPv4 out of a span of IPv6 addresses: "::/0"
// is not meant to match IPv4.
func (s span) withoutMapped() []span {
	m := mapped()
	if s.last.less(m.first) || m.last.less(s.first) {
		return []span{s}
	}
	var out []span
	if s.first.less(m.first) {
		out = append(out, span{s.first, m.first.prev()})
	}
	if m.last.less(s.last) {
		n, _ := m.last.next() // m.last is not the last point
		out = append(out, span{n, s.last})
	}
	return out
}

func prefixSpan(p netip.Prefix) span {
	s := span{first: addrPoint(p.Masked().Addr())}
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	s.last = s.first
	if bits < 64 {
		s.last.hi |= ^uint64(0) >> bits
		s.last.lo = ^uint64(0)
	} else if bits < 128 {
		s.last.lo |= ^uint64(0) >> (bits - 64)
	}
	return s
}

// spans is sorted, and no two of it touch.
type spans []span

// newSpans sorts and merges what it gets, in place.
func newSpans(in []span) spans {
	slices.SortFunc(in, func(a, b span) int { return a.first.compare(b.first) })
	out := in[:0]
	for _, s := range in {
		if len(out) > 0 {
			prev := &out[len(out)-1]
			after, ok := prev.last.next()
			if !ok || !after.less(s.first) {
				if prev.last.less(s.last) {
					prev.last = s.last
				}
				continue
			}
		}
		out = append(out, s)
	}
	return spans(out)
}

// has reports whether p is in one of the spans.
func (s spans) has(p point) bool {
	lo, hi := 0, len(s)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if s[mid].last.less(p) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo < len(s) && !p.less(s[lo].first)
}
