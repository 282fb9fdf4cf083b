// Package testutil says what a test needs of the machine it runs on, and checks that it leaves no goroutine behind.
//
// A test that cannot run here skips and says why. Where WEIR_CI=1 is set (`make test` as root and .ci/run set it) the same
// situation is a failure: a green run there means that everything ran.
package testutil

import (
	"encoding/hex"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// CIVar is the environment variable that turns skips for want of root, tools or kernel features into failures.
const CIVar = "WEIR_CI"

// TB is the part of testing.TB that the harness uses. It is an interface of its own so that the demo, which is no test, can
// build the same labs.
//
//nolint:interfacebloat // it mirrors testing.TB, which cannot be implemented outside package testing
type TB interface {
	Helper()
	Name() string
	Cleanup(undo func())
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Failed() bool
}

// InCI says whether this run must not skip what the machine could do.
func InCI() bool { return os.Getenv(CIVar) == "1" }

// Unavailable ends the test because the machine lacks something: a skip, or a failure in CI.
func Unavailable(t TB, format string, args ...any) {
	t.Helper()
	if InCI() {
		t.Fatalf(format+" ("+CIVar+"=1: this may not be skipped)", args...)
		return
	}
	t.Skipf(format, args...)
}

// RequireRoot ends the test unless it runs as root on Linux. Other systems skip even in CI: what needs root is about Linux.
func RequireRoot(t TB) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skipf("needs Linux, this is %s", runtime.GOOS)
		return
	}
	if os.Geteuid() != 0 {
		Unavailable(t, "needs root")
	}
}

// RequireTool ends the test unless all these programs are in PATH. `make deps` installs what the project's tests use.
func RequireTool(t TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Unavailable(t, "needs the program %s (make deps): %v", name, err)
		}
	}
}

// Variant names one of the two iptables implementations. Both may be in use on one host.
type Variant string

// The variants, as the middle part of the programs' names (iptables-nft-save).
const (
	VariantNFT    Variant = "nft"
	VariantLegacy Variant = "legacy"
)

// RequireNFQUEUE ends the test unless this kernel can queue packets to user space. It asks in a network namespace that
// exists only for the question.
func RequireNFQUEUE(t TB) {
	t.Helper()
	RequireRoot(t)
	if err := probeNFQUEUE(); err != nil {
		Unavailable(t, "needs NFQUEUE in the kernel: %v", err)
	}
}

// RequireIPTables ends the test unless the variant and its IPv6 twin can load a rule that marks, matches on connmark and
// connlabel, and queues: what the nfq backend needs.
func RequireIPTables(t TB, v Variant) {
	t.Helper()
	RequireRule(t, v, "-t", "mangle", "-A", "OUTPUT", "-m", "connmark", "--mark", "1",
		"-m", "connlabel", "--label", "117", "-j", "NFQUEUE", "--queue-num", "1")
}

// RequireRule ends the test unless this kernel and this iptables variant accept the rule, for IPv4 and IPv6. The rule is
// loaded into a network namespace that exists only for the question.
func RequireRule(t TB, v Variant, rule ...string) {
	t.Helper()
	RequireRoot(t)
	for _, family := range []string{"iptables", "ip6tables"} {
		name := family + "-" + string(v)
		RequireTool(t, name)
		if out, err := probeCommand(name, rule...); err != nil {
			Unavailable(t, "needs %s %v: %v: %s", name, rule, err, out)
		}
	}
}

// Hex reads bytes that were typed by hand: hexadecimal digits with blanks between them, and behind a # what is for the reader.
func Hex(t TB, vector string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(vector) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("a vector is no hexadecimal: %v", err)
	}
	return b
}
