package rules

import "slices"

// index tells for a point which rules have a span that holds it. The line is
// cut wherever a span begins or ends, and each piece knows its rules.
type index struct {
	starts []point
	sets   []*bitset
}

// find returns the rules at p.
func (x *index) find(p point) *bitset {
	if x == nil {
		return nil
	}
	lo, hi := 0, len(x.starts)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if p.less(x.starts[mid]) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo == 0 {
		return nil
	}
	return x.sets[lo-1]
}

// indexBuilder collects where the spans of rules begin and end.
type indexBuilder []edge

// edge is a point from which on the rule is in the set, if it was not, or out
// of it.
type edge struct {
	at   point
	rule int
}

func (b *indexBuilder) add(rule int, s spans) {
	for _, x := range s {
		*b = append(*b, edge{x.first, rule})
		if after, ok := x.last.next(); ok {
			*b = append(*b, edge{after, rule})
		}
	}
}

// build returns nil if nothing was added. The spans of one rule do not touch,
// so that each edge of it turns it on or off.
func (b indexBuilder) build() *index {
	if len(b) == 0 {
		return nil
	}
	slices.SortFunc(b, func(x, y edge) int { return x.at.compare(y.at) })
	x := &index{}
	var now bitBuilder
	in := interner{}
	for i, e := range b {
		now.toggle(e.rule)
		if i+1 < len(b) && b[i+1].at == e.at {
			continue
		}
		x.starts = append(x.starts, e.at)
		x.sets = append(x.sets, in.freeze(&now))
	}
	return x
}
