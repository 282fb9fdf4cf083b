package testnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/weirfw/weir/internal/testutil"
)

// A snapshot's commands only read. iptables -S and -L are not among them: the legacy ones create the tables they list.
//
//nolint:gochecknoglobals // tables that nobody writes
var (
	snapshotCommands = [][]string{
		{"iptables-nft-save"},
		{"ip6tables-nft-save"},
		{"iptables-legacy-save"},
		{"ip6tables-legacy-save"},
		{"nft", "-s", "list", "ruleset"},
		{"ip", "-o", "link", "show"},
		{"ip", "-o", "address", "show"},
		{"ip", "rule", "show"},
		{"ip", "-6", "rule", "show"},
		{"ip", "route", "show", "table", "all"},
		{"ip", "-6", "route", "show", "table", "all"},
	}
	snapshotFiles = []string{"net/ip_tables_names", "net/ip6_tables_names"}

	// volatile are the kernel parameters that change by themselves.
	volatile = []string{"net/netfilter/nf_conntrack_count", "net/ipv4/tcp_fastopen_key", "net/core/netdev_rss_key"}

	counters    = regexp.MustCompile(`\[\d+:\d+\]`)
	lifetimes   = regexp.MustCompile(`(valid_lft|preferred_lft|expires) \S+`)
	commentLine = regexp.MustCompile(`(?m)^#.*\n`)
	// peerGone is what ip says while somebody else's namespace goes away.
	peerGone = regexp.MustCompile(`(?m)^Error: Peer netns reference is invalid\.\n`)
)

// Snapshot is the state of the host's network as text: firewall rules of both iptables variants and of nftables (without
// counters), links, addresses, policy rules, routes of all tables, and all of /proc/sys/net. Two snapshots are equal when
// what was done between them was undone.
func (h *Host) Snapshot(t testutil.TB) string {
	t.Helper()
	return snapshot(t, h.Try, h.Do)
}

// MachineSnapshot is Snapshot for the network namespace of the test itself. It changes nothing.
func MachineSnapshot(t testutil.TB) string {
	t.Helper()
	return snapshot(t, run, func(fn func() error) error { return fn() })
}

func snapshot(t testutil.TB, run func(string, ...string) (string, error), do func(func() error) error) string {
	t.Helper()
	var text strings.Builder
	text.WriteString(withoutNoise(snapshotPrograms(t, run)))
	err := do(func() error {
		for _, file := range snapshotFiles {
			// Absent when the kernel has no legacy tables, and then there is nothing to compare.
			content, _ := os.ReadFile(filepath.Join("/proc/thread-self", file)) //nolint:errcheck // see above
			names := strings.Fields(string(content))
			slices.Sort(names)
			fmt.Fprintf(&text, "== %s\n%s\n", file, strings.Join(names, "\n"))
		}
		text.WriteString("== sysctl\n")
		return writeSysctls(&text)
	})
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	return text.String()
}

// snapshotPrograms runs the commands in one go: entering a namespace for each would cost more than they do.
func snapshotPrograms(t testutil.TB, run func(string, ...string) (string, error)) string {
	t.Helper()
	var script strings.Builder
	for _, command := range snapshotCommands {
		line := strings.Join(command, " ")
		fmt.Fprintf(&script, "echo '== %s'\n", line)
		if missing(command[0]) {
			script.WriteString("echo '(not installed)'\n")
			continue
		}
		// Warnings come in the middle of lines, and not each time: of missing names for labels, of namespaces that go away.
		fmt.Fprintf(&script, "%s 2>/dev/null || exit\n", line)
	}
	out, err := run("sh", "-c", script.String())
	if err != nil {
		last := out[strings.LastIndex(out, "== ")+len("== "):]
		line, _, _ := strings.Cut(last, "\n")
		words := strings.Fields(line)
		loud, _ := run(words[0], words[1:]...) //nolint:errcheck // it has failed before; now for its words
		t.Fatalf("snapshot: %s: %v\n%s", line, err, loud)
	}
	return out
}

// missing says whether a program is not installed.
func missing(name string) bool {
	_, err := exec.LookPath(name)
	return errors.Is(err, exec.ErrNotFound)
}

func withoutNoise(out string) string {
	out = counters.ReplaceAllString(out, "[0:0]")
	out = lifetimes.ReplaceAllString(out, "$1 -")
	out = peerGone.ReplaceAllString(out, "")
	return commentLine.ReplaceAllString(out, "")
}

// writeSysctls runs inside the namespace: /proc/sys/net shows that of the thread that reads it.
func writeSysctls(text *strings.Builder) error {
	const root = "/proc/sys/"
	return filepath.WalkDir(root+"net", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return nil
		}
		key := strings.TrimPrefix(path, root)
		value, err := os.ReadFile(path)
		if err != nil || slices.Contains(volatile, key) {
			return nil //nolint:nilerr // some can only be written, some have no value yet (stable_secret): nothing to compare
		}
		fmt.Fprintf(text, "%s = %s\n", key, strings.TrimSpace(string(value)))
		return nil
	})
}

// Diff lists the lines that only one of two snapshots has, with - and +; empty if they are equal.
func Diff(before, after string) string {
	if before == after {
		return ""
	}
	var diff strings.Builder
	list := func(sign, text, other string) {
		known := map[string]int{}
		for line := range strings.Lines(other) {
			known[line]++
		}
		section := ""
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "== ") {
				section = strings.TrimSpace(line)
			}
			if known[line]--; known[line] < 0 {
				fmt.Fprintf(&diff, "%s %s: %s", sign, section, line)
			}
		}
	}
	list("-", before, after)
	list("+", after, before)
	if diff.Len() == 0 {
		return "the same lines in another order\n"
	}
	return diff.String()
}
