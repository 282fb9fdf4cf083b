package filterlist

import (
	"hash/maphash"
	"net/netip"
	"strings"
)

// List is a set of names and addresses. A nil List is empty. All methods may be called from any goroutine.
type List struct {
	names nameTable
	v4    []range4
	v6    []range6
	count int
	bad   Mistakes
}

// Mistakes are the lines of a list that are no entries.
type Mistakes struct {
	// Lines is how many.
	Lines int
	// First are some of them.
	First []Mistake
}

// Mistake is one such line.
type Mistake struct {
	// Line counts from 1.
	Line int
	Text string
	// Why says what is wrong.
	Why string
}

// Len returns the number of entries; some may say what others say already.
func (l *List) Len() int {
	if l == nil {
		return 0
	}
	return l.count
}

// Mistakes returns what was left out.
func (l *List) Mistakes() Mistakes {
	if l == nil {
		return Mistakes{}
	}
	return l.bad
}

// HasNames reports whether the list has any names.
func (l *List) HasNames() bool { return l != nil && l.names.n > 0 }

// HasAddrs reports whether the list has any addresses.
func (l *List) HasAddrs() bool { return l != nil && len(l.v4)+len(l.v6) > 0 }

// HasName reports whether an entry stands for a domain name. It has to be in lower case and without the final dot.
func (l *List) HasName(name string) bool {
	if !l.HasNames() || name == "" || name[0] == '.' {
		return false
	}
	if l.names.get(name)&exact != 0 {
		return true
	}
	for {
		i := strings.IndexByte(name, '.')
		if i < 0 {
			return false
		}
		if name = name[i+1:]; l.names.get(name)&below != 0 {
			return true
		}
	}
}

// HasAddr reports whether an entry stands for an address. IPv4 addresses written as IPv6 are IPv4.
func (l *List) HasAddr(a netip.Addr) bool {
	if l == nil || !a.IsValid() {
		return false
	}
	if a = a.Unmap(); a.Is4() {
		return holds4(l.v4, a.As4())
	}
	return holds6(l.v6, a.As16())
}

// What an entry with a name stands for.
const (
	exact = 1
	below = 2
)

// nameTable is an open-addressing hash table of names that has no pointers but three: a million strings of their own would cost the
// garbage collector more than all the rest of a firewall.
type nameTable struct {
	seed maphash.Seed
	// text has the entries one behind the other: what they stand for, the length of the name, the name.
	text []byte
	// slots have the offset of an entry in text, plus 1.
	slots []uint32
	n     int
}

// maxText bounds text, so that an offset fits into a slot.
const maxText = 1 << 31

// get returns what the entry with a name stands for, 0 if there is none.
func (t *nameTable) get(name string) byte {
	if len(t.slots) == 0 {
		return 0
	}
	if at := t.slots[t.find(name)]; at != 0 {
		return t.text[at-1]
	}
	return 0
}

// find returns the slot of a name, or the empty one where it belongs.
func (t *nameTable) find(name string) int {
	mask := len(t.slots) - 1
	for i := int(maphash.String(t.seed, name)) & mask; ; i = (i + 1) & mask {
		at := t.slots[i]
		if at == 0 || t.nameAt(at-1) == name {
			return i
		}
	}
}

// nameAt is for comparing: the compiler makes no copy for that.
func (t *nameTable) nameAt(at uint32) string {
	n := uint32(t.text[at+1])
	return string(t.text[at+2 : at+2+n])
}

// put adds a name, of 255 bytes at most; false means that there is no room.
func (t *nameTable) put(name string, kind byte) bool {
	if 2*(t.n+1) > len(t.slots) {
		t.grow()
	}
	i := t.find(name)
	if at := t.slots[i]; at != 0 {
		t.text[at-1] |= kind
		return true
	}
	if len(t.text)+len(name)+2 > maxText {
		return false
	}
	t.slots[i] = uint32(len(t.text)) + 1
	t.text = append(append(t.text, kind, byte(len(name))), name...)
	t.n++
	return true
}

func (t *nameTable) grow() {
	if len(t.slots) == 0 {
		t.seed = maphash.MakeSeed()
	}
	old := t.slots
	t.slots = make([]uint32, max(64, 2*len(old)))
	for _, at := range old {
		if at != 0 {
			t.slots[t.find(t.nameAt(at-1))] = at
		}
	}
}
