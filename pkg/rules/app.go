package rules

import (
	"slices"
	"strconv"
	"strings"

	"github.com/weirfw/weir/pkg/conn"
)

// maxAncestors ends the walk from parent to parent, should it be a circle. It is
// more than a program can hide behind by forking often, for the usual limits.
const maxAncestors = 4096

// appMatch is a compiled AppMatch.
type appMatch struct {
	src    AppMatch
	path   *pattern
	args   *pattern
	script *pattern
	cgroup *pattern
	// identity and unit are globs of text.
	identity, unit *pattern

	uids   []uint32
	parent *appMatch
	// profile is the first profile that has it, -1 if none has.
	profile int32
}

// match checks p, which is known.
func (m *appMatch) match(p *conn.Process) bool { return m.failing(p) == "" }

// failing returns the name of the first condition that does not hold. Of one that is for children too, an ancestor may fulfil all.
func (m *appMatch) failing(p *conn.Process) string {
	name := m.failingSelf(p)
	if name == "" || !m.src.Children {
		return name
	}
	for range maxAncestors {
		if p = p.Parent; p == nil {
			break
		}
		if known(p) && m.failingSelf(p) == "" {
			return ""
		}
	}
	return name
}

// failingSelf is failing without regard to ancestors, other than those that Parent asks for.
func (m *appMatch) failingSelf(p *conn.Process) string {
	switch {
	case m.path != nil && !m.matchPath(p.Path):
		return "path"
	case m.script != nil && !m.script.match(p.Script):
		return "script"
	case m.uids != nil && !slices.Contains(m.uids, p.UID):
		return "uid"
	case m.cgroup != nil && !m.cgroup.match(p.Cgroup):
		return "cgroup"
	case m.identity != nil && !m.identity.match(p.App.ID):
		return "identity"
	case m.unit != nil && !m.unit.match(p.App.Unit):
		return "unit"
	case m.args != nil && !m.args.match(strings.Join(p.Args, " ")):
		return "args"
	case m.parent != nil && !m.parent.matchAncestor(p):
		return "parent"
	}
	return ""
}

// deleted is what the kernel appends to the path of an executable that is not in its place any more (proc_pid_exe(5)). A program can bring
// that about by itself: the rules for its path hold all the same.
const deleted = " (deleted)"

func (m *appMatch) matchPath(path string) bool {
	if m.path.match(path) {
		return true
	}
	placed, ok := strings.CutSuffix(path, deleted)
	return ok && m.path.match(placed)
}

func (m *appMatch) matchAncestor(p *conn.Process) bool {
	for range maxAncestors {
		if p = p.Parent; p == nil {
			return false
		}
		if known(p) && m.match(p) {
			return true
		}
	}
	return false
}

// known reports whether p is a process that something is known of.
func known(p *conn.Process) bool { return p != nil && p.PID != 0 }

// fields says which facts of a process the matches of a table look at, so that
// others need not be compared.
type fields struct{ path, args, script, uid, cgroup, identity, unit, parent bool }

func (f *fields) note(m *appMatch) {
	f.path = f.path || m.path != nil
	f.args = f.args || m.args != nil
	f.script = f.script || m.script != nil
	f.uid = f.uid || m.uids != nil
	f.cgroup = f.cgroup || m.cgroup != nil
	f.identity = f.identity || m.identity != nil
	f.unit = f.unit || m.unit != nil
	f.parent = f.parent || m.src.Children
	if m.parent != nil {
		f.parent = true
		f.note(m.parent)
	}
}

// appTable has the distinct app conditions of a Set and finds those that match
// a process without trying all.
type appTable struct {
	matches []*appMatch
	byText  map[string]int32
	fields  fields
	// byPath and byScript have the keys of pattern.key; rest has what cannot be
	// found by a key.
	byPath   map[string][]int32
	byScript map[string][]int32
	rest     []int32
}

func newAppTable() appTable {
	return appTable{byText: map[string]int32{}, byPath: map[string][]int32{}, byScript: map[string][]int32{}}
}

// intern returns the number of m; equal conditions have one number.
func (t *appTable) intern(m *appMatch) int32 {
	text := string(m.src.appendText(nil))
	if n, ok := t.byText[text]; ok {
		return n
	}
	n := int32(len(t.matches))
	t.byText[text] = n
	t.matches = append(t.matches, m)
	t.fields.note(m)
	pathKey, scriptKey := "", ""
	if m.path != nil {
		pathKey = m.path.key()
	}
	if m.script != nil {
		scriptKey = m.script.key()
	}
	switch {
	case m.src.Children: // the process itself may be anything
		t.rest = append(t.rest, n)
	case pathKey != "":
		t.byPath[pathKey] = append(t.byPath[pathKey], n)
	case scriptKey != "":
		t.byScript[scriptKey] = append(t.byScript[scriptKey], n)
	default:
		t.rest = append(t.rest, n)
	}
	return n
}

// find calls f for the number of each match that p, which is known, fulfils.
func (t *appTable) find(p *conn.Process, f func(n int32)) {
	try := func(numbers []int32) {
		for _, n := range numbers {
			if t.matches[n].match(p) {
				f(n)
			}
		}
	}
	placed, gone := strings.CutSuffix(p.Path, deleted)
	eachKey(t.byPath, placed, try)
	if gone {
		try(t.byPath[p.Path]) // that may be its name
	}
	eachKey(t.byScript, p.Script, try)
	try(t.rest)
}

// eachKey calls f for the entries of a path and of the directories above it.
func eachKey(m map[string][]int32, path string, f func([]int32)) {
	if len(m) == 0 || path == "" {
		return
	}
	f(m[path])
	for i := range len(path) {
		if path[i] == '/' && i+1 < len(path) {
			f(m[path[:i+1]])
		}
	}
}

// appendText writes m so that two matches have the same text only if they are
// equal. It is also for people.
func (m *AppMatch) appendText(b []byte) []byte {
	field := func(name, value string) {
		if value != "" {
			b = append(b, name...)
			b = append(b, ' ')
			b = strconv.AppendQuote(b, value)
			b = append(b, ", "...)
		}
	}
	field("path", m.Path)
	field("script", m.Script)
	field("args", m.Args)
	field("cgroup", m.Cgroup)
	field("identity", m.Identity)
	field("unit", m.Unit)
	for _, u := range m.UIDs {
		b = append(b, "uid "...)
		b = strconv.AppendUint(b, uint64(u), 10)
		b = append(b, ", "...)
	}
	if m.Parent != nil {
		b = append(b, "parent ("...)
		b = m.Parent.appendText(b)
		b = append(b, "), "...)
	}
	if m.Children {
		b = append(b, "with its children, "...)
	}
	if len(b) >= 2 && b[len(b)-1] == ' ' {
		b = b[:len(b)-2]
	}
	return b
}
