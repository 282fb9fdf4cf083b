package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const modulePath = "github.com/weirfw/weir/"

//nolint:gochecknoglobals // a constant that filepath makes
var listFile = filepath.Join("internal", "winerig", "skips.txt")

// exception is a line of the list: a test that is skipped, or without a test a package that is not run.
type exception struct{ pkg, test, why string }

// readList reads lines of "package Test: why" and "package: why".
func readList(file string) ([]exception, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("list of skipped tests: %w", err)
	}
	var list []exception
	for line := range bytes.Lines(content) {
		text := strings.TrimSpace(string(line))
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		what, why, ok := strings.Cut(text, ": ")
		if !ok || why == "" {
			return nil, fmt.Errorf("%s: no reason: %s", file, text)
		}
		pkg, test, _ := strings.Cut(what, " ")
		list = append(list, exception{pkg, test, why})
	}
	return list, nil
}

// packages returns those to run: of the patterns, or of all if there are none, what has tests but the exceptions, which have to exist.
func (r *runner) packages(ctx context.Context, list []exception, patterns []string) ([]string, error) {
	all := len(patterns) == 0
	if all {
		patterns = []string{"./..."}
	}
	args := append([]string{"list", "-f", `{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}`}, patterns...)
	out, err := r.command(ctx, "go", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w", err)
	}
	left := map[string]bool{}
	for _, e := range list {
		if e.test == "" {
			left[modulePath+e.pkg] = true
		}
	}
	var run []string
	for path := range strings.FieldsSeq(string(out)) {
		if left[path] {
			delete(left, path)
			continue
		}
		run = append(run, path)
	}
	for path := range left {
		if all {
			return nil, fmt.Errorf("%s: there is no such package: %s", listFile, path)
		}
	}
	return run, nil
}
