package api_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/testutil"
)

// asService in the environment has the test program serve in that folder until it listens everywhere, and say how it went.
const asService = "WEIR_TEST_AS_SERVICE"

// servicePort is one that only the privileged may have, as that of refd is.
const servicePort = 818

func serveAsService(dir string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	err := api.Serve(ctx, api.Config{
		Socket: filepath.Join(dir, "refd.sock"), Group: "daemon", GroupRole: api.ReadWrite, Backend: &sample{}, Logger: slog.New(slog.DiscardHandler),
		Listen: netip.AddrPortFrom(netip.MustParseAddr("127.81.8.1"), servicePort), TokenDir: dir,
		Groupless: func(err error) { fmt.Println("groupless:", err) },
		Trouble: func(err error) {
			fmt.Println("page:", err)
			for _, name := range []string{"refd.sock", "api.token"} {
				if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
					fmt.Println(name, info.Mode().Perm())
				}
			}
			cancel()
		},
	}, func() {})
	fmt.Println("end:", err)
}

// capabilities are those that the unit leaves to refd, as setpriv(1) names them.
func capabilities(t *testing.T) string {
	t.Helper()
	unit, err := os.ReadFile("../../../cmd/refd/refd.service")
	require.NoError(t, err)
	found := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindSubmatch(unit)
	require.NotNil(t, found)
	set := "-all"
	for _, name := range strings.Fields(string(found[1])) {
		set += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
	}
	return set
}

// With the capabilities of its unit refd lets the group in, and has a port below 1024. Without CAP_CHOWN it serves its own user.
func TestIntegrationCapabilitiesOfTheUnit(t *testing.T) {
	testutil.RequireRoot(t)
	testutil.RequireTool(t, "setpriv")
	serve := func(set string) string {
		dir, err := os.MkdirTemp("", "weir") //nolint:usetesting // a short path (unix(7))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
		cmd := exec.CommandContext(t.Context(), "setpriv", "--bounding-set", set, "/proc/self/exe")
		exe, err := os.Executable()
		require.NoError(t, err)
		cmd.Args[len(cmd.Args)-1] = exe
		cmd.Env = append(os.Environ(), asService+"="+dir)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	set := capabilities(t)
	assert.Equal(t, "page: <nil>\nrefd.sock -rw-rw----\napi.token -rw-r-----\nend: <nil>\n", serve(set))
	assert.Regexp(t, `^groupless: .*operation not permitted\npage: <nil>\nrefd.sock -rw-------\napi.token -rw-------\nend: <nil>\n$`,
		serve(strings.Replace(set, ",+chown", "", 1)))
}
