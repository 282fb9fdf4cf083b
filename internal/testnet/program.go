package testnet

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/weirfw/weir/internal/testutil"
)

// buildTimeout bounds one build; the first one on a cold cache compiles the standard library too.
const buildTimeout = 5 * time.Minute

// programs are those this test binary has built. The files have no name any more and vanish with the process, however it
// ends; each lab gets a copy with a name.
//
//nolint:gochecknoglobals // once per process, over all labs
var programs = struct {
	mu    sync.Mutex // guards built; held while building: two cores gain nothing from building twice
	built map[string]*os.File
}{built: map[string]*os.File{}}

// Program builds a Go program and returns its path, in the lab's directory. The package is as for go build, from the
// directory of the test: "./testdata/prog/x", or an import path. It is built once per test binary, without the race
// detector and without cgo unless flags say otherwise.
func (l *Lab) Program(t testutil.TB, pkg string, flags ...string) string {
	t.Helper()
	path, err := l.program(pkg, flags)
	if err != nil {
		t.Fatalf("testnet: program %s: %v", pkg, err)
	}
	return path
}

func (l *Lab) program(pkg string, flags []string) (string, error) {
	programs.mu.Lock()
	defer programs.mu.Unlock()
	key := strings.Join(append([]string{pkg}, flags...), "\x00")
	built, ok := programs.built[key]
	if !ok {
		var err error
		if built, err = buildProgram(pkg, flags); err != nil {
			return "", err
		}
		programs.built[key] = built
	}
	path := filepath.Join(l.dir, filepath.Base(pkg))
	if len(flags) > 0 {
		path += fmt.Sprintf("-%x", flags) // not the same program as without
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, copyFile(path, built)
}

// buildProgram builds into a file, opens it and removes its name.
func buildProgram(pkg string, flags []string) (built *os.File, err error) {
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-build-", prefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what stays is swept by the next New
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	out := filepath.Join(dir, "program")
	args := append([]string{"build"}, flags...) // -C has to come first
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", out, pkg)...)
	cmd.Env = append(os.Environ(), "GOOS=", "GOARCH=", "GOFLAGS=-buildvcs=false")
	if !strings.Contains(strings.Join(flags, " "), "-race") {
		// as the Makefile builds, so that the build cache has most of it
		cmd.Env = append(cmd.Env, "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false -trimpath")
	}
	if output, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, output)
	}
	return os.Open(out)
}

// copyFile writes a program to a new file. It is written by another process: a child forked meanwhile by this one would
// inherit the open file for a moment, and running the program would fail with "text file busy".
func copyFile(path string, from *os.File) error {
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", `cat >"$1" && chmod 755 "$1"`, "sh", path)
	cmd.Stdin = from
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("copy: %w: %s", err, out)
	}
	return nil
}
