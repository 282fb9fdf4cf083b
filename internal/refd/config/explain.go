package config

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// The YAML library stops at the first thing that it does not like, and says so in the words of Go. Here a file that it refused is
// held against the types of the configuration once more: all that is wrong, in the words of the file.

// entry is a key of a file with what stands there.
type entry struct {
	// key leads there, such as "apps[2].rules[0].remote[1]".
	key  string
	node ast.Node
	// into is what the node is about. It can be set.
	into reflect.Value
}

// unknownKey is a key that its section does not have.
type unknownKey struct {
	node    ast.Node
	name    string
	section reflect.Type
}

// walk goes through a file and the configuration side by side. It calls leaf for what is one value, or is no section or list
// although it should be, and unknown for keys that do not exist.
func walk(e entry, leaf func(entry), unknown func(unknownKey)) {
	for e.into.Kind() == reflect.Pointer {
		e.into = reflect.New(e.into.Type().Elem()).Elem()
	}
	isText := reflect.PointerTo(e.into.Type()).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
	switch n := e.node.(type) {
	case nil, *ast.NullNode, *ast.AliasNode:
		// nothing, or what stands elsewhere and is looked at there
	case *ast.AnchorNode:
		walk(entry{e.key, n.Value, e.into}, leaf, unknown)
	case *ast.MappingNode:
		if e.into.Kind() != reflect.Struct || isText {
			leaf(e)
			return
		}
		for _, v := range n.Values {
			walkKey(e, v, leaf, unknown)
		}
	case *ast.SequenceNode:
		if e.into.Kind() != reflect.Slice {
			leaf(e)
			return
		}
		for i, v := range n.Values {
			walk(entry{fmt.Sprintf("%s[%d]", e.key, i), v, reflect.New(e.into.Type().Elem()).Elem()}, leaf, unknown)
		}
	default:
		leaf(e)
	}
}

func walkKey(e entry, v *ast.MappingValueNode, leaf func(entry), unknown func(unknownKey)) {
	if _, merge := v.Key.(*ast.MergeKeyNode); merge {
		return
	}
	name := v.Key.GetToken().Value
	field, ok := fieldOf(e.into, name)
	if !ok {
		unknown(unknownKey{v.Key, name, e.into.Type()})
		return
	}
	key := name
	if e.key != "" {
		key = e.key + "." + name
	}
	walk(entry{key, v.Value, field}, leaf, unknown)
}

// fieldOf returns the field of a struct that has this key.
func fieldOf(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if options == "inline" {
			if f, ok := fieldOf(v.Field(i), key); ok {
				return f, true
			}
		}
		if name == key && name != "" && name != "-" {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// read reads one value into its place. What cannot be read leaves the place as it is.
func (e *entry) read() (err error) {
	defer func() {
		// as in decode
		if r := recover(); r != nil {
			err = fmt.Errorf("not understood: %v", r)
		}
	}()
	v := reflect.New(e.into.Type())
	if err := yaml.NodeToValue(e.node, v.Interface()); err != nil {
		return err //nolint:wrapcheck // wrong puts it into words
	}
	e.into.Set(v.Elem())
	return nil
}

// wrongTypes returns what is wrong with the keys and values of a file, by their types alone.
func wrongTypes(path string, f *ast.File) (errs []error) {
	file := Default()
	add := func(n ast.Node, key, msg, hint string) {
		e := &Error{File: path, Line: 1, Column: 1, Key: key, Msg: msg, Hint: hint}
		if t := n.GetToken(); t != nil && t.Position != nil {
			e.Line, e.Column = t.Position.Line, t.Position.Column
		}
		errs = append(errs, e)
	}
	for _, d := range f.Docs {
		walk(entry{"", d.Body, reflect.ValueOf(&file).Elem()}, func(e entry) {
			if err := e.read(); err != nil {
				msg, hint := e.wrong(err)
				add(e.node, e.key, msg, hint)
			}
		}, func(u unknownKey) {
			add(u.node, "", fmt.Sprintf("unknown field %q", u.name), u.suggestion())
		})
	}
	return errs
}

// wrong says what is wrong with a value, and what to write instead.
func (e *entry) wrong(err error) (msg, hint string) {
	got := e.node.GetToken().Value
	switch e.node.Type() {
	case ast.MappingType:
		got = "a section"
	case ast.SequenceType:
		got = "a list"
	default:
		got = fmt.Sprintf("%q", got)
	}
	msg, hint = e.want(err)
	return got + ": " + msg, hint
}

func (e *entry) want(err error) (msg, hint string) {
	t, text := e.into.Type(), e.node.GetToken().Value
	isNumber := e.node.Type() == ast.IntegerType
	number := "not a whole number"
	if isNumber {
		number = "out of range"
	}
	switch {
	case t == reflect.TypeFor[time.Duration]():
		if isNumber {
			return "a duration without its unit", fmt.Sprintf("write %ss for seconds, or %[1]sms or %[1]sm", text)
		}
		return "not a duration", "write a number and its unit, such as 5s, 250ms or 1m30s"
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return textError(err), ""
	}
	switch t.Kind() {
	case reflect.Bool:
		return "neither true nor false", "write " + boolean(text)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return number, fmt.Sprintf("use 0 to %d", uint64(math.MaxUint64)>>(64-t.Bits()))
	case reflect.Int, reflect.Int64:
		return number, "write digits only"
	case reflect.Slice:
		if e.node.Type() == ast.MappingType {
			return "not a list", `begin each of its entries with "- "`
		}
		return "not a list", "write [" + text + "]"
	case reflect.Struct:
		return "not a section", "the keys in it are " + list(keys(t))
	default:
		return "not a text", "write one word, or a text in quotes"
	}
}

// boolean returns the boolean that older versions of YAML took a word for.
func boolean(word string) string {
	switch strings.ToLower(word) {
	case "yes", "on", "y":
		return "true"
	case "no", "off", "n":
		return "false"
	}
	return "true or false"
}

// textError is what one of our own types said, without the library's words about where.
func textError(err error) string {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		var ye yaml.Error
		if !errors.As(err, &ye) {
			break
		}
		err = next
	}
	var ye yaml.Error
	if errors.As(err, &ye) {
		return ye.GetMessage()
	}
	return err.Error()
}

// suggestion proposes the key of the same section that is most like the unknown one.
func (u unknownKey) suggestion() string {
	known := keys(u.section)
	best, bestCost := "", min(3, len(u.name)/2+1) // a short word is like many others
	for _, k := range known {
		if c := distance(u.name, k); c < bestCost {
			best, bestCost = k, c
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("did you mean %q?", best)
	case u.section == reflect.TypeFor[File]():
		return "see docs/configuration.md for the keys"
	}
	return "the keys here are " + list(known)
}

// keys returns the keys of a section.
func keys(t reflect.Type) (names []string) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case options == "inline":
			names = append(names, keys(f.Type)...)
		case name != "" && name != "-":
			names = append(names, name)
		}
	}
	return names
}

func list(words []string) string {
	return strings.Join(slices.Sorted(slices.Values(words)), ", ")
}

// distance is the Levenshtein distance of two short words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		prev := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := prev
			if a[i-1] != b[j-1] {
				cost = 1 + min(prev, row[j], row[j-1])
			}
			prev, row[j] = row[j], cost
		}
	}
	return row[len(b)]
}
