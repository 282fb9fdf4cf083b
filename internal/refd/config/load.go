package config

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/weirfw/weir/pkg/filterlist"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/rules"
)

// maxSize bounds a configuration file; 10,000 rules take about 2 MB.
const maxSize = 64 << 20

// ErrInvalid is wrapped by every error about the content of a file.
var ErrInvalid = errors.New("config: invalid configuration")

// Error is one problem in a configuration file.
type Error struct {
	File string
	// Line and Column count from 1; 0 if the place is not known.
	Line, Column int
	// Key leads to the value, such as "apps[2].rules[0].remote[1]".
	Key string
	// Msg says what is wrong.
	Msg string
	// Hint says what to write instead. It may be empty.
	Hint string
}

// Error returns "file:line:column: key: message (hint)".
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: ", e.File, e.Line, e.Column)
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Msg)
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// Unwrap returns ErrInvalid.
func (e *Error) Unwrap() error { return ErrInvalid }

// Errors returns the problems that err consists of.
func Errors(err error) []*Error {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		var all []*Error
		for _, e := range joined.Unwrap() {
			all = append(all, Errors(e)...)
		}
		return all
	}
	var e *Error
	if errors.As(err, &e) {
		return []*Error{e}
	}
	return nil
}

// Loaded is a configuration that was checked.
type Loaded struct {
	File
	// Rules are the compiled rules.
	Rules *rules.Set
	// Path is where it was read from.
	Path string
	// Digest is that of the file's content, so that a file that was changed since can be told.
	Digest [sha256.Size]byte
	// Read are the lists, by their names. A nil one is empty.
	Read map[string]*filterlist.List
	// Notes are about what works and is hardly what was meant.
	Notes []*Error
}

// Read reads and checks the file at path. An error that wraps os.ErrNotExist
// means that there is none. Errors about the content wrap ErrInvalid; they are
// joined *Error values.
func Read(path string, opts ...rules.Option) (*Loaded, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, b, opts...)
}

// Parse checks the content of a file; path is used in messages.
func Parse(path string, b []byte, opts ...rules.Option) (*Loaded, error) {
	if len(b) > maxSize {
		return nil, &Error{File: path, Msg: fmt.Sprintf("larger than %d MiB", maxSize>>20)}
	}
	l := &Loaded{File: Default(), Path: path, Digest: sha256.Sum256(b)}
	if err := decode(path, b, &l.File); err != nil {
		return nil, err
	}
	pos := positions{file: path, source: b}
	var errs []error
	for _, v := range slices.Concat(l.check(), l.readLists()) {
		errs = append(errs, pos.at(v.path, v.msg, v.hint))
	}
	set, err := l.compile(opts...)
	for _, e := range rules.Errors(err) {
		msg := e.Msg
		if e.Value != "" {
			msg = fmt.Sprintf("%q: %s", e.Value, e.Msg)
		}
		errs = append(errs, pos.at(e.Path, msg, e.Hint))
	}
	if err != nil && len(errs) == 0 {
		errs = append(errs, pos.at("", err.Error(), ""))
	}
	if err == nil && set.SplitOn() && l.SplitTunnel.Engine == SplitNone {
		errs = append(errs, pos.at("split_tunnel.engine", "no engine, but the split tunnel is in use", "write kroute or proxy, or take out split.use"))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	l.Rules = set
	for _, v := range slices.Concat(l.idle(), l.publicSuffixes(), l.DNS.Nameserver.circular(), l.mistaken()) {
		l.Notes = append(l.Notes, pos.at(v.path, v.msg, v.hint))
	}
	return l, nil
}

// compile compiles the rules.
func (l *Loaded) compile(opts ...rules.Option) (*rules.Set, error) {
	selector := rules.WithInterfaceSyntax(func(text string) error {
		if _, err := netif.ParseSelector(text); err != nil {
			// the value and the key are told beside it
			return errors.New(strings.TrimPrefix(err.Error(), fmt.Sprintf("select interface %q: netif: ", text)))
		}
		return nil
	})
	opts = append(slices.Clone(opts), selector, rules.WithLists(l.Read))
	if !l.DNS.CNAMEs {
		opts = append(opts, rules.IgnoreCNAMEs())
	}
	return rules.Compile(l.Config, opts...) //nolint:wrapcheck // its errors are told one by one
}

// decode reads YAML strictly: unknown and repeated keys are errors.
func decode(path string, b []byte, into *File) (err error) {
	var parsed *ast.File
	defer func() {
		// the library panics where a tag is not what its value is
		if r := recover(); r != nil {
			e := &Error{File: path, Line: 1, Column: 1, Msg: fmt.Sprintf("not understood: %v", r), Hint: "write it without tags, those words that begin with !"}
			if t := firstTag(parsed); t != nil {
				e.Line, e.Column = t.Position.Line, t.Position.Column
			}
			err = e
		}
	}()
	parsed, err = parser.ParseBytes(b, 0)
	if err == nil {
		if e := oneDocument(path, b); e != nil {
			return e
		}
		if empty(parsed) {
			// the decoder would set everything to zero
			return nil
		}
		if err = yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(into); err == nil {
			return nil
		}
		if errs := wrongTypes(path, parsed); len(errs) > 0 {
			return errors.Join(errs...)
		}
	}
	e := &Error{File: path, Line: 1, Column: 1, Msg: err.Error()}
	var ye yaml.Error
	if errors.As(err, &ye) {
		e.Msg = ye.GetMessage()
		if t := ye.GetToken(); t != nil && t.Position != nil {
			e.Line, e.Column = t.Position.Line, t.Position.Column
		}
	}
	return e
}

// oneDocument returns an error if there is anything in a file behind its first YAML document: the decoder would not read it. The
// parser does not tell of every such document.
func oneDocument(path string, b []byte) error {
	var begin *token.Token // what begins another document
	something, headers, directive := false, 0, 0
	for _, t := range lexer.Tokenize(string(b)) {
		switch {
		case t.Position == nil || t.Type == token.CommentType || t.Position.Line == directive:
		case t.Type == token.DirectiveType:
			directive = t.Position.Line
		case t.Type == token.DocumentHeaderType, t.Type == token.DocumentEndType:
			// the first line of dashes may begin the first document
			if something || headers > 0 {
				begin = t
			}
			headers++
		case begin != nil:
			return &Error{
				File: path, Line: begin.Position.Line, Column: begin.Position.Column,
				Msg: "another YAML document begins here and would not be read", Hint: "take out the line " + begin.Value,
			}
		default:
			something = true
		}
	}
	return nil
}

// firstTag returns where the first tag of a file stands, nil if there is none.
func firstTag(f *ast.File) *token.Token {
	if f == nil {
		return nil
	}
	var first *token.Token
	for _, d := range f.Docs {
		for _, n := range ast.Filter(ast.TagType, d) {
			if t := n.GetToken(); first == nil && t != nil && t.Position != nil {
				first = t
			}
		}
	}
	return first
}

// empty reports whether a file has nothing but comments.
func empty(f *ast.File) bool {
	for _, d := range f.Docs {
		if d.Body != nil && d.Body.Type() != ast.NullType && d.Body.Type() != ast.CommentType {
			return false
		}
	}
	return true
}

// positions finds the places of keys in a file.
type positions struct {
	file   string
	source []byte
	parsed *ast.File
}

// at returns an error about key. If the key is not in the file, because its
// default is meant, the place is the nearest parent's.
func (p *positions) at(key, msg, hint string) *Error {
	e := &Error{File: p.file, Line: 1, Column: 1, Key: key, Msg: msg, Hint: hint}
	if p.parsed == nil {
		f, err := parser.ParseBytes(p.source, 0)
		if err != nil {
			return e
		}
		p.parsed = f
	}
	for k := key; k != ""; k = parent(k) {
		path, err := yaml.PathString("$." + k)
		if err != nil {
			continue
		}
		n, err := path.FilterFile(p.parsed)
		if err != nil || n == nil || n.GetToken() == nil {
			continue
		}
		e.Line, e.Column = n.GetToken().Position.Line, n.GetToken().Position.Column
		return e
	}
	return e
}

// parent cuts the last element off a key.
func parent(key string) string {
	return key[:max(strings.LastIndexAny(key, ".["), 0)]
}
