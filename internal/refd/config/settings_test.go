package config_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/internal/refd/config"
)

// Each setting can be written back as it is listed, and each choice is one.
func TestSettingsCanBeWritten(t *testing.T) {
	def := config.Default()
	all := def.Settings()
	require.Greater(t, len(all), 50)
	seen := map[string]bool{}
	for _, s := range all {
		assert.False(t, seen[s.Key], "%s twice", s.Key)
		seen[s.Key] = true
		assert.NotEmpty(t, s.Title, s.Key)
		assert.Equal(t, s.Default, s.Value, s.Key)
		if text, ok := s.Value.(string); ok && filepath.IsAbs(text) {
			assert.True(t, s.FileOnly, "%s is a path", s.Key)
		}
		text, err := config.Edit(nil, config.Change{Key: s.Key, Value: s.Value})
		require.NoError(t, err, s.Key)
		_, err = config.Parse("f", text)
		require.NoError(t, err, "%s: %s", s.Key, text)
		if s.Kind != "choice" {
			continue
		}
		assert.Contains(t, s.Choices, s.Value, s.Key)
		for _, c := range append(s.Choices, "nonsense") {
			_, err := config.Parse("f", fmt.Appendf(nil, "%s\n", nest(s.Key, c)))
			assert.Equal(t, c == "nonsense", err != nil, "%s: %s: %v", s.Key, c, err)
		}
	}
	for _, key := range []string{"mode", "split_tunnel.enabled", "dns.nameserver.upstreams", "api.listen"} {
		assert.True(t, seen[key], key)
	}
}

// nest writes a key as nested flow mappings.
func nest(key, value string) string {
	first, rest, below := strings.Cut(key, ".")
	if !below {
		return "{" + first + ": " + value + "}"
	}
	return "{" + first + ": " + nest(rest, value) + "}"
}

// What is said to need a restart does, by NeedRestart, and nothing else.
func TestSettingsThatNeedARestart(t *testing.T) {
	def := config.Default()
	for _, s := range def.Settings() {
		var other any
		switch s.Kind {
		case "bool":
			v, ok := s.Value.(bool)
			require.True(t, ok)
			other = !v
		case "choice":
			if len(s.Choices) == 1 {
				continue // of another system there are more
			}
			other = s.Choices[0]
			if other == s.Value {
				other = s.Choices[1]
			}
		default:
			continue
		}
		text, err := config.Edit(nil, config.Change{Key: s.Key, Value: other})
		require.NoError(t, err)
		l, err := config.Parse("f", text)
		require.NoError(t, err, s.Key)
		assert.Equal(t, s.Restart, len(def.NeedRestart(&l.File)) > 0, "%s", s.Key)
	}
}
