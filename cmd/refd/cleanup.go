package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/weirfw/weir/internal/refd"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/rules"
)

type cleanupCmd struct {
	ChainPrefix string `placeholder:"PREFIX" help:"Instead of the configuration's netfilter.chain_prefix: for what a refd left whose configuration is lost."`
	JSON        bool   `name:"json" help:"Print JSON."`
}

// Run removes what a crash, or on_exit: closed, left behind.
func (c *cleanupCmd) Run(a *app) error {
	cfg, err := a.settings()
	if err != nil {
		return err
	}
	cfg.Netfilter.ChainPrefix = cmp.Or(c.ChainPrefix, cfg.Netfilter.ChainPrefix)
	if !privileged() {
		return errors.New("cleanup changes the packet filter and needs " + privilege)
	}
	log := newLogger(a.stderr, cfg.Log.Format, cfg.Log.Level)
	before, errBefore := refd.FindTraces(a.ctx, cfg)
	if err := refd.Cleanup(a.ctx, cfg, log); err != nil {
		return err
	}
	after, err := refd.FindTraces(a.ctx, cfg)
	if err := errors.Join(errBefore, err); err != nil {
		// no reason not to clean up
		fmt.Fprintln(a.stderr, "warning: what there was, and whether there is more, is not known:", err)
		if c.JSON {
			return printJSON(a.stdout, cleanupResult{})
		}
		return a.say("clean: nothing is left of the refd with %s\n", whose(cfg))
	}
	return c.report(a, cfg, before, after)
}

// cleanupResult is what a cleanup did, as JSON.
type cleanupResult struct {
	// Removed is nil if it is not known what there was.
	Removed *refd.Traces `json:"removed"`
	// Others are of a refd with another configuration, and stay.
	Others *refd.Traces `json:"others,omitempty"`
}

// settings returns what is known of the settings for a command that has to work with a bad configuration, too: a machine that refd
// closed must not stay closed for a typing error. What is wrong is told.
func (a *app) settings() (*config.File, error) {
	l, err := a.load(rules.WithInterfaces(&rules.Interfaces{}))
	switch {
	case err == nil:
		return &l.File, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: leave out --config for the default settings", err)
	}
	if problems := config.Errors(err); len(problems) > 0 {
		for _, p := range problems {
			fmt.Fprintln(a.stderr, "warning:", p)
		}
	} else {
		fmt.Fprintln(a.stderr, "warning:", err)
	}
	cfg := config.Salvage(a.configPath())
	fmt.Fprintf(a.stderr, "warning: the configuration is bad: what can be read of it counts, and the default of all else: %s\n", whose(&cfg))
	return &cfg, nil
}

func (c *cleanupCmd) report(a *app, cfg *config.File, before, after refd.Traces) error {
	own, _ := before.Of(cfg)
	left, others := after.Of(cfg)
	if text := others.String(); text != "" {
		remedy := "if that does not run, clean up with its --config"
		if len(others.Prefixes) > 0 {
			remedy += fmt.Sprintf(", or with --chain-prefix %s if that is lost", others.Prefixes[0])
		}
		fmt.Fprintf(a.stderr, "warning: of a refd with another configuration there is still: %s (%s)\n", text, remedy)
	}
	switch {
	case left.String() != "":
		return fmt.Errorf("of the refd with %s there is still: %s: does something start it again?", whose(cfg), left)
	case c.JSON:
		return printJSON(a.stdout, cleanupResult{Removed: &own, Others: &others})
	case own.String() == "":
		return a.say("nothing to do: there was nothing of a refd with %s\n", whose(cfg))
	}
	return a.say("removed: %s\nclean: nothing is left of the refd with %s\n", own, whose(cfg))
}

// cleanupCommand is what opens everything after an end of this process.
func (a *app) cleanupCommand() string {
	if a.cli.Config == "" {
		return "sudo refd cleanup"
	}
	return "sudo refd --config " + shellWord(a.cli.Config) + " cleanup"
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./,:@%+=-]+$`) //nolint:gochecknoglobals // nobody writes it

// shellWord quotes a word for a shell where that is needed.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
