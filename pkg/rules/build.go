package rules

// listBuilder builds the blocks of lists that are asked with the same query.
type listBuilder struct {
	domains domainTable
	ifaces  *ifaceTable
	// hasDomains is set if a rule of a list names a domain.
	hasDomains bool
	// numBlocks counts the blocks of all lists.
	numBlocks int
}

// build returns the list of rules. firstSlot is the number of blocks with app
// conditions that come before it in a view; build returns that number with its
// own added.
func (c *listBuilder) build(rules []*rule, firstSlot int) (l list, slots int) {
	l.rules = rules
	for i, r := range rules {
		r.pos = i
		if r.remote != nil && r.remote.named() {
			c.hasDomains = true
		}
	}
	if len(rules) <= shortList {
		return l, firstSlot
	}
	for from := 0; from < len(rules); from += blockSize {
		b := c.newBlock(rules[from:min(from+blockSize, len(rules))])
		b.appSlot = firstSlot
		if b.appRules != nil {
			firstSlot++
		}
		l.blocks = append(l.blocks, b)
	}
	return l, firstSlot
}

func (c *listBuilder) newBlock(rules []*rule) *block {
	b := &block{number: c.numBlocks, rules: rules}
	c.numBlocks++
	b.buildRemote(c.domains)
	b.buildLists()
	b.remotePort.build(rules, func(r *rule) (spans, bool) { return r.remotePorts, r.remotePorts != nil })
	b.localPort.build(rules, func(r *rule) (spans, bool) { return r.localPorts, r.localPorts != nil })
	b.class.build(rules)
	b.icmp.build(rules)
	b.buildApps()
	if b.buildInterfaces(); b.ifaceRules != nil {
		b.ifaceSlot = len(c.ifaces.blocks)
		c.ifaces.blocks = append(c.ifaces.blocks, b)
	}
	return b
}

// build fills in a dimension; of returns the spans of a rule, and whether it
// has the condition.
func (d *dimension) build(rules []*rule, of func(*rule) (spans, bool)) {
	var anyRule bitBuilder
	var edges indexBuilder
	for i, r := range rules {
		s, ok := of(r)
		if !ok {
			anyRule.set(i)
			continue
		}
		d.used = true
		edges.add(i, s)
	}
	d.any, d.x = anyRule.freeze(), edges.build()
}

func (b *block) buildRemote(domains domainTable) {
	b.remote.build(b.rules, func(r *rule) (spans, bool) {
		if r.remote == nil {
			return nil, false
		}
		return r.remote.addrs, true
	})
	var domain bitBuilder
	var other [numEffects]bitBuilder
	var scopes [maxScopes]bitBuilder
	for i, r := range b.rules {
		if r.remote == nil {
			continue
		}
		for s := range scopes {
			if r.remote.scopes>>s&1 != 0 {
				scopes[s].set(i)
			}
		}
		if !r.remote.domains.empty() {
			domain.set(i)
			domains.add(r.remote.domains.keys, blockRule{b, i})
		}
		for e := range other {
			if effect(e) != r.effect && r.remote.named() {
				other[e].set(i)
			}
		}
	}
	b.domain = domain.freeze()
	for e := range other {
		b.domainOther[e] = other[e].freeze()
	}
	for s := range scopes {
		b.scopes[s] = scopes[s].freeze()
	}
}

func (c *classes) build(rules []*rule) {
	columns := uint16(1)
	for _, r := range rules {
		for p := range 256 {
			if r.protocols != nil && c.column[p] == 0 && r.protocols.has(uint8(p)) {
				c.column[p] = columns
				columns++
			}
		}
	}
	in := interner{}
	for dir, d := range [2]Direction{Out, In} {
		builders := make([]bitBuilder, columns)
		for i, r := range rules {
			if r.direction != Both && r.direction != d {
				continue
			}
			if r.protocols == nil {
				builders[0].set(i)
			}
			for p, column := range c.column {
				if column != 0 && (r.protocols == nil || r.protocols.has(uint8(p))) {
					builders[column].set(i)
				}
			}
		}
		for i := range builders {
			c.sets[dir] = append(c.sets[dir], in.freeze(&builders[i]))
		}
	}
}

func (t *icmpTable) build(rules []*rule) {
	var anyRule bitBuilder
	var builders [2]map[uint8]*bitBuilder
	for f := range builders {
		builders[f], t.sets[f] = map[uint8]*bitBuilder{}, map[uint8]*bitset{}
	}
	for i, r := range rules {
		if r.icmp == nil {
			anyRule.set(i)
			continue
		}
		t.used = true
		for f, types := range [2]*byteSet{&r.icmp.v4, &r.icmp.v6} {
			for n := range 256 {
				if !types.has(uint8(n)) {
					continue
				}
				if builders[f][uint8(n)] == nil {
					builders[f][uint8(n)] = &bitBuilder{}
				}
				builders[f][uint8(n)].set(i)
			}
		}
	}
	t.any = anyRule.freeze()
	for f := range builders {
		for n, b := range builders[f] {
			t.sets[f][n] = b.freeze()
		}
	}
}

func (b *block) buildApps() {
	var anyRule bitBuilder
	for i, r := range b.rules {
		if r.app < 0 {
			anyRule.set(i)
			continue
		}
		if b.appRules == nil {
			b.appRules = map[int32][]int{}
		}
		b.appRules[r.app] = append(b.appRules[r.app], i)
	}
	b.appAny = anyRule.freeze()
}

func (b *block) buildInterfaces() {
	var anyRule bitBuilder
	for i, r := range b.rules {
		if r.interfaces == nil {
			anyRule.set(i)
			continue
		}
		if b.ifaceRules == nil {
			b.ifaceRules = map[int32][]int{}
		}
		for _, p := range r.interfaces {
			b.ifaceRules[p] = append(b.ifaceRules[p], i)
		}
	}
	b.ifaceAny = anyRule.freeze()
}
