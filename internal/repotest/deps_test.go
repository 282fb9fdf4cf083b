package repotest_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// budgets bound what importing a package pulls in: packages of other modules, transitively. Raising a number is a decision
// for review; a package that is not listed has no bound. The packages need not exist yet.
//
//nolint:gochecknoglobals // a table that nobody writes
var budgets = map[string]int{
	"pkg/verdict":    0,
	"pkg/netscope":   0,
	"pkg/module":     0,
	"pkg/packet":     0,
	"pkg/intercept":  0,
	"pkg/conn":       0,
	"pkg/extverdict": 0,
	"pkg/connstore":  0,
	"pkg/rules":      0,
	"pkg/firewall":   0,
	"pkg/procinfo":   1, // x/sys
	"pkg/netif":      7, // netlink
	"pkg/nfq":        8, // netlink, go-iptables
	"pkg/nameserver": 7, // miekg/dns, and what its UDP server takes of x/net and x/sys
	"pkg/kextv1":     0,
	"pkg/kextv2":     0,
	"pkg/kext":       1, // x/sys, on Windows
}

// alone are packages that may not even pull in others of ours.
//
//nolint:gochecknoglobals // a table that nobody writes
var alone = []string{"pkg/verdict", "pkg/netscope", "pkg/module"}

func TestDependencyBudgets(t *testing.T) {
	for pkg, budget := range budgets {
		if !slices.Contains(sourceDirs(t), pkg) {
			continue
		}
		for _, goos := range systems {
			var others, ours []string
			for _, dep := range list(t, goos, "-deps", "./"+pkg) {
				switch {
				case dep.Standard || dep.rel() == pkg:
				case dep.Module != nil && dep.Module.Path == modulePath:
					ours = append(ours, dep.ImportPath)
				default:
					others = append(others, dep.ImportPath)
				}
			}
			if len(others) > budget {
				t.Errorf("%s on %s: got %d packages of other modules; want at most %d: %v", pkg, goos, len(others), budget, others)
			}
			if slices.Contains(alone, pkg) && len(ours) > 0 {
				t.Errorf("%s on %s: got imports of %v; want none", pkg, goos, ours)
			}
		}
	}
}

// forbiddenImports says where a package of another module may be imported by code that is not a test.
//
//nolint:gochecknoglobals // a table that nobody writes
var forbiddenImports = []struct {
	module string
	only   []string
	why    string
}{
	{"github.com/google/gopacket", []string{"pkg/packet/layers"}, "it is an order of magnitude slower than the packet path allows"},
	{"github.com/stretchr/testify", nil, "it is for tests"},
	{"github.com/google/go-cmp", nil, "it is for tests"},
	{"github.com/florianl/go-nfqueue", []string{"pkg/nfq/gonfqueue", "internal/bench"}, "it is a peer, not a part"},
	{"github.com/coreos/go-iptables", []string{"pkg/nfq", "pkg/splittunnel"}, "rules load by iptables-restore, in one transaction"},
	{
		"github.com/miekg/dns", []string{"pkg/dnsmon", "pkg/firewall/naming", "pkg/nameserver", "internal/testnet"},
		"packages that decide get names, not messages",
	},
	{"github.com/godbus/dbus", []string{"internal/refd", "cmd"}, "desktops belong to the daemon"},
	{"modernc.org/sqlite", []string{"pkg/connstore/sqlitestore"}, "history is optional, and there is one way to write it"},
	{"github.com/alecthomas/kong", []string{"internal/refd", "cmd"}, "flags belong to the daemon"},
	{"github.com/goccy/go-yaml", []string{"internal/refd", "cmd"}, "files belong to the daemon"},
}

func TestForbiddenImports(t *testing.T) {
	for _, goos := range systems {
		for _, p := range list(t, goos) {
			for _, rule := range forbiddenImports {
				allowed := slices.ContainsFunc(rule.only, func(dir string) bool { return inside(p.rel(), dir) })
				imports := slices.ContainsFunc(p.Imports, func(path string) bool { return inside(path, rule.module) })
				if imports && !allowed {
					t.Errorf("%s imports %s on %s: %s", p.rel(), rule.module, goos, rule.why)
				}
			}
		}
	}
}

// incompatible are modules under the GPL or a licence like it, close to what we do. weir is Apache-2.0: none may be linked.
// The tools in internal/tools have a go.mod of their own and are run, not linked; golangci-lint is under the GPL.
//
//nolint:gochecknoglobals // a table that nobody writes
var incompatible = []string{
	"github.com/safing/",
	"github.com/evilsocket/opensnitch",
	"github.com/sagernet/",
	"github.com/metacubex/",
	"github.com/dreamacro/",
	"github.com/ivpn/",
	"github.com/mullvad/",
	"github.com/adguardteam/adguardhome",
	"github.com/subgraph/",
	"github.com/eycorsican/go-tun2socks",
	"github.com/xjasonlyu/tun2socks",
	"github.com/golangci/golangci-lint",
	"github.com/aquasecurity/tracee/gpl",
}

func TestNoIncompatibleLicences(t *testing.T) {
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(strings.ToLower(string(sum))) {
		for _, module := range incompatible {
			if strings.HasPrefix(line, module) {
				t.Errorf("go.sum has %s, whose licence does not fit Apache-2.0", strings.Fields(line)[0])
			}
		}
	}
}
