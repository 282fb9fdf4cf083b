package rules

import (
	"math/bits"
	"slices"

	"github.com/weirfw/weir/pkg/packet"
)

// list is the rules of a layer in order. Short lists are gone through; longer
// ones are cut into blocks.
type list struct {
	rules  []*rule
	blocks []*block
}

// shortList is the longest list without blocks.
const shortList = 8

// first returns the first rule that matches.
func (l *list) first(q *query) *rule {
	if l.blocks == nil {
		for _, r := range l.rules {
			if r.match(q) == yes {
				return r
			}
		}
		return nil
	}
	for _, b := range l.blocks {
		if r := b.first(q); r != nil {
			return r
		}
	}
	return nil
}

// maybeOther reports whether a rule before end would match if the domain were
// known, and would do something else than e.
func (l *list) maybeOther(q *query, end int, e effect) bool {
	if l.blocks == nil {
		for _, r := range l.rules[:end] {
			if r.effect != e && r.match(q) == maybe {
				return true
			}
		}
		return false
	}
	for _, b := range l.blocks {
		if b.rules[0].pos >= end {
			return false
		}
		if b.domainOther[e] != nil && b.maybeOther(q, end, e) {
			return true
		}
	}
	return false
}

// block is up to blockSize rules with, for each kind of condition, the rules it
// is not given for (any) and indexes of the others.
type block struct {
	// number orders the blocks of a Set.
	number int
	rules  []*rule

	remote     dimension
	scopes     [maxScopes]*bitset
	domain     *bitset // all rules with domains
	lists      []blockList
	remotePort dimension
	localPort  dimension
	class      classes
	icmp       icmpTable
	// domainOther has the rules of domain that do something else.
	domainOther [numEffects]*bitset

	// iface and app are used if some rule has the condition.
	ifaceAny, appAny   *bitset
	ifaceRules         map[int32][]int
	appRules           map[int32][]int
	ifaceSlot, appSlot int
}

// dimension is a condition with spans.
type dimension struct {
	any *bitset
	x   *index
	// used is set if some rule has the condition.
	used bool
}

// classes finds rules by direction and protocol.
type classes struct {
	// column of a protocol; 0 is protocols that no rule names.
	column [256]uint16
	sets   [2][]*bitset
}

// icmpTable finds rules by ICMP type.
type icmpTable struct {
	used bool
	any  *bitset
	// sets has [0] ICMP and [1] ICMPv6.
	sets [2]map[uint8]*bitset
}

// operand is the rules that one condition lets through: the union of sets.
type operand struct {
	// remote has the most: any, address, scope, lists, names and further names
	sets [5 + maxNodes]*bitset
	n    int
}

func (o *operand) add(b *bitset) {
	if b != nil {
		o.sets[o.n] = b
		o.n++
	}
}

func (o *operand) summary() (sum uint64) {
	for _, s := range o.sets[:o.n] {
		sum |= s.sum
	}
	return sum
}

// and keeps in c what is in o too, from word 8*n on. One or two dense sets, the
// costly case, are read without a detour.
func (o *operand) and(c *chunk, n int) {
	if o.n == 1 && o.sets[0].dense() {
		c.and(o.sets[0].chunk(n))
		return
	}
	if o.n == 2 && o.sets[0].dense() && o.sets[1].dense() {
		c.andUnion(o.sets[0].chunk(n), o.sets[1].chunk(n))
		return
	}
	var union chunk
	for _, s := range o.sets[:o.n] {
		s.or(&union, n)
	}
	c.and(&union)
}

// operands is the conditions of a block for a query.
type operands struct {
	ops [7]operand
	n   int
}

// next returns a new operand; it is empty as all are at first.
func (o *operands) next() *operand {
	o.n++
	return &o.ops[o.n-1]
}

func (o *operands) add(a, b *bitset) {
	op := o.next()
	op.add(a)
	op.add(b)
}

// summary has a bit for each word that may be in all operands.
func (o *operands) summary() uint64 {
	sum := ^uint64(0)
	for i := range o.ops[:o.n] {
		sum &= o.ops[i].summary()
	}
	return sum
}

// chunk sets c to the words from 8*n on that are in all operands.
func (o *operands) chunk(c *chunk, n int) {
	for i := range c {
		c[i] = ^uint64(0)
	}
	for i := range o.ops[:o.n] {
		o.ops[i].and(c, n)
	}
}

// each calls f for the rules that are in all operands until it returns false.
func (b *block) each(ops *operands, f func(*rule) bool) {
	sum := ops.summary()
	for n := range wordsPerSet / len(chunk{}) {
		if uint8(sum>>(8*n)) == 0 {
			continue
		}
		var c chunk
		ops.chunk(&c, n)
		for w, word := range c {
			for ; word != 0; word &= word - 1 {
				if !f(b.rules[(8*n+w)<<6+bits.TrailingZeros64(word)]) {
					return
				}
			}
		}
	}
}

// first returns the block's first rule that matches.
func (b *block) first(q *query) (found *rule) {
	var ops operands
	if b.remote.used {
		b.remoteOperand(q, ops.next())
	}
	b.others(q, &ops)
	b.each(&ops, func(r *rule) bool {
		if r.match(q) == yes {
			found = r
		}
		return found == nil
	})
	return found
}

// maybeOther is like list.maybeOther.
func (b *block) maybeOther(q *query, end int, e effect) (found bool) {
	var ops operands
	ops.add(b.domainOther[e], nil)
	b.others(q, &ops)
	b.each(&ops, func(r *rule) bool {
		if r.pos >= end {
			return false
		}
		found = r.match(q) == maybe
		return !found
	})
	return found
}

// remoteOperand fills in op, which is empty.
func (b *block) remoteOperand(q *query, op *operand) {
	op.add(b.remote.any)
	if q.hasAddr {
		op.add(b.remote.x.find(q.addr))
	}
	if s := bits.TrailingZeros16(uint16(q.scopes)); s < maxScopes {
		op.add(b.scopes[s])
	}
	if q.inLists != 0 && b.lists != nil {
		op.add(b.inLists(q))
	}
	if b.domain == nil {
		return
	}
	for _, n := range q.nodes[:q.numNodes] {
		op.add(n.in(b))
	}
	if q.moreNodes != nil {
		var union bitBuilder
		for _, n := range q.moreNodes {
			union.merge(n.in(b))
		}
		op.add(union.freeze())
	}
}

// others adds the operands of all conditions but remote, the likely sparse ones
// first.
func (b *block) others(q *query, ops *operands) {
	if b.remotePort.used {
		ops.add(b.remotePort.any, b.remotePort.x.find(q.remotePort))
	}
	if b.localPort.used {
		ops.add(b.localPort.any, b.localPort.x.find(q.localPort))
	}
	if b.appRules != nil {
		ops.add(b.appAny, q.view.rules(b))
	}
	if b.ifaceRules != nil {
		var named *bitset
		if q.iface != nil {
			named = q.iface.sets[b.ifaceSlot]
		}
		ops.add(b.ifaceAny, named)
	}
	if b.icmp.used {
		ops.add(b.icmp.any, b.icmp.find(q))
	}
	ops.add(b.class.find(q), nil)
}

func (c *classes) find(q *query) *bitset {
	dir := 0
	if q.direction == packet.Inbound {
		dir = 1
	}
	return c.sets[dir][c.column[q.protocol]]
}

func (t *icmpTable) find(q *query) *bitset {
	switch q.protocol {
	case packet.ICMP:
		return t.sets[0][q.icmpType]
	case packet.ICMPv6:
		return t.sets[1][q.icmpType]
	}
	return nil
}

func sortSets(s []blockSet) {
	slices.SortFunc(s, func(a, b blockSet) int { return a.block.number - b.block.number })
}
