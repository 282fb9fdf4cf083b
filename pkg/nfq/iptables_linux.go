package nfq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// toolDirs is where programs are looked for. The caller's PATH is not asked: this runs as root.
//
//nolint:gochecknoglobals // a table that nobody writes
var toolDirs = []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin", "/run/current-system/sw/bin"}

// findTool returns the path of a program in toolDirs.
func findTool(name string) (string, bool) {
	for _, dir := range toolDirs {
		path := filepath.Join(dir, name)
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
			return path, true
		}
	}
	return "", false
}

// toolError is what a program said when it failed.
type toolError struct {
	path   string
	stderr string
	err    error
}

// Error returns the program's own words.
func (e *toolError) Error() string {
	if e.stderr == "" {
		return filepath.Base(e.path) + ": " + e.err.Error()
	}
	return filepath.Base(e.path) + ": " + e.err.Error() + ": " + e.stderr
}

// Unwrap returns how it ended.
func (e *toolError) Unwrap() error { return e.err }

// runTool runs a program with an environment of its own and returns what it prints.
func runTool(ctx context.Context, stdin, path string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=" + strings.Join(toolDirs, ":"), "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second // a child of it, such as modprobe, may hold the pipes
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(withoutWarnings(stderr.String()))
		return "", &toolError{path: path, stderr: said, err: errors.Join(err, ctx.Err())}
	}
	return stdout.String(), nil
}

// withoutWarnings drops what iptables says about files that need not be there.
func withoutWarnings(stderr string) string {
	var kept []string
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "Warning: ") && !strings.HasPrefix(line, "# Warning: ") {
			kept = append(kept, strings.TrimSpace(line))
		}
	}
	return strings.Join(kept, "; ")
}

// tools are the programs of one variant and family.
type tools struct {
	family        family
	variant       Variant
	save, restore string // paths
}

// lockWait is how long to wait for others who change the rules, in seconds.
const lockWait = "5"

// read returns the rules of all tables that exist. It creates none, which -S and -L of the legacy variant would.
func (t tools) read(ctx context.Context) (saved, error) {
	text, err := runTool(ctx, "", t.save)
	if err != nil {
		return nil, fmt.Errorf("read %s rules: %w", t.family, err)
	}
	return parseSave(text), nil
}

// apply changes the rules by a script, atomically for each table of it.
func (t tools) apply(ctx context.Context, script string) error {
	if script == "" {
		return nil
	}
	if _, err := runTool(ctx, script, t.restore, "--noflush", "--wait="+lockWait); err != nil {
		return fmt.Errorf("change %s rules: %w", t.family, err)
	}
	return nil
}

// load brings the rules on the host in line with rs and returns what was wrong before. It tries again when other software
// changed rules between its look and its change.
func (t tools) load(ctx context.Context, rs ruleset, canon saved) ([]string, error) {
	var errs []error
	for range loadTries {
		now, err := t.read(ctx)
		if err != nil {
			return nil, err
		}
		script, wrong := rs.loadScript(now, canon)
		if err := t.apply(ctx, script); err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		return wrong, nil
	}
	return nil, errors.Join(errs...)
}

// loadTries bounds the races with other software that are put up with.
const loadTries = 4
