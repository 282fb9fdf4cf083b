package config

import (
	"fmt"
	"path/filepath"
	"time"
)

// Recording configures the history of connections on disk.
type Recording struct {
	// Path of the database; empty is no history.
	Path string `yaml:"path"`
	// Keep is how long connections are kept; 0 is for ever.
	Keep time.Duration `yaml:"keep"`
	// MaxSize of the database, in MiB; the oldest connections go first.
	MaxSize int `yaml:"max_size"`
	// Exclude are the executables or scripts whose connections are not recorded: paths, or patterns as in filepath.Match.
	// On Windows upper and lower case are the same.
	Exclude []string `yaml:"exclude"`
}

func (r *Recording) check() (found []value) {
	if r.Path != "" && !filepath.IsAbs(r.Path) {
		found = append(found, bad("history.path", r.Path, "not an absolute path", "write it like "+exampleDatabase))
	}
	if r.Keep != 0 && r.Keep < time.Minute {
		found = append(found, bad("history.keep", r.Keep.String(), "too short", "use 1m or more, or 0 to keep all"))
	}
	if r.MaxSize < 4 {
		found = append(found, bad("history.max_size", fmt.Sprint(r.MaxSize), "too small", "use 4 or more"))
	}
	for i, pattern := range r.Exclude {
		if _, err := filepath.Match(pattern, ""); err != nil || pattern == "" {
			found = append(found, bad(fmt.Sprintf("history.exclude[%d]", i), pattern, "not a path or a pattern of paths", "write it like "+examplePattern))
		}
	}
	return found
}

// Excludes reports whether connections of an executable or a script are not recorded.
func (r *Recording) Excludes(file string) bool {
	if file == "" {
		return false
	}
	file = foldPath(file)
	for _, pattern := range r.Exclude {
		pattern = foldPath(pattern)
		if ok, err := filepath.Match(pattern, file); err == nil && ok || pattern == file {
			return true
		}
	}
	return false
}
