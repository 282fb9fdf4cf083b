package rules

import "github.com/weirfw/weir/pkg/conn"

// domainTable finds the rules of blocks that name a domain. Its keys are those
// of domain.go.
type domainTable map[string]*domainNode

// domainNode has the rules that match a name for which this key is the longest
// that stands for it: also those of shorter keys.
type domainNode struct {
	own  []blockRule
	sets []blockSet // in order of block numbers
}

// blockRule is a rule by its place in a block.
type blockRule struct {
	block *block
	rule  int
}

type blockSet struct {
	block *block
	set   *bitset
}

// maxNodes is how many names of a connection that rules name are kept without
// allocating.
const maxNodes = 3

// add notes that a rule in a block has these keys.
func (t domainTable) add(keys []string, at blockRule) {
	for _, k := range keys {
		n := t[k]
		if n == nil {
			n = &domainNode{}
			t[k] = n
		}
		n.own = append(n.own, at)
	}
}

// find returns the node of the longest key that stands for the name.
func (t domainTable) find(name string) *domainNode {
	if n := t[name]; n != nil {
		return n
	}
	for i := 1; i < len(name); i++ {
		if name[i] == '.' {
			if n := t[name[i:]]; n != nil {
				return n
			}
		}
	}
	return nil
}

// finish works out the sets of all nodes, once all rules are added.
func (t domainTable) finish() {
	for key, n := range t {
		builders := map[*block]*bitBuilder{}
		t.collect(key, func(at blockRule) {
			b := builders[at.block]
			if b == nil {
				b = &bitBuilder{}
				builders[at.block] = b
			}
			b.set(at.rule)
		})
		for block, b := range builders {
			n.sets = append(n.sets, blockSet{block, b.freeze()})
		}
		sortSets(n.sets)
	}
}

// collect calls f for the rules of a key and of the shorter keys that stand for
// the same names.
func (t domainTable) collect(key string, f func(blockRule)) {
	each := func(k string) {
		if n := t[k]; n != nil {
			for _, at := range n.own {
				f(at)
			}
		}
	}
	each(key)
	for i := 1; i < len(key); i++ {
		if key[i] == '.' {
			each(key[i:])
		}
	}
}

// in returns the node's rules in a block.
func (n *domainNode) in(b *block) *bitset {
	lo, hi := 0, len(n.sets)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if n.sets[mid].block.number < b.number {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(n.sets) && n.sets[lo].block == b {
		return n.sets[lo].set
	}
	return nil
}

// setDomains fills in the names of q and finds their nodes.
func (q *query) setDomains(t domainTable, domain string, cnames []string) {
	q.domain, q.cnames = canonicalName(domain), cnames
	for i, c := range cnames {
		if canonicalName(c) != c {
			q.cnames = canonicalNames(cnames, i)
			break
		}
	}
	q.domainUnknown = q.domain == "" && len(cnames) == 0
	if len(t) == 0 || q.domainUnknown {
		return
	}
	q.addNode(t.find(q.domain))
	for _, c := range q.cnames {
		q.addNode(t.find(c))
	}
}

// cnamesOf returns the aliases that rules look at.
func (t *Set) cnamesOf(s *conn.Snapshot) []string {
	if t.ignoreCNAMEs {
		return nil
	}
	return s.CNAMEs
}

func (q *query) addNode(n *domainNode) {
	switch {
	case n == nil:
	case q.numNodes < maxNodes:
		q.nodes[q.numNodes] = n
		q.numNodes++
	default:
		q.moreNodes = append(q.moreNodes, n)
	}
}

func canonicalNames(names []string, from int) []string {
	out := append([]string(nil), names...)
	for i := from; i < len(out); i++ {
		out[i] = canonicalName(out[i])
	}
	return out
}
