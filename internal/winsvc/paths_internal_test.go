package winsvc

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestProgramIsQuoted is about CWE-428: what is before a space must not be taken for the program.
func TestProgramIsQuoted(t *testing.T) {
	for _, c := range []struct {
		path string
		args []string
		want string
	}{
		{`C:\weir\refd.exe`, nil, `"C:\weir\refd.exe"`},
		{`C:\Program Files\weir\refd.exe`, []string{"run"}, `"C:\Program Files\weir\refd.exe" run`},
		{`C:\refd.exe`, []string{"", "a b", `say "x"`, `C:\dir\`, `C:\a dir\`, `\\"`}, `"C:\refd.exe" "" "a b" "say \"x\"" C:\dir\ "C:\a dir\\" "\\\\\""`},
	} {
		if got := (Program{Path: c.path, Args: c.args}).commandLine(); got != c.want {
			t.Errorf("%s %q: got %s; want %s", c.path, c.args, got, c.want)
		}
	}
}

// TestDriverPathIsComplete: the kernel adds nothing to such a path, and searches nowhere.
func TestDriverPathIsComplete(t *testing.T) {
	for path, want := range map[string]string{
		`C:\Program Files\weir\kext.sys`: `\??\C:\Program Files\weir\kext.sys`,
		`\\server\share\kext.sys`:        `\??\UNC\server\share\kext.sys`,
	} {
		if got := ntPath(path); got != want {
			t.Errorf("%s: got %s; want %s", path, got, want)
		}
	}
}

func TestDriverCheck(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "kext.sys")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what   string
		driver Driver
		want   error
	}{
		{"good", Driver{"Kext", file}, nil},
		{"no path", Driver{"Kext", ""}, ErrNoDriver},
		{"absent", Driver{"Kext", filepath.Join(dir, "absent.sys")}, fs.ErrNotExist},
		{"directory", Driver{"Kext", dir}, ErrNoDriver},
		{"relative", Driver{"Kext", "kext.sys"}, errAny},
		{"quotation mark", Driver{"Kext", file + `"`}, errAny},
		{"no name", Driver{"", file}, errAny},
		{"slash in the name", Driver{`a\b`, file}, errAny},
	} {
		err := c.driver.check()
		if (c.want == nil) != (err == nil) || c.want != nil && !errors.Is(c.want, errAny) && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v; want %v", c.what, err, c.want)
		}
	}
	for _, p := range []Program{{Name: "refd"}, {Name: "", Path: file}, {Name: "refd", Path: file + `" x`}} {
		if err := p.check(); err == nil {
			t.Errorf("%+v: got no error; want one", p)
		}
	}
}

var errAny = errors.New("any error")
