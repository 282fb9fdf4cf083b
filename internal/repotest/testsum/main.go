// Command testsum reads `go test -json` and prints what a person needs: one line for each package, everything that failing
// tests said, what was skipped and why, and as the last line how many tests passed, failed and were skipped.
//
//	go test -json ./... | go run ./internal/repotest/testsum
//
// It ends with 1 when a test failed, when a package did not build, and when nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	ok, err := summarize(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// event is what test2json writes (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build events
	Test       string
	Output     string
}

// id names a test, or with an empty test its package.
type id struct{ pkg, test string }

// summary collects the events of a run.
type summary struct {
	w                       io.Writer
	output                  map[id][]string
	running                 map[id]bool
	skips                   []string
	passed, failed, skipped int
	packageFailed           bool
}

// summarize copies the readable part of r to w and says whether all is well.
func summarize(r io.Reader, w io.Writer) (bool, error) {
	s := &summary{w: w, output: map[id][]string{}, running: map[id]bool{}}
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			s.add(line)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return false, fmt.Errorf("read: %w", err)
		}
	}
	s.finish()
	return s.failed == 0 && !s.packageFailed && s.passed > 0, nil
}

func (s *summary) add(line string) {
	var e event
	if json.Unmarshal([]byte(line), &e) != nil {
		fmt.Fprint(s.w, line) // not from a test: go itself, or make
		return
	}
	at := id{e.Package, e.Test}
	switch e.Action {
	case "run":
		s.running[at] = true
	case "output":
		s.output[at] = append(s.output[at], e.Output)
	case "build-output":
		fmt.Fprint(s.w, e.Output)
	case "pass", "fail", "skip":
		delete(s.running, at)
		if e.Test == "" {
			s.endPackage(e)
		} else {
			s.endTest(e)
		}
	}
}

func (s *summary) endTest(e event) {
	at := id{e.Package, e.Test}
	switch e.Action {
	case "pass":
		s.passed++
	case "skip":
		s.skipped++
		s.skips = append(s.skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(s.output[at])))
	case "fail":
		s.failed++
		fmt.Fprintf(s.w, "%s", strings.Join(s.output[at], ""))
	}
	delete(s.output, at)
}

func (s *summary) endPackage(e event) {
	at := id{e.Package, ""}
	if e.Action == "fail" {
		s.packageFailed = true
		s.unfinished(e.Package)
		fmt.Fprint(s.w, strings.Join(s.output[at], ""))
	} else if lines := s.output[at]; e.Action == "pass" && len(lines) > 0 {
		fmt.Fprint(s.w, lines[len(lines)-1]) // "ok  	package	time"
	}
	delete(s.output, at)
}

// unfinished reports the tests that were running when their process died: of a panic, or of the time limit.
func (s *summary) unfinished(pkg string) {
	for at := range s.running {
		if at.pkg == pkg {
			s.failed++
			fmt.Fprintf(s.w, "=== did not end: %s\n%s", at.test, strings.Join(s.output[at], ""))
			delete(s.running, at)
		}
	}
}

func (s *summary) finish() {
	if len(s.skips) > 0 {
		fmt.Fprintf(s.w, "skipped:\n  %s\n", strings.Join(s.skips, "\n  "))
	}
	if s.packageFailed && s.failed == 0 {
		s.failed = 1 // a package that did not build, or whose TestMain failed
	}
	fmt.Fprintf(s.w, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
}

// reason finds what t.Skip said: the last line that is not the testing package's own.
func reason(output []string) string {
	for i := len(output) - 1; i >= 0; i-- {
		line := strings.TrimSpace(output[i])
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			return line
		}
	}
	return "no reason"
}
