package repotest_test

import (
	"cmp"
	"slices"
	"strings"
	"testing"
)

// A layer may import lower layers only. Within a layer nothing imports anything, but a sub-package may import its parent.
type layer int

const (
	seams    layer = iota // below everything: they know the system, not firewalls
	layer0                // words of their own
	layer1                // packets and names
	layer2                // contracts
	codecs                // pure codecs that several backends share
	shared                // the rest of what several backends share
	layer3                // backends and knowledge
	layer4                // what decides and what carries it out
	wiring                // the daemon's inside
	commands              // what has a main function
	harness               // imported by tests only
)

// layers is the map of the tree: docs/architecture.md draws it. A package belongs to the entry with the longest path that contains it,
// so a sub-package needs no entry unless its layer is another. Entries for packages to come are fine; a package without an
// entry is not: decide where it belongs, and write it here.
//
//nolint:gochecknoglobals // a table that nobody writes
var layers = map[string]layer{
	"internal/platform": seams,
	"internal/winsvc":   seams,
	"internal/winpipe":  seams,
	"internal/varlink":  seams,
	"internal/kextdev":  seams,
	"internal/etw":      seams,
	"internal/hostfile": seams,

	"pkg/verdict":  layer0,
	"pkg/netscope": layer0,
	"pkg/netif":    layer0,
	"pkg/dnsmon":   layer0,
	"pkg/module":   layer0,

	"pkg/packet":     layer1,
	"pkg/names":      layer1,
	"pkg/filterlist": layer1,

	"pkg/intercept": layer2,
	"pkg/conn":      layer2,

	"internal/kextwire": codecs,
	"internal/kextcore": shared,
	"pkg/appid":         shared,

	"pkg/nfq":        layer3,
	"pkg/kextv1":     layer3,
	"pkg/kextv2":     layer3,
	"pkg/extverdict": layer3,
	"pkg/connstore":  layer3,
	"pkg/rules":      layer3,
	"pkg/procinfo":   layer3,

	"pkg/firewall":    layer4,
	"pkg/splittunnel": layer4,
	"pkg/nameserver":  layer4,
	"pkg/ivpn":        layer4,
	"pkg/kext":        layer4,

	"internal/refd": wiring,

	"cmd":              commands,
	"examples":         commands,
	"internal/demo":    commands,
	"internal/bench":   commands,
	"internal/e2e":     commands,
	"internal/version": seams,

	"internal/ivpntest": harness,
	"internal/testnet":  harness,
	"internal/testutil": harness,
	"internal/kexttest": harness,
	"internal/repotest": harness,
	"internal/winerig":  harness,
	"internal/tools":    harness,
}

// free are the trees whose packages may import each other: the inside of one program.
//
//nolint:gochecknoglobals // a table that nobody writes
var free = []string{"internal/refd"}

// mayUseHarness are the programs that build labs without being tests.
//
//nolint:gochecknoglobals // a table that nobody writes
var mayUseHarness = []string{"internal/demo", "internal/bench", "internal/e2e"}

// entry finds a package's entry in the map: the longest one that contains it.
func entry(pkg string) (string, bool) {
	for dir := pkg; dir != "."; dir = parent(dir) {
		if _, ok := layers[dir]; ok {
			return dir, true
		}
	}
	return "", false
}

func parent(pkg string) string {
	if i := strings.LastIndexByte(pkg, '/'); i >= 0 {
		return pkg[:i]
	}
	return "."
}

// inside says whether a package is dir or below it.
func inside(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

// forbidden says why one package may not import another; empty if it may.
func forbidden(from, to string) string {
	fromEntry, known := entry(from)
	toEntry, toKnown := entry(to)
	switch {
	case !known || !toKnown:
		return "" // TestEveryPackageHasALayer says so
	case layers[toEntry] == harness && layers[fromEntry] != harness:
		if slices.ContainsFunc(mayUseHarness, func(dir string) bool { return inside(from, dir) }) {
			return ""
		}
		if strings.HasSuffix(from, "test") && to == "internal/testutil" {
			return "" // intercepttest and the like: suites that run in tests of other packages
		}
		return "the test harness is for tests"
	case inside(from, "examples") && !inside(to, "pkg"):
		return "examples show what others can do, and others have pkg/ only"
	case slices.ContainsFunc(free, func(dir string) bool { return inside(from, dir) && inside(to, dir) }):
		return ""
	case inside(from, to):
		return "" // a sub-package and its parent
	case strings.HasPrefix(to, from+"/internal/"):
		return "" // its own inside
	case layers[toEntry] == harness:
		return ""
	case layers[toEntry] >= layers[fromEntry]:
		return "imports point to lower layers only"
	}
	return ""
}

func TestImportsFollowTheLayers(t *testing.T) {
	for _, goos := range systems {
		t.Run(goos, func(t *testing.T) {
			t.Parallel()
			for _, p := range list(t, goos) {
				for _, imported := range p.Imports {
					to, ours := strings.CutPrefix(imported, modulePath+"/")
					if !ours {
						continue
					}
					if why := forbidden(p.rel(), to); why != "" {
						t.Errorf("%s imports %s: %s", p.rel(), to, why)
					}
				}
			}
		})
	}
}

func TestEveryPackageHasALayer(t *testing.T) {
	for _, dir := range sourceDirs(t) {
		if _, ok := entry(dir); !ok && dir != "." {
			t.Errorf("%s has no entry in the layer map (internal/repotest/layers_test.go)", dir)
		}
	}
}

func TestForbidden(t *testing.T) {
	for _, test := range []struct {
		from, to string
		ok       bool
	}{
		{"pkg/packet", "pkg/verdict", true},
		{"pkg/verdict", "pkg/packet", false},
		{"pkg/packet", "pkg/names", false},
		{"pkg/packet/layers", "pkg/packet", true},
		{"pkg/packet", "pkg/packet/layers", false},
		{"pkg/netif/netiftest", "pkg/netif", true},
		{"pkg/splittunnel/proxy", "pkg/splittunnel/kroute", false},
		{"pkg/nfq", "pkg/nfq/internal/ruleset", true},
		{"pkg/nfq", "pkg/firewall", false},
		{"pkg/nfq", "internal/platform", true},
		{"pkg/kextv1", "internal/kextwire", true},
		{"pkg/intercept", "internal/kextwire", false},
		{"internal/refd/api", "internal/refd/config", true},
		{"internal/refd/api", "cmd/refd", false},
		{"cmd/refd", "internal/refd", true},
		{"examples/query", "pkg/connstore", true},
		{"examples/query", "internal/refd", false},
		{"pkg/nfq", "internal/testnet", false},
		{"pkg/intercept/intercepttest", "internal/testutil", true},
		{"pkg/intercept/intercepttest", "internal/testnet", false},
		{"internal/testnet", "internal/testutil", true},
		{"internal/demo", "internal/testnet", true},
	} {
		if why := forbidden(test.from, test.to); (why == "") != test.ok {
			t.Errorf("%s imports %s: got %q; want allowed: %v", test.from, test.to, why, test.ok)
		}
	}
}

// The order of the layers is what docs/architecture.md says; a typing error here would open a door.
func TestLayersOfTheDesign(t *testing.T) {
	order := []string{
		"internal/platform", "pkg/verdict", "pkg/packet", "pkg/conn", "internal/kextwire", "pkg/nfq", "pkg/firewall",
		"internal/refd", "cmd",
	}
	if !slices.IsSortedFunc(order, func(a, b string) int { return cmp.Compare(layers[a], layers[b]) }) {
		t.Errorf("got another order of layers; want %v", order)
	}
}
