package config_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/refd/config"
)

// Tokens are where the configuration is, in the folder that refd protects, and nowhere that any user may make.
func TestStateIsBesideTheConfiguration(t *testing.T) {
	if got, want := config.Default().Netfilter.StateDir, filepath.Dir(config.DefaultPath); got != want || !filepath.IsAbs(got) {
		t.Errorf("got %s; want %s", got, want)
	}
	for _, dir := range []string{"/run/weir", `weir`, `""`} {
		if _, err := config.Parse("", []byte("netfilter: {state_dir: "+dir+"}\n")); err == nil || !strings.Contains(err.Error(), "state_dir") {
			t.Errorf("%s: got %v; want it refused", dir, err)
		}
	}
}
