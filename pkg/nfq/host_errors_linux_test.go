package nfq

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/testutil"
)

func TestIntegrationHostErrors(t *testing.T) { isolated(t, VariantNFT, testHostErrors) }

// without is a shell that takes the programs of iptables away, in a mount namespace of its own, and becomes its arguments.
const without = `for x in iptables-nft iptables-legacy ip6tables-nft ip6tables-legacy; do
	f=$(readlink -f /usr/sbin/$x) && mount --bind /dev/null "$f"
done
exec "$@"`

// poor is a shell that puts an iptables without NFQUEUE in the place of the real one, which is copied to $real.
const poor = `f=$(readlink -f /usr/sbin/iptables-nft) && cp "$f" "$real/multi" && mount --bind "$real/script" "$f" && exec "$@"`

// poorScript gets its directory written in: the environment of programs that we run is empty.
const poorScript = `#!/bin/sh
in=$(cat)
case "$in" in *NFQUEUE*) echo "Extension NFQUEUE revision 0 not supported, missing kernel module?" >&2; exit 4;; esac
printf '%s\n' "$in" | exec "$real/multi" "$(basename "$0")" "$@"
`

// testHostErrors checks that what is missing on a host is told, with what to do about it.
func testHostErrors(r *rig) {
	t := r.t
	testutil.RequireTool(t, "unshare", "setpriv")
	realDir := t.TempDir()
	if err := os.WriteFile(filepath.Join(realDir, "script"), []byte(strings.ReplaceAll(poorScript, "$real", realDir)), 0o755); err != nil {
		t.Fatal(err)
	}
	shell := func(script string) []string { return []string{"unshare", "--mount", "sh", "-ec", script, "sh"} }
	for _, test := range []struct {
		name    string
		variant Variant
		prepare func()
		prefix  []string
		kind    string
		words   []string
	}{
		{"no iptables", VariantAuto, nil, shell(without), "ErrNoTool", []string{"iptables", "apt install"}},
		{"no such variant", VariantLegacy, nil, shell(without), "ErrNoTool", []string{"legacy", "install"}},
		{"no root", VariantNFT, nil, []string{"setpriv", "--bounding-set=-net_admin"}, "ErrNoRights", []string{"CAP_NET_ADMIN", "run as root"}},
		{"no NFQUEUE", VariantNFT, nil, shell(poor), "ErrNoKernelSupport", []string{"NFQUEUE", "load the module"}},
		{"mixed variants", VariantAuto, func() {
			r.run("iptables-legacy", "-A", "OUTPUT", "-p", "udp", "--dport", "9", "-j", "DROP")
			r.run("iptables-nft", "-A", "OUTPUT", "-p", "udp", "--dport", "9", "-j", "ACCEPT")
		}, nil, "ErrMixedVariants", []string{"--dport 9", "one variant"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.prepare != nil {
				testutil.RequireIPTables(t, testutil.VariantLegacy)
				test.prepare()
			}
			r.cfg.Variant = test.variant
			cmd := r.childCommand(t, test.prefix...)
			cmd.Env = append(cmd.Env, "real="+realDir)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("got no error; want one:\n%s", out)
			}
			for _, want := range append(test.words, "child is "+test.kind, "child is ErrNotInterceptable") {
				if !strings.Contains(string(out), want) {
					t.Errorf("got no %q; want it in\n%s", want, out)
				}
			}
		})
	}
	r.cfg.Variant = VariantNFT
	if text := r.run("iptables-nft-save"); strings.Contains(text, "WEIR") {
		t.Errorf("got rules left behind by a failed start:\n%s", text)
	}
}
