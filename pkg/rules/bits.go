package rules

import (
	"math/bits"
	"slices"
)

// blockSize is the number of rules that one bitset covers: 64 words of 64 bits,
// so that a summary of the words is a word again. Memory that grows with the
// square of the rules grows with blockSize only.
const (
	blockSize   = wordsPerSet * 64
	wordsPerSet = 64
)

// bitset is an immutable set of numbers below blockSize; sum has a bit for each
// word that is not zero. A sparse set stores only those words, a dense one all,
// which is told by their number. A nil bitset is empty.
type bitset struct {
	sum   uint64
	words []uint64
}

// denseWords is how many words a set has at least to be stored dense.
const denseWords = 16

// chunk is eight words: enough work for a loop, and little to do in vain when
// the first rule matches.
type chunk [8]uint64

// and and andUnion are written out because the compiler does not unroll loops,
// and they are where time goes when no condition is selective.
func (c *chunk) and(x *chunk) {
	c[0] &= x[0]
	c[1] &= x[1]
	c[2] &= x[2]
	c[3] &= x[3]
	c[4] &= x[4]
	c[5] &= x[5]
	c[6] &= x[6]
	c[7] &= x[7]
}

func (c *chunk) andUnion(x, y *chunk) {
	c[0] &= x[0] | y[0]
	c[1] &= x[1] | y[1]
	c[2] &= x[2] | y[2]
	c[3] &= x[3] | y[3]
	c[4] &= x[4] | y[4]
	c[5] &= x[5] | y[5]
	c[6] &= x[6] | y[6]
	c[7] &= x[7] | y[7]
}

func (b *bitset) dense() bool { return len(b.words) == wordsPerSet }

// chunk returns the words from 8*n on of a dense set.
func (b *bitset) chunk(n int) *chunk { return (*chunk)(b.words[8*n:]) }

func (b *bitset) word(w int) uint64 {
	bit := uint64(1) << (w & 63)
	switch {
	case b.sum&bit == 0:
		return 0
	case b.dense():
		return b.words[w]
	}
	return b.words[bits.OnesCount64(b.sum&(bit-1))]
}

// or adds the words of b from 8*n on to c.
func (b *bitset) or(c *chunk, n int) {
	if b.dense() {
		x := b.chunk(n)
		for i := range c {
			c[i] |= x[i]
		}
		return
	}
	for m := uint8(b.sum >> (8 * n & 63)); m != 0; m &= m - 1 {
		w := bits.TrailingZeros8(m)
		c[w] |= b.word(8*n + w)
	}
}

// bitBuilder is a bitset that changes.
type bitBuilder struct {
	sum   uint64
	words [wordsPerSet]uint64
}

func (b *bitBuilder) set(i int) {
	b.words[i>>6] |= 1 << (i & 63)
	b.sum |= 1 << (i >> 6)
}

func (b *bitBuilder) toggle(i int) {
	w := i >> 6
	b.words[w] ^= 1 << (i & 63)
	if b.words[w] == 0 {
		b.sum &^= 1 << w
	} else {
		b.sum |= 1 << w
	}
}

func (b *bitBuilder) merge(o *bitset) {
	if o == nil {
		return
	}
	for w := range b.words {
		b.words[w] |= o.word(w)
	}
	b.sum |= o.sum
}

// freeze returns what was built, nil if that is nothing.
func (b *bitBuilder) freeze() *bitset {
	if b.sum == 0 {
		return nil
	}
	n := bits.OnesCount64(b.sum)
	if n >= denseWords {
		return &bitset{sum: b.sum, words: slices.Clone(b.words[:])}
	}
	words := make([]uint64, 0, n)
	for sum := b.sum; sum != 0; sum &= sum - 1 {
		words = append(words, b.words[bits.TrailingZeros64(sum)])
	}
	return &bitset{sum: b.sum, words: words}
}

// interner gives equal sets out as one.
type interner map[uint64][]*bitset

func (in interner) freeze(b *bitBuilder) *bitset {
	if b.sum == 0 {
		return nil
	}
	const prime = 0x9e3779b97f4a7c15
	h := b.sum * prime
	for sum := b.sum; sum != 0; sum &= sum - 1 {
		h = bits.RotateLeft64(h^b.words[bits.TrailingZeros64(sum)], 29) * prime
	}
	made := b.freeze()
	for _, old := range in[h] {
		if old.sum == made.sum && slices.Equal(old.words, made.words) {
			return old
		}
	}
	in[h] = append(in[h], made)
	return made
}
