package nfq

import (
	"bufio"
	"slices"
	"strings"
)

// saved is what iptables-save prints: tables by name.
type saved map[string]*savedTable

// savedTable is one table of the host, ours and others' rules.
type savedTable struct {
	policies map[string]string   // of built-in chains; "-" for others
	chains   []string            // in their order
	rules    map[string][]string // by chain, as text after "-A CHAIN "
}

// parseSave reads the output of iptables-save or ip6tables-save. What it does not know it skips: only our own chains and the
// place of our jumps are read out of it.
func parseSave(text string) saved {
	all := saved{}
	var t *savedTable
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "*"):
			t = &savedTable{policies: map[string]string{}, rules: map[string][]string{}}
			all[line[1:]] = t
		case t == nil:
		case strings.HasPrefix(line, ":"):
			if f := strings.Fields(line[1:]); len(f) >= 2 {
				t.policies[f[0]] = f[1]
				t.chains = append(t.chains, f[0])
			}
		case strings.HasPrefix(line, "-A "):
			name, rule, _ := strings.Cut(line[len("-A "):], " ")
			t.rules[name] = append(t.rules[name], rule)
		}
	}
	return all
}

// table returns a table, empty if the host does not have it.
func (s saved) table(name string) *savedTable {
	if t := s[name]; t != nil {
		return t
	}
	return &savedTable{}
}

// words cuts a rule at spaces. A quoted word, which is text of somebody, keeps its quotes and is so never taken for an option.
func words(rule string) []string {
	var list []string
	var word []byte
	quoted := false
	for i := 0; i < len(rule); i++ {
		switch c := rule[i]; {
		case c == '\\' && quoted && i+1 < len(rule):
			word = append(word, c, rule[i+1])
			i++
		case c == '"':
			quoted = !quoted
			word = append(word, c)
		case c == ' ' && !quoted:
			list, word = append(list, string(word)), nil
		default:
			word = append(word, c)
		}
	}
	return append(list, string(word))
}

// leadsTo reports whether a rule jumps or goes to a chain.
func leadsTo(rule, chain string) bool {
	w := words(rule)
	for i := range len(w) - 1 {
		if (w[i] == "-j" || w[i] == "-g") && w[i+1] == chain {
			return true
		}
	}
	return false
}

// isOurs reports whether a chain is one of ours, of whatever configuration with this prefix.
func isOurs(prefix, name string) bool {
	suffix, ok := strings.CutPrefix(name, prefix+"-")
	return ok && slices.Contains(chainSuffixes, suffix)
}

// present reports whether anything of ours is in s.
func (s saved) present(prefix string) bool {
	for _, t := range s {
		if slices.ContainsFunc(t.chains, func(name string) bool { return isOurs(prefix, name) }) {
			return true
		}
	}
	return false
}

// chainRules returns the rules of a chain, and whether there is such a chain.
func (s saved) chainRules(table, chain string) ([]string, bool) {
	t := s.table(table)
	_, ok := t.policies[chain]
	return t.rules[chain], ok
}

// damage is what is wrong with a table of ours, in words; empty if nothing is. canon holds the rules as this host's
// iptables-save prints them.
func (rs ruleset) damage(t table, now, canon saved) string {
	for _, c := range t.chains {
		got, ok := now.chainRules(t.name, c.name)
		want, known := canon.chainRules(t.name, c.name)
		switch {
		case !ok:
			return "chain " + c.name + " is gone"
		case known && !slices.Equal(got, want), !known && len(got) != len(c.rules):
			return "chain " + c.name + " is changed"
		}
		if c.from == "" {
			continue
		}
		top, jumps := jumpPlace(now.table(t.name), c)
		switch {
		case jumps == 0:
			return "jump from " + c.from + " is gone"
		case !top:
			return "jump from " + c.from + " is not at the top"
		case jumps > 1:
			return "jump from " + c.from + " is there twice"
		}
	}
	return ""
}

// jumpPlace reports whether the jump to c is the first rule of its built-in chain, and how many there are.
func jumpPlace(t *savedTable, c chain) (top bool, jumps int) {
	for i, rule := range t.rules[c.from] {
		if rule == "-j "+c.name {
			jumps++
			top = top || i == 0
		}
	}
	return top, jumps
}

// loadScript returns the input for iptables-restore --noflush that turns now into rs, and what was wrong before, one word a
// table. Each table is one transaction: our chains are filled anew and jumps that are in place stay, so a host that had our
// rules before has no moment without. Tables that are as they should be, which only canon can tell, are left out.
func (rs ruleset) loadScript(now, canon saved) (script string, wrong []string) {
	var b strings.Builder
	loaded := map[string]bool{}
	for _, t := range rs.tables {
		loaded[t.name] = true
		stale := staleChains(now.table(t.name), rs.prefix, t)
		damage := rs.damage(t, now, canon)
		if damage == "" && len(stale) > 0 {
			damage = "chains of another configuration"
		}
		if damage == "" && canon != nil {
			continue
		}
		if damage != "" {
			wrong = append(wrong, rs.family.String()+" "+t.name+": "+damage)
		}
		b.WriteString("*" + t.name + "\n")
		writeTable(&b, t, now.table(t.name))
		writeRemoval(&b, now.table(t.name), stale, t)
		b.WriteString("COMMIT\n")
	}
	for _, name := range []string{"mangle", "nat", "filter"} {
		if stale := staleChains(now.table(name), rs.prefix, table{}); !loaded[name] && len(stale) > 0 {
			wrong = append(wrong, rs.family.String()+" "+name+": chains of another configuration")
			b.WriteString("*" + name + "\n")
			writeRemoval(&b, now.table(name), stale, table{})
			b.WriteString("COMMIT\n")
		}
	}
	return b.String(), wrong
}

// removeScript returns the input for iptables-restore --noflush that takes ours out of now; empty if nothing is there. It goes
// the other way round than loading, so that packets are refused until the end.
func removeScript(prefix string, now saved) string {
	script, _ := ruleset{prefix: prefix}.loadScript(now, nil)
	return script
}

// staleChains are chains of ours that want does not have.
func staleChains(now *savedTable, prefix string, want table) []string {
	var stale []string
	for _, name := range now.chains {
		wanted := slices.ContainsFunc(want.chains, func(c chain) bool { return c.name == name })
		if isOurs(prefix, name) && !wanted {
			stale = append(stale, name)
		}
	}
	return stale
}

func writeTable(b *strings.Builder, t table, now *savedTable) {
	for _, c := range t.chains {
		b.WriteString(":" + c.name + " - [0:0]\n")
	}
	for _, c := range t.chains {
		for _, rule := range c.rules {
			b.WriteString("-A " + c.name + " " + rule + "\n")
		}
	}
	for _, c := range t.chains {
		if c.from == "" {
			continue
		}
		top, jumps := jumpPlace(now, c)
		if top && jumps == 1 {
			continue
		}
		// By what they say, not by number: if somebody moved rules meanwhile, this fails and is tried again.
		for range jumps {
			b.WriteString("-D " + c.from + " -j " + c.name + "\n")
		}
		b.WriteString("-I " + c.from + " 1 -j " + c.name + "\n")
	}
}

// writeRemoval takes chains out, and before that every rule of other chains that leads to them: a chain that is referred to
// cannot be deleted. Those of want have been filled anew by now, without such rules.
func writeRemoval(b *strings.Builder, now *savedTable, chains []string, want table) {
	for _, from := range now.chains {
		filled := slices.ContainsFunc(want.chains, func(c chain) bool { return c.name == from })
		if filled || slices.Contains(chains, from) {
			continue
		}
		for _, rule := range now.rules[from] {
			if slices.ContainsFunc(chains, func(c string) bool { return leadsTo(rule, c) }) {
				b.WriteString("-D " + from + " " + rule + "\n")
			}
		}
	}
	for _, c := range chains {
		b.WriteString("-F " + c + "\n")
	}
	for _, c := range chains {
		b.WriteString("-X " + c + "\n")
	}
}
