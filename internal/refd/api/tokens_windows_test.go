package api

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Tokens are in a folder that is made for administrators, or is there already.
func TestTokensHaveAFolderOfTheirOwn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "weir")
	k := newKeys(time.Now)
	for range 2 {
		if err := writeTokens(dir, k, groupAccess{gid: -1}); err != nil {
			t.Fatal(err)
		}
		for _, name := range tokenFiles {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Error(err)
			}
		}
	}
}
