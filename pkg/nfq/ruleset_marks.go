package nfq

import (
	"fmt"
	"math/bits"

	"github.com/weirfw/weir/pkg/verdict"
)

// Marks are the numbers that tell the kernel what was decided. Each goes into the mark of a packet; those that hold for the
// connection are saved to its connection mark.
type Marks struct {
	// Accept, Block and Drop decide this packet.
	Accept, Block, Drop uint32
	// AcceptFinal accepts the connection and keeps later rules of other software from having a say.
	AcceptFinal uint32
	// AcceptAlways, BlockAlways and DropAlways decide the connection.
	AcceptAlways, BlockAlways, DropAlways uint32
	// Tunnel sends the connection into the tunnel.
	Tunnel uint32
	// SplitTun sends the connection out by split tunnel route 0. Route n has SplitTun+n.
	SplitTun uint32
	// Nameserver sends the connection to our nameserver.
	Nameserver uint32
}

// MaxRoute is the highest split tunnel route that has a mark.
const MaxRoute = 70

// DefaultMarks returns the numbers that other software knows already: 1700 and on.
func DefaultMarks() Marks {
	return Marks{
		Accept: 1700, Block: 1701, Drop: 1702,
		AcceptFinal: 1709, AcceptAlways: 1710, BlockAlways: 1711, DropAlways: 1712,
		Tunnel: 1717, SplitTun: 1719, Nameserver: 1799,
	}
}

// judgedLabel is the conntrack label of connections that are accepted for good and keep another program's connection mark.
const judgedLabel = 117

// forAction returns the mark that carries out a. An action or route that does not exist drops.
func (m Marks) forAction(a verdict.Action, route uint8) uint32 {
	table := [verdict.NumActions]uint32{
		verdict.ActionDrop:                 m.Drop,
		verdict.ActionBlock:                m.Block,
		verdict.ActionAccept:               m.Accept,
		verdict.ActionPermanentDrop:        m.DropAlways,
		verdict.ActionPermanentBlock:       m.BlockAlways,
		verdict.ActionPermanentAccept:      m.AcceptAlways,
		verdict.ActionPermanentAcceptFinal: m.AcceptFinal,
		verdict.ActionRerouteToNameserver:  m.Nameserver,
		verdict.ActionRerouteToTunnel:      m.Tunnel,
		verdict.ActionRerouteToSplitTun:    m.SplitTun + uint32(route),
	}
	if int(a) >= len(table) || (a == verdict.ActionRerouteToSplitTun && route > MaxRoute) {
		return m.Drop
	}
	return table[a]
}

// ours reports whether mark is in the block of numbers that is ours. The block is what the rules can ask for in one go, so it
// is larger than the list of marks.
func (m Marks) ours(mark uint32) bool {
	value, mask := m.block()
	return mark&mask == value
}

// block returns the smallest block of numbers, aligned to its size, that holds all marks: mark&mask == value.
func (m Marks) block() (value, mask uint32) {
	all := m.all()
	var differ uint32
	for _, x := range all {
		differ |= x ^ all[0]
	}
	mask = ^uint32(0) << bits.Len32(differ)
	return all[0] & mask, mask
}

// all returns the single marks and the two ends of the split tunnel's range.
func (m Marks) all() []uint32 {
	return []uint32{
		m.Accept, m.Block, m.Drop, m.AcceptFinal, m.AcceptAlways, m.BlockAlways, m.DropAlways, m.Tunnel, m.Nameserver,
		m.SplitTun, m.SplitTun + MaxRoute,
	}
}

// maxBlock is the widest block of marks: a wider one would take too many numbers away from other software.
const maxBlock = 1 << 16

// validate checks that marks can be told apart. The error wraps ErrBadMarks.
func (m Marks) validate() error {
	single := m.all()[:9]
	seen := map[uint32]bool{}
	for _, x := range single {
		if seen[x] || x >= m.SplitTun && x <= m.SplitTun+MaxRoute {
			return fmt.Errorf("%w: %d is used twice (split tunnel routes take %d to %d)", ErrBadMarks, x, m.SplitTun, m.SplitTun+MaxRoute)
		}
		seen[x] = true
	}
	value, mask := m.block()
	switch {
	case value == 0:
		return fmt.Errorf("%w: the block %#x/%#x holds mark 0, which is every packet's", ErrBadMarks, value, mask)
	case ^mask >= maxBlock:
		return fmt.Errorf("%w: they lie too far apart: the block %#x/%#x has more than %d numbers", ErrBadMarks, value, mask, maxBlock)
	case (value|^mask)&(bitJudged|bitForGood) != 0:
		return fmt.Errorf("%w: the block %#x/%#x uses the bits %#x", ErrBadMarks, value, mask, uint32(bitJudged|bitForGood))
	}
	return nil
}

// maskedMark is a set of marks that one rule can ask for.
type maskedMark struct{ value, mask uint32 }

// String returns the set as iptables takes it: 1719 or 0x6b8/0xfffffff8.
func (m maskedMark) String() string {
	if m.mask == ^uint32(0) {
		return fmt.Sprint(m.value)
	}
	return fmt.Sprintf("%#x/%#x", m.value, m.mask)
}

// cover returns the fewest masked marks that together are first to last.
func cover(first, last uint32) []maskedMark {
	var sets []maskedMark
	for next := uint64(first); next <= uint64(last); {
		size := uint64(1)
		for next%(2*size) == 0 && next+2*size-1 <= uint64(last) {
			size *= 2
		}
		sets = append(sets, maskedMark{uint32(next), ^uint32(size - 1)})
		next += size
	}
	return sets
}

// splitTun returns the sets that are the split tunnel's marks.
func (m Marks) splitTun() []maskedMark { return cover(m.SplitTun, m.SplitTun+MaxRoute) }

// passing returns the connection marks with which packets of family f pass: accepted for good, or rerouted on a way that is on.
func (m Marks) passing(r Redirects, f family) []maskedMark {
	one := func(x uint32) maskedMark { return maskedMark{x, ^uint32(0)} }
	sets := []maskedMark{one(m.AcceptAlways)}
	if r.Tunnel.to(f).IsValid() {
		sets = append(sets, one(m.Tunnel))
	}
	if r.Nameserver.to(f).IsValid() {
		sets = append(sets, one(m.Nameserver))
	}
	if r.RouteSplitTun || r.SplitTun.to(f).IsValid() {
		sets = append(sets, m.splitTun()...)
	}
	return sets
}

// refusedRoutes returns the rerouting marks of family f whose way is off.
func (m Marks) refusedRoutes(r Redirects, f family) []maskedMark {
	var sets []maskedMark
	if !r.Tunnel.to(f).IsValid() {
		sets = append(sets, maskedMark{m.Tunnel, ^uint32(0)})
	}
	if !r.Nameserver.to(f).IsValid() {
		sets = append(sets, maskedMark{m.Nameserver, ^uint32(0)})
	}
	if !r.RouteSplitTun && !r.SplitTun.to(f).IsValid() {
		sets = append(sets, m.splitTun()...)
	}
	return sets
}
