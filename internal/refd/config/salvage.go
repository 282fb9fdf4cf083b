package config

import (
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/weirfw/weir/pkg/rules"
)

// Socket returns the path of the API's socket that the file at path names. The
// rest of the file may be bad: a refd that runs can be asked all the same. It
// is the default where the file cannot be read or does not name a good one.
func Socket(path string) string {
	f := Salvage(path)
	return f.API.Socket
}

// Salvage returns what can be read of the settings in the file at path, however
// bad the rest of it is, and the default of everything else. It leaves out the
// rules. A refd can be asked, and what it left can be removed, with the result.
func Salvage(path string) File {
	file := Default()
	f, err := os.Open(path)
	if err != nil {
		return file
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, maxSize))
	if err != nil {
		return file
	}
	file.salvage(b)
	return file
}

// salvage fills in what can be read of b.
func (f *File) salvage(b []byte) {
	texts := []string{string(b)}
	if _, err := parser.ParseBytes(b, 0); err != nil {
		// what is no YAML spoils its own section only
		texts = sections(string(b))
	}
	good := func(e entry) {
		_ = e.read() // what is bad stays as it is by default
	}
	// the rules are of no use in part
	ofRules := keys(reflect.TypeFor[rules.Config]())
	for _, text := range texts {
		parsed, err := parser.ParseBytes([]byte(text), 0)
		if err != nil || len(parsed.Docs) == 0 {
			continue
		}
		m, ok := parsed.Docs[0].Body.(*ast.MappingNode)
		if !ok {
			continue
		}
		m.Values = slices.DeleteFunc(m.Values, func(v *ast.MappingValueNode) bool {
			return slices.Contains(ofRules, v.Key.GetToken().Value)
		})
		walk(entry{"", m, reflect.ValueOf(f).Elem()}, good, func(unknownKey) {})
	}
	// each may be readable and still be no good, by itself or beside another
	def := Default()
	for _, v := range f.check() {
		reset(reflect.ValueOf(f).Elem(), reflect.ValueOf(&def).Elem(), v.path)
	}
	if len(f.check()) > 0 {
		*f = def
	}
}

// reset sets the field that a key leads to to its default.
func reset(v, def reflect.Value, key string) {
	for name := range strings.SplitSeq(key, ".") {
		name, _, inList := strings.Cut(name, "[")
		field, ok := fieldOf(v, name)
		if !ok {
			return
		}
		d, _ := fieldOf(def, name)
		if v, def = field, d; inList {
			break // a list is the default's as a whole
		}
	}
	v.Set(def)
}

// topKey begins a section: a key without a space in front.
var topKey = regexp.MustCompile(`(?m)^[A-Za-z_]+[ \t]*:`)

// sections cuts a file before each key of the first level.
func sections(text string) (list []string) {
	begins := topKey.FindAllStringIndex(text, -1)
	for i, b := range begins {
		end := len(text)
		if i+1 < len(begins) {
			end = begins[i+1][0]
		}
		list = append(list, text[b[0]:end])
	}
	return list
}
