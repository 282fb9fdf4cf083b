package rules

import (
	"maps"
	"slices"
	"sync/atomic"
)

// Interfaces holds the names of the network interfaces by index, for rules that
// name interfaces. Whoever watches the system's interfaces stores each change;
// decisions use the latest. The zero value is empty and ready to use.
type Interfaces struct {
	names atomic.Pointer[map[uint32]string]
}

// Store replaces all names. It copies its argument.
func (i *Interfaces) Store(names map[uint32]string) {
	c := maps.Clone(names)
	i.names.Store(&c)
}

// name returns the name of an interface, "" if it is not known.
func (i *Interfaces) name(index uint32) string {
	if i == nil {
		return ""
	}
	if m := i.names.Load(); m != nil {
		return (*m)[index]
	}
	return ""
}

// ifaceTable has the distinct interface patterns of a Set.
type ifaceTable struct {
	source   *Interfaces
	patterns []*pattern
	// blocks have rules with interfaces.
	blocks []*block
	view   atomic.Pointer[ifaceView]
}

// ifaceView is what the patterns match while the names are these.
type ifaceView struct {
	names   *map[uint32]string
	byIndex map[uint32]*ifaceEntry
}

// ifaceEntry is what one interface matches.
type ifaceEntry struct {
	// matched is sorted.
	matched []int32
	// sets has the rules that name the interface, by block.ifaceSlot.
	sets []*bitset
}

func (e *ifaceEntry) hasAny(patterns []int32) bool {
	if e == nil {
		return false
	}
	for _, p := range patterns {
		if _, ok := slices.BinarySearch(e.matched, p); ok {
			return true
		}
	}
	return false
}

// find returns what the interface matches, nil if it is not known. Only the
// first call after a change of the names allocates.
func (t *ifaceTable) find(ifindex uint32) *ifaceEntry {
	if len(t.patterns) == 0 || ifindex == 0 {
		return nil
	}
	names := t.source.names.Load()
	if names == nil {
		return nil
	}
	v := t.view.Load()
	if v == nil || v.names != names {
		v = t.build(names)
		// a concurrent build for other names may win; it is rebuilt then
		t.view.Store(v)
	}
	return v.byIndex[ifindex]
}

func (t *ifaceTable) build(names *map[uint32]string) *ifaceView {
	v := &ifaceView{names: names, byIndex: make(map[uint32]*ifaceEntry, len(*names))}
	for ifindex, name := range *names {
		e := &ifaceEntry{}
		for i, p := range t.patterns {
			if p.match(name) {
				e.matched = append(e.matched, int32(i))
			}
		}
		for _, b := range t.blocks {
			var bits bitBuilder
			for _, p := range e.matched {
				for _, rule := range b.ifaceRules[p] {
					bits.set(rule)
				}
			}
			e.sets = append(e.sets, bits.freeze())
		}
		v.byIndex[ifindex] = e
	}
	return v
}
