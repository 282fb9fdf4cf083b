package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/weirfw/weir/internal/refd"
	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
)

// maxImport bounds what is read; config.Parse has the same bound.
const maxImport = 64<<20 + 1

type exportCmd struct {
	File string `arg:"" optional:"" type:"path" help:"Where to; standard output if left out."`
}

// Run writes the configuration, rules and all, into one file.
func (c *exportCmd) Run(a *app) error {
	b, err := os.ReadFile(a.configPath())
	switch {
	case errors.Is(err, fs.ErrNotExist) && a.cli.Config == "":
		b = []byte("# refd: the built-in defaults\n{}\n")
	case err != nil:
		return fmt.Errorf("export: %w", err)
	}
	if _, err := config.Parse(a.configPath(), b); err != nil {
		return fmt.Errorf("export: the configuration is not good: %w", err)
	}
	if c.File == "" {
		return a.say("%s", b)
	}
	// what is allowed on a machine is nobody else's business
	if info, err := os.Stat(c.File); err == nil && !info.Mode().IsRegular() {
		err := os.WriteFile(c.File, b, 0o600) // a terminal or a pipe is no file to be replaced
		if err != nil {
			return fmt.Errorf("export: %w", err)
		}
		return nil
	}
	if err := refd.WritePrivate(c.File, b); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

type importCmd struct {
	File   string `arg:"" help:"What export wrote; - for standard input."`
	DryRun bool   `help:"Only check it."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// Run makes an exported configuration the one in force. What there was is kept beside it, with .bak.
func (c *importCmd) Run(a *app) error {
	b, err := c.read(a)
	if err != nil {
		return err
	}
	l, err := config.Parse(c.File, b)
	if err != nil {
		return err //nolint:wrapcheck // it names the file and the place
	}
	done := importResult{File: a.configPath(), DryRun: c.DryRun, Apps: len(l.Apps), Rules: len(l.Rules.Rules())}
	if c.DryRun {
		if c.JSON {
			return printJSON(a.stdout, done)
		}
		return a.say("good: mode %s, %s, %s\n", l.Mode, count(len(l.Apps), "app"), count(len(l.Rules.Rules()), "rule"))
	}
	path := a.configPath()
	if err := keepOld(path); err != nil {
		return err
	}
	if err := refd.ReplaceConfig(path, b); err != nil {
		return err //nolint:wrapcheck // it says what for
	}
	r, err := a.client().Reload(a.ctx)
	if err == nil {
		done.Reloaded = &r
	}
	if c.JSON && (err == nil || errors.Is(err, api.ErrNotRunning)) {
		return printJSON(a.stdout, done)
	}
	if errors.Is(err, api.ErrNotRunning) {
		return a.say("imported to %s; refd does not run\n", path)
	}
	if err != nil {
		return fmt.Errorf("imported to %s; refd goes on with what it had: %w", path, err)
	}
	return a.say("imported to %s and in force: %s; %s got another verdict\n", path, count(r.Rules, "rule"), count(r.Changed, "running connection"))
}

func (c *importCmd) read(a *app) ([]byte, error) {
	in := a.stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return nil, fmt.Errorf("import: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxImport))
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	return b, nil
}

// importResult is what an import did, as JSON.
type importResult struct {
	File string `json:"file"`
	// DryRun is set where nothing was changed.
	DryRun bool `json:"dryRun,omitempty"`
	Apps   int  `json:"apps"`
	Rules  int  `json:"rules"`
	// Reloaded is what the running refd made of it; nil if none runs.
	Reloaded *api.ReloadResult `json:"reloaded,omitempty"`
}

// keepOld copies what is there, and makes an empty file if there is none.
func keepOld(path string) error {
	b, err := os.ReadFile(path) //nolint:gosec // our configuration
	if errors.Is(err, fs.ErrNotExist) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600)); err != nil { //nolint:gosec // a folder like others in /etc
			return fmt.Errorf("import: %w", err)
		}
		return nil
	}
	if err == nil {
		err = refd.WritePrivate(path+".bak", b)
	}
	if err != nil {
		return fmt.Errorf("import: keep the old configuration: %w", err)
	}
	return nil
}
