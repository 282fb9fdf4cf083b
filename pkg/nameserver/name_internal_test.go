package nameserver

import (
	"slices"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		"A.Test.": "a.test", "a.test": "a.test", ".a.test": "a.test", ".": ".", "": "", "*.a": "", "a..b": "", strings.Repeat("a", 64): "",
	} {
		if got, err := canonical(in); got != want || (err != nil) != (want == "") {
			t.Errorf("canonical(%q): got %q, %v; want %q", in, got, err, want)
		}
	}
	d := domains[int]{"b.c": 1, "a.b.c": 2, `x\.y.z`: 3}
	for name, want := range map[string]int{"b.c": 1, "q.b.c": 1, "a.b.c": 2, "q.a.b.c": 2, "bb.c": 0, "c": 0, ".": 0, `x\.y.z`: 3, "y.z": 0} {
		if got, _ := d.find(name); got != want {
			t.Errorf("find(%q): got %d; want %d", name, got, want)
		}
	}
	if v, ok := (domains[int]{".": 7}).find("a.b"); v != 7 || !ok {
		t.Error("the root does not contain everything")
	}
	var got []string
	suffixes("a.b", func(s string) bool { got = append(got, s); return true })
	if !slices.Equal(got, []string{"a.b", "b", "."}) {
		t.Errorf("got %q", got)
	}
}
