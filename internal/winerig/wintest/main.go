// Command wintest runs the Windows test binaries of packages under Wine, in a network namespace with two uplinks if it is root.
// scripts/test-windows.sh calls it inside the rig.
//
//	wintest [-race PACKAGES] [PACKAGES]
//
// Without packages it is all of them. It writes the events of `go test -json` to standard output and ends with 1 if a test failed, or
// if other tests of the packages were skipped than internal/winerig/skips.txt lists.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/internal/winerig"
)

func main() {
	race := flag.String("race", "", "packages, separated by commas, to run with the race detector as well")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := inLab(func(enter []string, env []string) error {
		r := &runner{rig: os.Getenv(winerig.DirVar), enter: enter, env: env}
		return r.run(ctx, flag.Args(), *race)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "test-windows:", err)
		tellFailure(err)
		os.Exit(1)
	}
}

// tellFailure writes what is wrong as a test that failed: who counts tests has to count it.
func tellFailure(err error) {
	for _, action := range []string{"output", "fail"} {
		e := map[string]string{"Action": action, "Package": systemName, "Test": "TestWindows", "Output": err.Error() + "\n"}
		if line, jerr := json.Marshal(e); jerr == nil {
			fmt.Println(string(line))
		}
	}
}

// systemName goes before the packages in what is written: the same ones are tested on Linux.
const systemName = "windows"

// runner runs commands inside the lab.
type runner struct {
	rig   string
	enter []string // what goes before a command
	env   []string
}

func (r *runner) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	words := append(append([]string(nil), r.enter...), append([]string{name}, args...)...)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	// Interrupted, go test ends its children; killed, it could not.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	// Compiled as the Makefile compiles, so that what `make static` left in the build cache serves here. The list says what may be
	// skipped, and not WEIR_CI.
	cmd.Env = append(append(os.Environ(), r.env...), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0",
		"GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -trimpath"), testutil.CIVar+"=")
	cmd.Stderr = os.Stderr
	return cmd
}

// run tests the packages, and what they skipped; those of race with the race detector as well.
func (r *runner) run(ctx context.Context, packages []string, race string) error {
	if r.rig == "" {
		return fmt.Errorf("%s is not set: call scripts/test-windows.sh", winerig.DirVar)
	}
	// Wine's server reads the interfaces of its own namespace: one that runs already may be in another. It must not end between
	// two test binaries, and not keep our output open.
	_ = r.command(ctx, "wineserver", "-k").Run() // there is none, most of the time
	for _, words := range [][]string{{"wineserver", "-p"}, {"wine", "cmd", "/c", "rem"}} {
		cmd := r.command(ctx, words[0], words[1:]...)
		cmd.Stderr = nil
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("start Wine: %w", err)
		}
	}
	defer func() {
		_ = r.command(context.Background(), "wineserver", "-k").Run() // it may have ended
	}()

	if err := r.buildRefd(ctx); err != nil {
		return err
	}
	list, err := readList(listFile)
	if err != nil {
		return err
	}
	ran, err := r.packages(ctx, list, packages)
	if err != nil {
		return err
	}
	skips := newSkips()
	err = r.test(ctx, skips, nil, ran)
	if race != "" {
		err = errors.Join(err, r.test(ctx, nil, raceFlags(), strings.Split(race, ",")))
	}
	if len(r.enter) == 0 {
		return err // without the lab more is skipped than the list says
	}
	return errors.Join(err, skips.check(list, ran))
}

// raceFlags are those of go test with the race detector, which also checks pointers. It leaves out two findings that are not ours to
// mend: os.File counts for a pipe, too, how far it is, which nothing reads, but reads and writes of a pipe may meet (internal/poll in Go
// 1.26); and package svc walks a list of processes whose entries Wine does not align.
func raceFlags() []string {
	return []string{"-race", "-gcflags=internal/poll=-race=false", "-gcflags=golang.org/x/sys/windows/svc=-d=checkptr=0"}
}

// buildRefd builds the program that end-to-end tests run, into the rig.
func (r *runner) buildRefd(ctx context.Context) error {
	cmd := r.command(ctx, "go", "build", "-ldflags", "-s -w", "-o", filepath.Join(r.rig, "refd.exe"), "./cmd/refd")
	cmd.Stdout = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build refd: %w", err)
	}
	return nil
}

func (r *runner) test(ctx context.Context, skips *skips, flags, packages []string) error {
	// `make vet` looks at all of it; who debugs a test binary links it by hand.
	args := append([]string{
		"test", "-json", "-vet=off", "-count=1", "-shuffle=on", "-p", "2", "-timeout", "8m", "-ldflags", "-s -w", "-exec", "wine",
	}, flags...)
	cmd := r.command(ctx, "go", append(args, packages...)...)
	if len(flags) > 0 {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1", "CC=x86_64-w64-mingw32-gcc")
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("go test: %w", err)
	}
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		skips.note(line)
		line = bytes.Replace(line, []byte(`"Package":"`), []byte(`"Package":"`+systemName+`:`), 1)
		if _, err := os.Stdout.Write(line); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the tests' output: %w", err)
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("go test: %w", err)
	}
	return nil
}

// skips are the tests that were skipped.
type skips struct {
	said    map[string]string // what a test said last
	skipped map[string]string // test -> why
}

func newSkips() *skips {
	return &skips{said: map[string]string{}, skipped: map[string]string{}}
}

func (s *skips) note(line []byte) {
	var e struct{ Action, Package, Test, Output string }
	if s == nil || json.Unmarshal(line, &e) != nil || e.Test == "" {
		return
	}
	test := strings.TrimPrefix(e.Package, modulePath) + " " + e.Test
	switch e.Action {
	case "output":
		if text := strings.TrimSpace(e.Output); text != "" && !strings.HasPrefix(text, "---") && !strings.HasPrefix(text, "===") {
			s.said[test] = text
		}
	case "skip":
		s.skipped[test] = s.said[test]
	}
}

// check compares what was skipped with the list, as far as it is about packages that ran.
func (s *skips) check(list []exception, ran []string) error {
	var problems []string
	listed := map[string]bool{}
	for _, e := range list {
		if e.test == "" || !slices.Contains(ran, modulePath+e.pkg) {
			continue
		}
		name := e.pkg + " " + e.test
		listed[name] = true
		switch said, skipped := s.skipped[name]; {
		case !skipped:
			problems = append(problems, "listed and not skipped: "+name)
		case !strings.Contains(said, e.why):
			problems = append(problems, fmt.Sprintf("%s: listed because of %q, skipped because of %q", name, e.why, said))
		}
	}
	for test, why := range s.skipped {
		// Tests of the parts for Linux stand beside others.
		if !listed[test] && !strings.Contains(why, "needs Linux, this is windows") {
			problems = append(problems, "skipped and not listed: "+test+": "+why)
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("%s:\n  %s", listFile, strings.Join(problems, "\n  "))
	}
	return nil
}
