package filterlist

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// range4 and range6 are addresses from first to last.
type range4 struct{ first, last uint32 }

type range6 struct{ first, last [16]byte }

func holds4(list []range4, a [4]byte) bool {
	n := binary.BigEndian.Uint32(a[:])
	i, found := slices.BinarySearchFunc(list, n, func(r range4, n uint32) int { return cmp.Compare(r.first, n) })
	return found || i > 0 && n <= list[i-1].last
}

func holds6(list []range6, a [16]byte) bool {
	i, found := slices.BinarySearchFunc(list, a, func(r range6, a [16]byte) int { return bytes.Compare(r.first[:], a[:]) })
	return found || i > 0 && bytes.Compare(a[:], list[i-1].last[:]) <= 0
}

// addRange adds the addresses from one to another of the same family.
func (l *List) addRange(first, last netip.Addr) {
	if first.Is4() {
		a, b := first.As4(), last.As4()
		l.v4 = append(l.v4, range4{binary.BigEndian.Uint32(a[:]), binary.BigEndian.Uint32(b[:])})
		return
	}
	l.v6 = append(l.v6, range6{first.As16(), last.As16()})
}

// finish sorts the ranges and joins those that overlap.
func (l *List) finish() {
	slices.SortFunc(l.v4, func(a, b range4) int { return cmp.Compare(a.first, b.first) })
	v4 := l.v4[:0]
	for _, r := range l.v4 {
		if n := len(v4); n > 0 && r.first <= v4[n-1].last {
			v4[n-1].last = max(v4[n-1].last, r.last)
			continue
		}
		v4 = append(v4, r)
	}
	l.v4 = slices.Clip(v4)
	slices.SortFunc(l.v6, func(a, b range6) int { return bytes.Compare(a.first[:], b.first[:]) })
	v6 := l.v6[:0]
	for _, r := range l.v6 {
		if n := len(v6); n > 0 && bytes.Compare(r.first[:], v6[n-1].last[:]) <= 0 {
			if bytes.Compare(r.last[:], v6[n-1].last[:]) > 0 {
				v6[n-1].last = r.last
			}
			continue
		}
		v6 = append(v6, r)
	}
	l.v6 = slices.Clip(v6)
	l.names.text = slices.Clip(l.names.text)
}

// lastOf returns the last address of a network.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		if ones := p.Bits() - 8*i; ones <= 0 {
			b[i] = 0xff
		} else if ones < 8 {
			b[i] |= 0xff >> ones
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
