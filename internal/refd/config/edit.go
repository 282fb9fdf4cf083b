package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Change is a new value for a key of a configuration file.
type Change struct {
	// Key leads to it, such as "dns.wait" and "apps". Its parts are keys of sections, not places in lists.
	Key string
	// Value is what is to stand there; nil takes the key out.
	Value any
}

// ErrNotEditable is wrapped where a file is written in a way that a change could spoil: a person has to change it.
var ErrNotEditable = errors.New("config: this file has to be changed by hand")

// Edit returns the content of a file with changes. Comments and the order of keys stay, also in lists whose entries have ids. The
// result is what was asked for and nothing else, or there is an error; whether it is a good configuration, Parse says.
func Edit(source []byte, changes ...Change) ([]byte, error) {
	text := source
	for _, c := range changes {
		next, err := editOne(text, c)
		if err != nil {
			return nil, fmt.Errorf("change %s: %w", c.Key, err)
		}
		text = next
	}
	return text, nil
}

func editOne(source []byte, c Change) (out []byte, err error) {
	defer func() {
		// as in decode
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrNotEditable, r)
		}
	}()
	f, err := parser.ParseBytes(source, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotEditable, err)
	}
	names := strings.Split(c.Key, ".")
	if len(f.Docs) == 0 || empty(f) {
		return check(source, addSection(source, names, c.Value), c)
	}
	root, ok := f.Docs[0].Body.(*ast.MappingNode)
	if !ok || len(f.Docs) > 1 {
		return nil, fmt.Errorf("%w: it is not one section of keys", ErrNotEditable)
	}
	if find(root, names[0]) == nil && !root.IsFlowStyle {
		return check(source, addSection(source, names, c.Value), c)
	}
	value, err := node(c.Value)
	if err != nil {
		return nil, err
	}
	if !put(root, names, value) {
		return nil, fmt.Errorf("%w: something on the way to %s is no section", ErrNotEditable, c.Key)
	}
	if len(root.Values) == 0 {
		return check(source, nil, c)
	}
	return check(source, []byte(f.String()), c)
}

// addSection adds a key of the first level at the end of a file.
func addSection(source []byte, names []string, value any) []byte {
	if value == nil {
		return source
	}
	for i := len(names) - 1; i >= 0; i-- {
		value = map[string]any{names[i]: value}
	}
	b, err := yaml.MarshalWithOptions(value, yaml.Indent(2), yaml.IndentSequence(true))
	if err != nil {
		return source // check finds that it is not there
	}
	if n := len(source); n > 0 && source[n-1] != '\n' {
		source = append(bytes.Clone(source), '\n')
	}
	return append(bytes.Clone(source), b...)
}

// node writes a value in one line. It is nil for nil.
func node(value any) (ast.Node, error) {
	if value == nil {
		return nil, nil //nolint:nilnil // there is nothing to write
	}
	n, err := yaml.ValueToNode(value, yaml.Flow(true))
	if err != nil {
		return nil, fmt.Errorf("write value: %w", err)
	}
	// parsed again, it is as it is in a file: what Go made lacks places
	f, err := parser.ParseBytes([]byte(n.String()), 0)
	if err != nil || len(f.Docs) != 1 {
		return nil, fmt.Errorf("%w: its value: %w", ErrNotEditable, err)
	}
	return f.Docs[0].Body, nil
}

func find(m *ast.MappingNode, name string) *ast.MappingValueNode {
	for _, v := range m.Values {
		if v.Key.GetToken().Value == name {
			return v
		}
	}
	return nil
}

// put puts a value where names lead to from m, and takes it out if it is nil. Sections that become empty go.
func put(m *ast.MappingNode, names []string, value ast.Node) bool {
	v := find(m, names[0])
	switch {
	case v == nil && value == nil:
		return true
	case v == nil:
		add(m, names, value)
		return true
	case len(names) == 1 && value == nil:
		remove(m, v)
		return true
	case len(names) == 1:
		v.Value = reconcile(v.Value, value)
		return true
	}
	if _, null := v.Value.(*ast.NullNode); null {
		remove(m, v)
		return put(m, names, value)
	}
	below, ok := v.Value.(*ast.MappingNode)
	if !ok || !put(below, names[1:], value) {
		return false
	}
	if len(below.Values) == 0 {
		remove(m, v)
	}
	return true
}

func remove(m *ast.MappingNode, v *ast.MappingValueNode) {
	for i := range m.Values {
		if m.Values[i] == v {
			m.Values = append(m.Values[:i], m.Values[i+1:]...)
			return
		}
	}
}

// add adds a key with its value at the end of a section.
func add(m *ast.MappingNode, names []string, value ast.Node) {
	text := value.String()
	for i := len(names) - 1; i > 0; i-- {
		text = "{" + names[i] + ": " + text + "}"
	}
	f, err := parser.ParseBytes([]byte(names[0]+": "+text), 0)
	if err != nil {
		return // check finds that it is not there
	}
	one, ok := f.Docs[0].Body.(*ast.MappingNode)
	if !ok {
		return
	}
	v := one.Values[0]
	if len(m.Values) > 0 {
		v.Key.AddColumn(m.Values[0].Key.GetToken().Position.Column - v.Key.GetToken().Position.Column)
	}
	v.SetIsFlowStyle(m.IsFlowStyle)
	keepFlow(v.Value)
	m.Values = append(m.Values, v)
}

// keepFlow undoes what SetIsFlowStyle does to the values below a key.
func keepFlow(n ast.Node) {
	switch n := n.(type) {
	case *ast.MappingNode:
		n.SetIsFlowStyle(true)
	case *ast.SequenceNode:
		n.SetIsFlowStyle(true)
	}
}

// reconcile returns the old node, changed so that it says what the new one does; what they agree about stays as it is written.
func reconcile(old, next ast.Node) ast.Node {
	if same(old, next) {
		return old
	}
	switch o := old.(type) {
	case *ast.MappingNode:
		if n, ok := next.(*ast.MappingNode); ok && !o.IsFlowStyle && len(n.Values) > 0 {
			reconcileMapping(o, n)
			return o
		}
	case *ast.SequenceNode:
		if n, ok := next.(*ast.SequenceNode); ok && !o.IsFlowStyle && len(n.Values) > 0 {
			reconcileSequence(o, n)
			return o
		}
	}
	if c := old.GetComment(); c != nil && next.GetComment() == nil {
		_ = next.SetComment(c) // of a kind of node that has none, it goes
	}
	return next
}

func reconcileMapping(old, next *ast.MappingNode) {
	kept := old.Values[:0:0]
	for _, v := range old.Values {
		if n := find(next, v.Key.GetToken().Value); n != nil {
			v.Value = reconcile(v.Value, n.Value)
			kept = append(kept, v)
		}
	}
	first := old.Values[0]
	old.Values = kept
	for _, n := range next.Values {
		name := n.Key.GetToken().Value
		if find(old, name) != nil {
			continue
		}
		add(old, []string{name}, n.Value)
		if len(kept) == 0 { // nothing to take the column from
			added := old.Values[len(old.Values)-1].Key
			added.AddColumn(first.Key.GetToken().Position.Column - added.GetToken().Position.Column)
		}
	}
}

// reconcileSequence keeps the entries of a list that are still in it, known by their ids or else by what they say.
func reconcileSequence(old, next *ast.SequenceNode) {
	headFirst(old)
	var values []ast.Node
	var comments []*ast.CommentGroupNode
	used := make([]bool, len(old.Values))
	for _, n := range next.Values {
		at := -1
		for i, o := range old.Values {
			if !used[i] && (same(o, n) || idOf(o) != "" && idOf(o) == idOf(n)) {
				at = i
				break
			}
		}
		if at < 0 {
			values, comments = append(values, entryOf(n)), append(comments, nil)
			continue
		}
		used[at] = true
		values = append(values, reconcile(old.Values[at], n))
		var head *ast.CommentGroupNode
		if at < len(old.ValueHeadComments) {
			head = old.ValueHeadComments[at]
		}
		comments = append(comments, head)
	}
	old.Values, old.ValueHeadComments, old.Entries = values, comments, nil
}

// headFirst gives the first entry of a list the comment above it, which the parser takes for the list's. One behind the list's key is
// the list's.
func headFirst(list *ast.SequenceNode) {
	all := list.GetComment()
	if all == nil || len(list.ValueHeadComments) == 0 || list.ValueHeadComments[0] != nil {
		return
	}
	var behind, above []*token.Token
	for _, c := range all.Comments {
		if t := c.GetToken(); t.Prev != nil && t.Prev.Position.Line == t.Position.Line {
			behind = append(behind, t)
		} else {
			above = append(above, t)
		}
	}
	if len(above) == 0 {
		return
	}
	list.ValueHeadComments[0], list.Comment = ast.CommentGroup(above), nil
	if len(behind) > 0 {
		list.Comment = ast.CommentGroup(behind)
	}
}

// entryOf writes an entry of a list with a line for each key.
func entryOf(n ast.Node) ast.Node {
	m, ok := n.(*ast.MappingNode)
	if !ok || len(m.Values) < 3 {
		return n
	}
	var b strings.Builder
	for _, v := range m.Values {
		fmt.Fprintf(&b, "%s: %s\n", v.Key.String(), v.Value.String())
	}
	f, err := parser.ParseBytes([]byte(b.String()), 0)
	if err != nil {
		return n
	}
	return f.Docs[0].Body
}

func idOf(n ast.Node) string {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		return ""
	}
	if v := find(m, "id"); v != nil {
		return v.Value.GetToken().Value
	}
	return ""
}

// same reports whether two nodes say the same.
func same(a, b ast.Node) bool {
	var x, y any
	if yaml.NodeToValue(a, &x) != nil || yaml.NodeToValue(b, &y) != nil {
		return false
	}
	return reflect.DeepEqual(x, y)
}

// check returns the changed content if it says what it is to say: the library that writes it is not trusted.
func check(before, after []byte, c Change) ([]byte, error) {
	was, err1 := tree(before)
	is, err2 := tree(after)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotEditable, err)
	}
	var want any
	if c.Value != nil {
		b, err := yaml.Marshal(c.Value)
		if err == nil {
			err = yaml.Unmarshal(b, &want)
		}
		if err != nil {
			return nil, fmt.Errorf("write value: %w", err)
		}
	}
	names := strings.Split(c.Key, ".")
	setIn(was, names, want)
	setIn(is, names, take(is, names)) // sections without anything in them count as none
	if !reflect.DeepEqual(was, is) {
		return nil, fmt.Errorf("%w: it would not say what is meant", ErrNotEditable)
	}
	return after, nil
}

// tree is what a file says, without types.
func tree(b []byte) (map[string]any, error) {
	m := map[string]any{}
	if err := yaml.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("read it again: %w", err)
	}
	if m == nil {
		m = map[string]any{}
	}
	return m, nil
}

func take(m map[string]any, names []string) any {
	v := m[names[0]]
	if len(names) == 1 {
		return v
	}
	below, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	return take(below, names[1:])
}

// setIn puts a value into a tree, and takes it out if it is nil, with the sections that become empty.
func setIn(m map[string]any, names []string, value any) {
	if len(names) == 1 {
		if m[names[0]] = value; value == nil {
			delete(m, names[0])
		}
		return
	}
	below, ok := m[names[0]].(map[string]any)
	if !ok {
		below = map[string]any{}
	}
	setIn(below, names[1:], value)
	if m[names[0]] = below; len(below) == 0 {
		delete(m, names[0])
	}
}
