package repotest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

type parsed struct {
	path string // relative to the root
	dir  string
	ast  *ast.File
}

// parse reads the package files of the repository.
func parse(t *testing.T) []parsed {
	t.Helper()
	var files []parsed
	for _, path := range packageFiles(t) {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, path), nil, parser.ParseComments)
		if err != nil {
			t.Errorf("parse: %v", err)
			continue
		}
		files = append(files, parsed{path, filepath.ToSlash(filepath.Dir(path)), file})
	}
	return files
}

func TestEveryPackageHasOneComment(t *testing.T) {
	type docs struct{ name, files []string }
	packages := map[string]*docs{}
	for _, file := range parse(t) {
		d := packages[file.dir]
		if d == nil {
			d = &docs{}
			packages[file.dir] = d
		}
		d.name = append(d.name, file.ast.Name.Name)
		if file.ast.Doc == nil {
			continue
		}
		d.files = append(d.files, file.path)
		want := "Package " + file.ast.Name.Name + " "
		if file.ast.Name.Name == "main" {
			want = "Command " + filepath.Base(file.dir) + " "
		}
		if text := file.ast.Doc.Text(); !strings.HasPrefix(text, want) {
			first, _, _ := strings.Cut(text, "\n")
			t.Errorf("%s: the package comment begins %q; want %q", file.path, first, want+"...")
		}
	}
	for dir, d := range packages {
		if len(d.files) != 1 {
			t.Errorf("%s (package %s): got package comments in %q; want exactly one", dir, d.name[0], d.files)
		}
	}
}

// A sentinel that nothing returns is a promise that nobody keeps.
func TestEverySentinelIsUsed(t *testing.T) {
	files := parse(t)
	sentinels := map[string]string{} // "dir.ErrX" -> file
	used := map[string]bool{}
	for _, file := range files {
		for _, ident := range declaredErrors(file.ast) {
			sentinels[file.dir+"."+ident.Name] = file.path
		}
		noteUses(file, used)
	}
	for name, path := range sentinels {
		if !used[name] {
			t.Errorf("%s: %s is declared and never used", path, name)
		}
	}
}

// declaredErrors finds `var ErrX = ...` at the top level.
func declaredErrors(file *ast.File) []*ast.Ident {
	var idents []*ast.Ident
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR {
			continue
		}
		for _, spec := range gen.Specs {
			value, ok := spec.(*ast.ValueSpec)
			if !ok {
				continue
			}
			for _, ident := range value.Names {
				if isSentinel(ident.Name) {
					idents = append(idents, ident)
				}
			}
		}
	}
	return idents
}

func isSentinel(name string) bool { return regexp.MustCompile(`^Err[A-Z]`).MatchString(name) }

// noteUses notes every mention of a sentinel but its declaration, as "dir.ErrX".
func noteUses(file parsed, used map[string]bool) {
	imports := map[string]string{} // name in this file -> dir
	for _, spec := range file.ast.Imports {
		dir, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), modulePath+"/")
		if !ours {
			continue
		}
		name := filepath.Base(dir)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		imports[name] = dir
	}
	declarations := declaredErrors(file.ast)
	ast.Inspect(file.ast, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.SelectorExpr:
			if pkg, ok := n.X.(*ast.Ident); ok && isSentinel(n.Sel.Name) {
				if dir, ok := imports[pkg.Name]; ok {
					used[dir+"."+n.Sel.Name] = true
				}
			}
			return true
		case *ast.Ident:
			if isSentinel(n.Name) && !slices.Contains(declarations, n) {
				used[file.dir+"."+n.Name] = true
			}
		}
		return true
	})
}

// Work that is left is an issue with a number, or it is done.
func TestNoWorkLeftInComments(t *testing.T) {
	left := regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b(\(#\d+\))?`)
	for _, file := range sourceFiles(t, ".go", ".md", ".yml", ".yaml", ".sh", "Makefile") {
		if strings.HasPrefix(file, "internal/repotest/") || strings.Contains("/"+file, "/testdata/") || file == "CONTRIBUTING.md" {
			continue // they name the words
		}
		content, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Error(err)
			continue
		}
		for i, line := range strings.Split(string(content), "\n") {
			for _, match := range left.FindAllStringSubmatch(line, -1) {
				if match[2] == "" {
					t.Errorf("%s:%d: %s without an issue number, %s(#123)", file, i+1, match[1], match[1])
				}
			}
		}
	}
}

func TestFilesThatMustExist(t *testing.T) {
	for _, file := range []string{
		"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "Makefile", ".ci/run", ".golangci.yml", "docs/architecture.md",
	} {
		info, err := os.Stat(filepath.Join(root, file))
		if err != nil {
			t.Error(err)
		} else if info.Size() == 0 {
			t.Errorf("%s is empty", file)
		}
	}
	if decisions, err := filepath.Glob(filepath.Join(root, "docs/decisions/[0-9][0-9][0-9][0-9]-*.md")); err != nil || len(decisions) == 0 {
		t.Errorf("got no decisions in docs/decisions (%v); want NNNN-title.md", err)
	}
}

// An example is read first and run once: both must be possible.
func TestExamplesAreExplainedAndRun(t *testing.T) {
	for _, dir := range sourceDirs(t) {
		if !strings.HasPrefix(dir, "examples/") || strings.Count(dir, "/") != 1 {
			continue
		}
		for _, pattern := range []string{"README.md", "*_test.go"} {
			if found, err := filepath.Glob(filepath.Join(root, dir, pattern)); err != nil || len(found) == 0 {
				t.Errorf("%s has no %s", dir, pattern)
			}
		}
	}
}

// TestNothingIsSkippedInSilence: what a machine lacks is told to testutil, which lets nothing be skipped in CI.
func TestNothingIsSkippedInSilence(t *testing.T) {
	lacking := regexp.MustCompile(`\.Skipf?\("(needs|no |missing|requires)`)
	for _, path := range sourceFiles(t, "_test.go") {
		b, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		for n, line := range strings.Split(string(b), "\n") {
			if lacking.MatchString(line) {
				t.Errorf("%s:%d: %s: use testutil.Unavailable or one of its Require functions", path, n+1, strings.TrimSpace(line))
			}
		}
	}
}

// TestDepsInstallsWhatTestsNeed compares the programs that tests ask for with those that scripts/deps.sh looks for.
func TestDepsInstallsWhatTestsNeed(t *testing.T) {
	deps, err := os.ReadFile(filepath.Join(root, "scripts/deps.sh"))
	if err != nil {
		t.Fatal(err)
	}
	call := regexp.MustCompile(`testutil\.RequireTool\(\w[\w.]*((?:, "[^"]+")+)\)`)
	word := regexp.MustCompile(`"([^"]+)"`)
	// beside others in a package that is installed for them, or in every Debian
	with := map[string]string{"iptables-legacy": "iptables-nft", "unshare": "nsenter", "setpriv": "nsenter", "wg": "wg-quick", "bash": "", "go": "", "weir-tool.exe": "", "no-such-program-here": ""}
	asked := 0
	for _, path := range sourceFiles(t, "_test.go") {
		b, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(string(b), -1) {
			for _, w := range word.FindAllStringSubmatch(m[1], -1) {
				name := w[1]
				if other, ok := with[name]; ok {
					name = other
				}
				asked++
				if name != "" && !strings.Contains(string(deps), " "+name+":") && !strings.Contains(string(deps), "\t"+name+":") {
					t.Errorf("%s asks for %s, which scripts/deps.sh does not install", path, w[1])
				}
			}
		}
	}
	if asked == 0 {
		t.Error("no test asks for a program: this test looks for the wrong thing")
	}
}
