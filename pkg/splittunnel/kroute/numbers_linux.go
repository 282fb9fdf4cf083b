package kroute

import (
	"slices"

	"github.com/weirfw/weir/pkg/netif"
)

// span is what one configuration occupies in the kernel.
type span struct {
	Mark      uint32 `json:"mark"`
	Table     uint32 `json:"table"`
	Priority  uint32 `json:"priority"`
	Protocol  uint8  `json:"protocol"`
	MaxRoutes int    `json:"max_routes"`
}

func (c Config) span() span {
	return span{Mark: c.Mark, Table: c.Table, Priority: c.Priority, Protocol: c.Protocol, MaxRoutes: c.MaxRoutes}
}

// lookup is the rule, with a priority, that leads marked packets to their table.
func (s span) lookup(f netif.Family, n int, priority uint32) rule {
	return rule{family: f, priority: priority, mark: s.Mark + uint32(n), table: s.Table + uint32(n)}
}

// guard is the rule behind it, for when the rule or what is in the table is gone.
func (s span) guard(f netif.Family, n int, priority uint32) rule {
	return rule{family: f, priority: priority + 1, mark: s.Mark + uint32(n)}
}

// owns returns the number of a rule that is ours, wherever it had to go.
func (s span) owns(r seenRule) (n int, ok bool) {
	n = int(r.mark - s.Mark)
	if r.mark < s.Mark || n >= s.MaxRoutes || !r.plain || r.protocol != s.Protocol {
		return 0, false
	}
	at := r.priority
	if r.table == 0 {
		at--
	}
	return n, r.rule == s.lookup(r.family, n, at) || r.rule == s.guard(r.family, n, at)
}

// front returns the priority for our rules among those of a family: in front of everybody else's that could catch our marks. The
// kernel gives a rule without a priority one in front of all others, and wg-quick relies on that. But what is for this host itself
// stays first: answers carry our marks, too. It is 0 if there is no room.
func (s span) front(rules []seenRule) uint32 {
	first, local := s.Priority+2, uint32(wholeMark)
	for _, r := range rules {
		switch {
		case r.table == localTable:
			local = min(local, r.priority)
		case r.protocol == s.Protocol:
			// Ours, or another engine's, which is about other marks: it would never end if both wanted to be first.
		case s.catches(r):
			first = min(first, r.priority)
		}
	}
	at := max(first, 2) - 2
	if at == 0 || local != wholeMark && at <= local {
		return 0
	}
	return at
}

// catches reports whether a rule can be about packets with our marks.
func (s span) catches(r seenRule) bool {
	if r.inverted {
		return true // all but one thing: that may be ours only if it is the mark alone, which would be odd
	}
	for n := range s.MaxRoutes {
		if (s.Mark+uint32(n))&r.mask == r.mark {
			return true
		}
	}
	return false
}

// hasTable reports whether a table is ours.
func (s span) hasTable(table uint32) bool {
	return table >= s.Table && table-s.Table < uint32(s.MaxRoutes)
}

// slot is what a number is used for.
type slot struct {
	// taken: the number has rules and a table.
	taken bool
	// name is the interface's; empty if an earlier engine left no trace of it.
	name string
	// used: the interface is wanted now. idle is when that ended, by a clock that counts changes.
	used    bool
	idle    uint64
	repairs uint64
}

// numbers says which interface has which number.
type numbers struct {
	slots []slot
	clock uint64
}

// take gives a number to an interface, as an earlier engine did.
func (n *numbers) take(number int, name string) {
	s := &n.slots[number]
	s.taken = true
	if s.name == "" {
		s.name = name
	}
}

// find returns the number of an interface.
func (n *numbers) find(name string) (number int, ok bool) {
	number = slices.IndexFunc(n.slots, func(s slot) bool { return s.taken && s.name == name })
	return number, number >= 0
}

// assign gives each interface a number, the one that it had if there is one. It returns the interfaces for which none is left,
// and whether any number has a new owner.
func (n *numbers) assign(names []string) (left []string, changed bool) {
	n.clock++
	for i := range n.slots {
		s := &n.slots[i]
		wanted := slices.Contains(names, s.name)
		if s.used && !wanted {
			s.idle = n.clock
		}
		s.used = s.taken && wanted
	}
	for _, name := range names {
		if _, ok := n.find(name); ok {
			continue
		}
		free, ok := n.free()
		if !ok {
			left = append(left, name)
			continue
		}
		n.slots[free] = slot{taken: true, name: name, used: true}
		changed = true
	}
	return left, changed
}

// free returns a number that was never used, or else the one that has been unused for longest.
func (n *numbers) free() (number int, ok bool) {
	number = -1
	for i, s := range n.slots {
		switch {
		case !s.taken:
			return i, true
		case s.used:
		case number < 0 || s.idle < n.slots[number].idle:
			number = i
		}
	}
	return number, number >= 0
}
