package refd

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/internal/testutil"
)

func TestIntegrationAFileStaysItsOwners(t *testing.T) {
	testutil.RequireRoot(t)
	path := filepath.Join(t.TempDir(), "refd.yaml")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	require.NoError(t, os.Chown(path, 65534, 1))
	require.NoError(t, os.Chmod(path, 0o640))
	require.NoError(t, ReplaceConfig(path, []byte("new")))
	info, err := os.Stat(path)
	require.NoError(t, err)
	stat, ok := info.Sys().(*syscall.Stat_t)
	require.True(t, ok)
	assert.Equal(t, []uint32{65534, 1, 0o640}, []uint32{stat.Uid, stat.Gid, uint32(info.Mode().Perm())})
}

func TestPrivateFilesAreNew(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "out"), filepath.Join(dir, "other")
	for _, p := range []string{path, other} {
		require.NoError(t, os.WriteFile(p, []byte("old"), 0o600))
		require.NoError(t, os.Chmod(p, 0o644)) //nolint:gosec // that is the point
	}
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(other, link))
	for _, p := range []string{path, link} {
		require.NoError(t, WritePrivate(p, []byte("secret")))
		info, err := os.Lstat(p)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode(), p)
	}
	b, err := os.ReadFile(other)
	require.NoError(t, err)
	assert.Equal(t, "old", string(b), "it was written through a link")
}
