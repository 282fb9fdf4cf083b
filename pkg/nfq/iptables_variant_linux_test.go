package nfq

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/testutil"
)

func TestIntegrationBrokenVariant(t *testing.T) { isolated(t, VariantNFT, testBrokenVariant) }

// brokenScript says what iptables-nft says on a kernel without nf_tables.
const brokenScript = `#!/bin/sh
echo "$(basename "$0"): Could not fetch rule set generation id: Invalid argument" >&2
exit 4
`

// breaking is a shell that puts a program that does not work in the place of some variants, and becomes its arguments.
func breaking(script string, broken []Variant) []string {
	var b strings.Builder
	for _, v := range broken {
		b.WriteString("mount --bind " + script + ` "$(readlink -f /usr/sbin/iptables-` + v.String() + `)" && `)
	}
	return []string{"unshare", "--mount", "sh", "-ec", b.String() + `exec "$@"`, "sh"}
}

// testBrokenVariant checks that a variant that does not work is in nobody's way, unless there may be rules in it.
func testBrokenVariant(r *rig) {
	t := r.t
	testutil.RequireTool(t, "unshare")
	testutil.RequireIPTables(t, testutil.VariantLegacy)
	script := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(script, []byte(brokenScript), 0o755); err != nil {
		t.Fatal(err)
	}
	both := []Variant{VariantNFT, VariantLegacy}
	for _, test := range []struct {
		name    string
		broken  []Variant
		variant Variant
		works   Variant // VariantAuto if nothing does
		words   string
	}{
		// The first one, because the tables of the legacy variant stay once somebody has used them.
		{"legacy", both[1:], VariantAuto, VariantNFT, ""},
		{"nft", both[:1], VariantAuto, VariantLegacy, ""},
		{"not the configured one", both[:1], VariantLegacy, VariantLegacy, ""},
		{"the configured one", both[:1], VariantNFT, VariantAuto, "the nft variant of iptables does not work"},
		{"both", both, VariantAuto, VariantAuto, "the legacy variant of iptables does not work"},
	} {
		t.Run(test.name, func(t *testing.T) {
			prefix := breaking(script, test.broken)
			r.cfg.Variant = test.variant
			if test.works == VariantAuto {
				r.wantBroken(t, prefix, "", test.words)
				return
			}
			if held, err := holdsTables(r.installed(t, test.broken[0])); held || err != nil {
				t.Skipf("got %v, %v; this kernel has tables of the %s variant in every namespace", held, err, test.broken[0])
			}
			kill := r.child(t, prefix...)
			kill()
			if text := r.run("iptables-" + test.works.String() + "-save"); !strings.Contains(text, "WEIR") {
				t.Errorf("got no rules in the %s variant:\n%s", test.works, text)
			}
			cmd := r.childCommand(t, prefix...)
			cmd.Env = append(cmd.Env, childCleansVar+"=yes")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("clean up: %v\n%s", err, out)
			}
			if text := r.run("iptables-"+test.works.String()+"-save") + r.run("iptables-legacy-save"); strings.Contains(text, "WEIR") {
				t.Errorf("got rules left after the clean-up:\n%s", text)
			}
		})
	}
	t.Run("rules in it", func(t *testing.T) {
		r.run("ip6tables-nft", "-A", "OUTPUT", "-j", "ACCEPT")
		prefix := breaking(script, both[:1])
		for _, r.cfg.Variant = range []Variant{VariantAuto, VariantLegacy} {
			r.wantBroken(t, prefix, "", "the kernel may hold rules of it")
		}
		r.wantBroken(t, prefix, "clean up", "Could not fetch rule set")
	})
}

// installed returns the programs of a variant.
func (r *rig) installed(t *testing.T, v Variant) []tools {
	t.Helper()
	var list []tools
	for _, f := range []family{family4, family6} {
		tool, ok := findTools(v, f)
		if !ok {
			t.Fatalf("no %s programs of %s", v, f)
		}
		list = append(list, tool)
	}
	return list
}

// wantBroken wants a start, or a clean-up, to fail and to say why.
func (r *rig) wantBroken(t *testing.T, prefix []string, cleans, words string) {
	t.Helper()
	cmd := r.childCommand(t, prefix...)
	cmd.Env = append(cmd.Env, childCleansVar+"="+cleans)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("got no error; want one:\n%s", out)
	}
	want := []string{words}
	if cleans == "" {
		want = append(want, "child is ErrNoTool", "child is ErrNotInterceptable")
	}
	for _, w := range want {
		if !strings.Contains(string(out), w) {
			t.Errorf("got no %q; want it in\n%s", w, out)
		}
	}
}
