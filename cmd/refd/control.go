package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

type reloadCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run reloads.
func (c *reloadCmd) Run(a *app) error {
	r, err := a.client().Reload(a.ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, r)
	}
	later := ""
	if len(r.NeedRestart) > 0 {
		later = fmt.Sprintf("takes effect at the next start: %s\n", strings.Join(r.NeedRestart, ", "))
	}
	if r.Trouble != "" {
		later += "the configuration is in force, but: " + printable(r.Trouble) + "\n"
	}
	return a.say("reloaded: %s; %s got another verdict\n%s", count(r.Rules, "rule"), count(r.Changed, "running connection"), later)
}

type confirmCmd struct{}

// Run confirms.
func (confirmCmd) Run(a *app) error { return a.client().Do(a.ctx, "confirm") }

type pauseCmd struct {
	Duration time.Duration `arg:"" help:"How long, such as 10m."`
	JSON     bool          `name:"json" help:"Print JSON."`
}

// Run pauses.
func (c *pauseCmd) Run(a *app) error {
	if err := a.client().Pause(a.ctx, c.Duration); err != nil {
		return err
	}
	until := time.Now().Add(c.Duration)
	if c.JSON {
		return printJSON(a.stdout, map[string]time.Time{"pausedUntil": until})
	}
	return a.say("paused until %s: everything passes; `refd resume` ends it\n", until.Format(time.TimeOnly))
}

type resumeCmd struct{}

// Run resumes.
func (resumeCmd) Run(a *app) error { return a.client().Do(a.ctx, "resume") }

type stopCmd struct {
	Restart bool `help:"Exit with the status that makes the service manager start refd again."`
}

// Run stops the daemon.
func (c *stopCmd) Run(a *app) error {
	if c.Restart {
		return a.client().Do(a.ctx, "restart")
	}
	return a.client().Do(a.ctx, "shutdown")
}

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Run prints a completion script, made from the command line itself.
func (c *completionCmd) Run(a *app) error {
	var names []string
	var fish strings.Builder
	// of a command that has others below it, those are what is typed next
	below := func(n *kong.Node) (names []string) {
		for _, child := range n.Children {
			names = append(names, child.Name)
		}
		return names
	}
	flags := func(n *kong.Node) string {
		var f []string
		for _, group := range n.AllFlags(true) {
			for _, flag := range group {
				f = append(f, "--"+flag.Name)
			}
		}
		return strings.Join(f, " ")
	}
	var cases strings.Builder
	for _, n := range a.parser.Model.Children {
		if n.Hidden {
			continue
		}
		names = append(names, n.Name)
		for _, child := range n.Children {
			fmt.Fprintf(&cases, "    '%s %s') words='%s' ;;\n", n.Name, child.Name, flags(child))
			fmt.Fprintf(&fish, "complete -c refd -n '__fish_seen_subcommand_from %s' -a %s -d '%s'\n", n.Name, child.Name, strings.ReplaceAll(child.Help, "'", `\'`))
		}
		fmt.Fprintf(&cases, "    '%s '*) words='%s' ;;\n", n.Name, strings.TrimSpace(strings.Join(below(n), " ")+" "+flags(n)))
		fmt.Fprintf(&fish, "complete -c refd -n __fish_use_subcommand -a %s -d '%s'\n", n.Name, strings.ReplaceAll(n.Help, "'", `\'`))
		for _, of := range append([]*kong.Node{n}, n.Children...) {
			for _, f := range strings.Fields(flags(of)) {
				fmt.Fprintf(&fish, "complete -c refd -n '__fish_seen_subcommand_from %s' -l %s\n", of.Name, strings.TrimPrefix(f, "--"))
			}
		}
	}
	if c.Shell == "fish" {
		return a.say("complete -c refd -f\n%s", fish.String())
	}
	head := ""
	if c.Shell == "zsh" {
		head = "autoload -U +X bashcompinit && bashcompinit\n"
	}
	return a.say(`%s_refd() {
  local words at="${COMP_WORDS[1]} "
  [ "$COMP_CWORD" -gt 2 ] && at+="${COMP_WORDS[2]}"
  case "$at" in
%s    *) words='%s' ;;
  esac
  [ "$COMP_CWORD" = 1 ] && words='%s'
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _refd refd
`, head, cases.String(), strings.Join(names, " "), strings.Join(names, " "))
}
