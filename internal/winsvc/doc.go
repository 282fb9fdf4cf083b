// Package winsvc installs, starts, stops and removes Windows services, the kernel driver's and refd's own, and protects the folder of
// their files.
//
// # Image paths
//
// The service manager runs the first file that the words of an unquoted path may mean: of C:\Program Files\x.exe it tries
// C:\Program.exe, too (CWE-428). A program's path is therefore always quoted here. The loader of drivers takes the whole string for
// the path and knows no quotation marks; a driver's path is given in the form of the NT kernel, \??\C:\..., which is completed by
// nobody and searched for nowhere.
//
// On systems other than Windows every function returns an error that wraps errors.ErrUnsupported.
package winsvc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The reasons for which a driver cannot be installed or started. They arrive wrapped.
var (
	// ErrNoDriver says that the driver's file does not exist. The error wraps fs.ErrNotExist, too.
	ErrNoDriver = errors.New("winsvc: no driver file")
	// ErrUnsigned says that Windows does not load the driver because of its signature.
	ErrUnsigned = errors.New("winsvc: driver not signed as Windows demands")
	// ErrNoDriverService says that the service of this name is no driver's, and was left alone.
	ErrNoDriverService = errors.New("winsvc: the service of this name is no driver's: choose another name")
	// ErrForeign says that a file which only administrators may write belongs to somebody else.
	ErrForeign = errors.New("winsvc: not to be trusted")
	// ErrNotInstalled says that there is no service of this name.
	ErrNotInstalled = errors.New("winsvc: service not installed")
	// ErrInstalled says that there is one already.
	ErrInstalled = errors.New("winsvc: service already installed")
)

// Driver describes the service of a kernel driver.
type Driver struct {
	// Name is the service's name. Required.
	Name string
	// Path is the driver's file, absolute. Required.
	Path string
}

// check looks at the file, so that what is missing is named by us and not by a number of Windows.
func (d Driver) check() error {
	if err := checkName(d.Name); err != nil {
		return err
	}
	if d.Path == "" {
		return fmt.Errorf("%w: no path is configured", errors.Join(ErrNoDriver, fs.ErrNotExist))
	}
	if !filepath.IsAbs(d.Path) || strings.Contains(d.Path, `"`) {
		return fmt.Errorf("winsvc: driver %s: use an absolute path without quotation marks", d.Path)
	}
	info, err := os.Stat(d.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s: get a signed driver, and set its path in the configuration", errors.Join(ErrNoDriver, fs.ErrNotExist), d.Path)
	case err != nil:
		return fmt.Errorf("winsvc: driver %s: %w", d.Path, err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: %s is no file", errors.Join(ErrNoDriver, fs.ErrNotExist), d.Path)
	}
	return nil
}

// maxName is the longest name of a service that Windows takes.
const maxName = 256

func checkName(name string) error {
	if name == "" || len(name) > maxName || strings.ContainsAny(name, `/\`) {
		return fmt.Errorf("winsvc: %q is no name of a service: use 1 to %d characters without slashes", name, maxName)
	}
	return nil
}

// ntPath is a driver's path as the kernel has it.
func ntPath(path string) string {
	if strings.HasPrefix(path, `\\`) { // \\server\share
		return `\??\UNC` + path[1:]
	}
	return `\??\` + path
}

// Program describes the service of a program.
type Program struct {
	// Name is the service's name, Display what people see, Description a sentence about it. Name is required.
	Name, Display, Description string
	// Path is the program's file, absolute. Required.
	Path string
	// Args are its arguments.
	Args []string
}

func (p Program) check() error {
	if err := checkName(p.Name); err != nil {
		return err
	}
	if !filepath.IsAbs(p.Path) || strings.Contains(p.Path, `"`) {
		return fmt.Errorf("winsvc: program %q: use an absolute path without quotation marks", p.Path)
	}
	return nil
}

// commandLine is the program with its arguments, each quoted so that it stays one word, the program always.
func (p Program) commandLine() string {
	var b strings.Builder
	b.WriteString(`"` + p.Path + `"`)
	for _, arg := range p.Args {
		b.WriteByte(' ')
		b.WriteString(quote(arg))
	}
	return b.String()
}

// quote puts an argument between quotation marks, as the C library of Windows reads it: a backslash means itself unless
// quotation marks follow.
func quote(arg string) string {
	if arg != "" && !strings.ContainsAny(arg, " \t\n\v\"") {
		return arg
	}
	var b strings.Builder
	b.WriteByte('"')
	backslashes := 0
	for _, c := range []byte(arg) {
		switch c {
		case '\\':
			backslashes++
		case '"':
			b.WriteString(strings.Repeat(`\`, backslashes+1))
			backslashes = 0
		default:
			backslashes = 0
		}
		b.WriteByte(c)
	}
	b.WriteString(strings.Repeat(`\`, backslashes))
	b.WriteByte('"')
	return b.String()
}
