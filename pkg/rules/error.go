package rules

import (
	"errors"
	"strconv"
	"strings"
)

// ErrInvalid is wrapped by every error about the content of a Config.
var ErrInvalid = errors.New("rules: invalid rules")

// Error is about one value of a Config.
type Error struct {
	// Path leads to the value by the names of the YAML keys, such as
	// "apps[2].rules[0].remote[1]".
	Path string
	// Value is what stands there.
	Value string
	// Msg says what is wrong with it.
	Msg string
	// Hint says what to write instead. It may be empty.
	Hint string
}

// Error returns all four fields in one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Path)
	b.WriteString(": ")
	if e.Value != "" {
		b.WriteString(strconv.Quote(e.Value))
		b.WriteString(": ")
	}
	b.WriteString(e.Msg)
	if e.Hint != "" {
		b.WriteString("; ")
		b.WriteString(e.Hint)
	}
	return b.String()
}

// Unwrap returns ErrInvalid.
func (e *Error) Unwrap() error { return ErrInvalid }

// Errors returns every Error that err, which Compile returned, consists of.
func Errors(err error) []*Error {
	if e := (*Error)(nil); errors.As(err, &e) {
		var joined interface{ Unwrap() []error }
		if !errors.As(err, &joined) {
			return []*Error{e}
		}
		var all []*Error
		for _, one := range joined.Unwrap() {
			all = append(all, Errors(one)...)
		}
		return all
	}
	return nil
}

// problem is what a parser of a single value finds; Compile adds the path.
type problem struct{ value, msg, hint string }

func (p *problem) at(path string) *Error {
	return &Error{Path: path, Value: p.value, Msg: p.msg, Hint: p.hint}
}

// checkText refuses what no text of a rule may have.
func checkText(s string) *problem {
	if s == "" {
		return &problem{s, "empty", "write a value or leave the key out"}
	}
	if t := strings.TrimSpace(s); t != s {
		return &problem{s, "white space at the beginning or the end", "write " + strconv.Quote(t)}
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return &problem{s, "control character", ""}
		}
	}
	return nil
}
