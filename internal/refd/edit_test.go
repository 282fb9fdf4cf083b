package refd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/rules"
)

// A check says what is wrong, with the key, and changes nothing; paths are not changed at all.
func TestChecksOfChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "refd.yaml")
	const text = "# mine\nmode: observe\n"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	b := backend{&Daemon{opt: Options{ConfigPath: path, Interfaces: &rules.Interfaces{}}}}
	check := func(key string, value any) api.ChangeResult {
		t.Helper()
		out, err := b.ChangeSettings(t.Context(), api.ChangeRequest{Set: map[string]any{key: value}, Check: true})
		require.NoError(t, err)
		return out
	}
	assert.Empty(t, check("mode", "enforce").Problems)
	assert.Equal(t, []string{"mode"}, check("mode", "enforce").NeedRestart)
	assert.Empty(t, check("dns.nameserver.upstreams", []any{"192.0.2.53"}).Problems)
	for key, value := range map[string]any{
		"mode": "enforc", "dns.wait": "soon", "api.listen": "0.0.0.0:80", "nothing": 1,
		"history.path": "/etc/shadow", "netfilter.state_dir": "/", "api.socket": "/tmp/s", "ivpn.folder": "/", "dns.resolved_socket": "/tmp/x",
	} {
		out := check(key, value)
		if assert.NotEmpty(t, out.Problems, key) {
			assert.Equal(t, key, out.Problems[0].Key)
		}
	}
	bad := rules.AppProfile{ID: "a", Match: []rules.AppMatch{{Path: "/a"}}, Rules: []rules.Rule{{ID: "r", Action: rules.Block, Remote: []string{"10.0.0.1/8"}}}}
	out, err := b.PutApp(t.Context(), api.AppRequest{ID: "a", Profile: bad, Check: true})
	require.NoError(t, err)
	require.NotEmpty(t, out.Problems)
	assert.Equal(t, "apps[0].rules[0].remote[0]", out.Problems[0].Key)
	_, err = b.PutApp(t.Context(), api.AppRequest{ID: "a", Profile: bad})
	assert.ErrorIs(t, err, api.ErrRefused)
	now, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, text, string(now))
}

// A change that cannot be put into force is taken back, also the file that it made.
func TestAFailedChangeLeavesNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir", "refd.yaml")
	d := nameserverDaemon(t, func(*config.Loaded) {})
	d.opt = Options{NewConfigPath: path, Config: d.cfg, Interfaces: &rules.Interfaces{}}
	d.nameserver.detour = []nameserver.Route{{Domains: []string{"not..a.name"}}} // no server takes it
	change := api.ChangeRequest{Set: map[string]any{"dns.nameserver.upstreams": []any{"192.0.2.53"}}}
	_, err := backend{d}.ChangeSettings(t.Context(), change)
	require.ErrorIs(t, err, api.ErrRefused)
	assert.NoFileExists(t, path)
	const text = "# mine\n"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	_, err = backend{d}.ChangeSettings(t.Context(), change)
	require.ErrorIs(t, err, api.ErrRefused)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, text, string(b))
}
