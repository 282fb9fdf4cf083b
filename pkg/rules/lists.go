package rules

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/weirfw/weir/pkg/filterlist"
)

// listPrefix begins an entry of Rule.Remote that names a list.
const listPrefix = "list:"

// maxLists is the number of bits of a listSet.
const maxLists = 64

// listSet has a bit for each list of a listTable.
type listSet uint64

// WithLists says what the entries "list:NAME" of Rule.Remote and SplitRule.Remote stand for: an address or a name is in the list, as
// names of rules also an alias. A nil list is empty. An entry that names none of them is an error.
func WithLists(lists map[string]*filterlist.List) Option {
	return func(c *compiler) { c.set.lists.known = lists }
}

// listTable has the lists that rules refer to.
type listTable struct {
	known map[string]*filterlist.List
	names []string
	lists []*filterlist.List
}

// listUse is what a rule has of lists.
type listUse struct {
	set listSet
	// names and addrs tell whether one of them has any.
	names, addrs bool
}

// use notes that a rule names a list; entry is how it does that.
func (t *listTable) use(entry, name string, u *listUse) *problem {
	if t == nil {
		return &problem{entry, "lists are not available here", "compile with WithLists"}
	}
	l, ok := t.known[name]
	if !ok {
		return &problem{entry, "no such list", `write its files into "lists", or name one of those that are there`}
	}
	n := slices.Index(t.names, name)
	if n < 0 {
		if n = len(t.names); n == maxLists {
			return &problem{entry, "rules refer to too many lists", "use at most " + strconv.Itoa(maxLists) + "; a list can have several files"}
		}
		t.names, t.lists = append(t.names, name), append(t.lists, l)
	}
	u.set |= 1 << n
	u.names, u.addrs = u.names || l.HasNames(), u.addrs || l.HasAddrs()
	return nil
}

// bit returns the one of an entry that use has taken, 0 for any other.
func (t *listTable) bit(entry string) listSet {
	if n := slices.IndexFunc(t.names, func(name string) bool { return listPrefix+name == entry }); n >= 0 {
		return 1 << n
	}
	return 0
}

// setLists looks a connection up in the lists. Its names are there already.
func (q *query) setLists(t *listTable, a netip.Addr) {
	for n, l := range t.lists {
		switch {
		case l.HasAddr(a) || l.HasName(q.domain) || slices.ContainsFunc(q.cnames, l.HasName):
			q.inLists |= 1 << n
		case q.domainUnknown && l.HasNames():
			q.maybeInLists |= 1 << n
		}
	}
}

// blockList has the rules of a block that refer to a list.
type blockList struct {
	list listSet // one bit
	set  *bitset
}

// buildLists notes which rules refer to which lists.
func (b *block) buildLists() {
	var builders [maxLists]bitBuilder
	var used listSet
	for i, r := range b.rules {
		if r.remote == nil {
			continue
		}
		for n := range builders {
			if r.remote.lists.set>>n&1 != 0 {
				builders[n].set(i)
			}
		}
		used |= r.remote.lists.set
	}
	for n := range builders {
		if used>>n&1 != 0 {
			b.lists = append(b.lists, blockList{1 << n, builders[n].freeze()})
		}
	}
}

// inLists returns the rules that refer to a list that the connection is in.
func (b *block) inLists(q *query) *bitset {
	var one *bitset
	var union bitBuilder
	n := 0
	for i := range b.lists {
		if b.lists[i].list&q.inLists == 0 {
			continue
		}
		switch n++; n {
		case 1:
			one = b.lists[i].set
		case 2:
			union.merge(one)
			fallthrough
		default:
			union.merge(b.lists[i].set)
		}
	}
	if n > 1 {
		return union.freeze()
	}
	return one
}
