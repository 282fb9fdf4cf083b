package config_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/refd/config"
)

func TestHistory(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"history: {path: '" + filepath.Join(t.TempDir(), "h.db") + "', keep: 0s, exclude: ['" + filepath.FromSlash("/usr/bin/curl', '/opt/*/run") + "']}", ""},
		{"history: {path: h.db}", "history.path"},
		{"history: {keep: 5s}", "history.keep"},
		{"history: {max_size: 1}", "history.max_size"},
		{"history: {exclude: ['a[']}", "history.exclude[0]"},
		{"history: {exclude: ['']}", "history.exclude[0]"},
	} {
		l, err := config.Parse("f.yaml", []byte(tt.in))
		if tt.want != "" {
			if !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: got %v; want it about %s", tt.in, err, tt.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		for file, want := range map[string]bool{"/usr/bin/curl": true, "/usr/bin/curl2": false, "/opt/a/run": true, "/opt/a/b/run": false, "": false} {
			if got := l.Recording.Excludes(filepath.FromSlash(file)); got != want {
				t.Errorf("%q: got %t; want %t", file, got, want)
			}
		}
	}
}
