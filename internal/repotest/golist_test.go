package repotest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const modulePath = "github.com/weirfw/weir"

// root is the top of the repository, seen from the directory in which tests run.
const root = "../.."

//nolint:gochecknoglobals // a table that nobody writes
var systems = []string{"linux", "windows", "darwin"}

// listed is what we read of `go list -json`.
type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Module     *struct{ Path string }
}

// rel is the path inside the repository.
func (p listed) rel() string { return strings.TrimPrefix(p.ImportPath, modulePath+"/") }

// list lists packages as one system sees them; all of ours without arguments.
func list(t *testing.T, goos string, args ...string) []listed {
	t.Helper()
	if len(args) == 0 {
		args = []string{"./..."}
	}
	// -e: packages that do not build are the compiler's business, not this test's.
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-e", "-json=ImportPath,Standard,Imports,Module"}, args...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.String())
	}
	var packages []listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) == 0 {
		t.Fatal("got no packages from go list; want some")
	}
	return packages
}

// sourceFiles lists the files of the repository by suffix, relative to the root. It does not ask git: a tarball has none.
func sourceFiles(t *testing.T, suffixes ...string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if slices.Contains([]string{".git", "bin", "node_modules"}, entry.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if slices.ContainsFunc(suffixes, func(suffix string) bool { return strings.HasSuffix(path, suffix) }) {
			rel, err := filepath.Rel(root, path)
			files = append(files, filepath.ToSlash(rel))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("got no files ending in %v; want some", suffixes)
	}
	return files
}

// sourceDirs lists the directories with Go code that is not test code, whatever system it is for; without testdata and
// modules of their own.
func sourceDirs(t *testing.T) []string {
	t.Helper()
	var dirs []string
	for _, file := range packageFiles(t) {
		dirs = append(dirs, filepath.ToSlash(filepath.Dir(file)))
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// packageFiles lists the Go files of this module that are neither tests nor testdata.
func packageFiles(t *testing.T) []string {
	t.Helper()
	modules := sourceFiles(t, "/go.mod")
	return slices.DeleteFunc(sourceFiles(t, ".go"), func(file string) bool {
		inOther := func(mod string) bool { return mod != "go.mod" && inside(file, parent(mod)) }
		return strings.HasSuffix(file, "_test.go") || strings.Contains("/"+file, "/testdata/") ||
			slices.ContainsFunc(modules, inOther)
	})
}
