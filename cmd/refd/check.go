package main

import (
	"fmt"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/rules"
)

type checkCmd struct {
	File string `arg:"" optional:"" type:"path" help:"File to check; default that of --config."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// Run checks a file.
func (c *checkCmd) Run(a *app) error {
	if c.File != "" {
		a.cli.Config = c.File
	}
	l, err := a.load(rules.WithInterfaces(&rules.Interfaces{}))
	problems := config.Errors(err)
	if c.JSON && (err == nil || len(problems) > 0) {
		return a.printCheck(l, problems)
	}
	for _, p := range problems {
		fmt.Fprintln(a.stderr, p)
	}
	switch {
	case len(problems) > 0:
		return fmt.Errorf("%s found", count(len(problems), "problem"))
	case err != nil:
		return err
	}
	for _, n := range l.Notes {
		fmt.Fprintln(a.stderr, "note:", n)
	}
	name := l.Path
	if name == "" {
		name = "built-in defaults"
	}
	return a.say("%s: good: mode %s, %s, %s\n", name, l.Mode, count(len(l.Apps), "app"), count(len(l.Rules.Rules()), "rule"))
}

// checkResult is what a check found, as JSON.
type checkResult struct {
	// File is empty for the built-in defaults.
	File     string       `json:"file"`
	Good     bool         `json:"good"`
	Mode     string       `json:"mode,omitempty"`
	Apps     int          `json:"apps"`
	Rules    int          `json:"rules"`
	Problems []checkPlace `json:"problems"`
	Notes    []checkPlace `json:"notes"`
}

// checkPlace is something about a place of a file; line and column are 0 if it is not known.
type checkPlace struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Key    string `json:"key,omitempty"`
	Text   string `json:"text"`
	Hint   string `json:"hint,omitempty"`
}

func placesOf(all []*config.Error) []checkPlace {
	places := []checkPlace{}
	for _, e := range all {
		places = append(places, checkPlace{e.File, e.Line, e.Column, e.Key, e.Msg, e.Hint})
	}
	return places
}

// printCheck prints JSON. A file with problems is an error besides.
func (a *app) printCheck(l *config.Loaded, problems []*config.Error) error {
	r := checkResult{File: a.configPath(), Good: len(problems) == 0, Problems: placesOf(problems), Notes: []checkPlace{}}
	if r.Good {
		r.File, r.Mode, r.Apps, r.Rules, r.Notes = l.Path, string(l.Mode), len(l.Apps), len(l.Rules.Rules()), placesOf(l.Notes)
	}
	if err := printJSON(a.stdout, r); err != nil || r.Good {
		return err
	}
	return statusError(1)
}
