package refd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/rules"
)

// A program's profile is the one that the rules have for it; a new one is for it alone, and takes the place of none.
func TestFindApp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "refd.yaml")
	require.NoError(t, os.WriteFile(path, []byte("apps: [{id: curl, match: [{path: /usr/bin/curl}]}, {id: fox, match: [{path: /opt/fox/*}]}]\n"), 0o600))
	d := &Daemon{opt: Options{ConfigPath: path, Interfaces: &rules.Interfaces{}}}
	l, _, err := d.readConfig()
	require.NoError(t, err)
	d.rules.Swap(l.Rules)
	find := func(p conn.Process) api.FoundApp {
		t.Helper()
		out, err := backend{d}.FindApp(t.Context(), api.FindAppRequest{Process: p})
		require.NoError(t, err)
		return out
	}
	out := find(conn.Process{Path: "/opt/fox/fox"})
	assert.True(t, out.Known)
	assert.Equal(t, "fox", out.Profile.ID)
	out = find(conn.Process{Path: "/tmp/curl"})
	assert.Equal(t, api.FoundApp{Profile: rules.AppProfile{ID: "curl-2", Match: []rules.AppMatch{{Path: "/tmp/curl"}}}}, out)
	out = find(conn.Process{Path: "/usr/bin/python3", Script: "/tmp/**"})
	assert.Equal(t, []rules.AppMatch{{Path: "/usr/bin/python3", Script: "/tmp/[*][*]"}}, out.Profile.Match)
	_, err = backend{d}.FindApp(t.Context(), api.FindAppRequest{})
	assert.ErrorIs(t, err, api.ErrRefused)
}
