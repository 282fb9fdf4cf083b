package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/splittunnel"
	"github.com/weirfw/weir/pkg/splittunnel/kroute"
)

type splitCmd struct {
	On     splitOnCmd     `cmd:"" help:"Switch the split tunnel on, until refd is started again."`
	Off    splitOffCmd    `cmd:"" help:"Switch the split tunnel off, until refd is started again: everything takes the default route."`
	Status splitStatusCmd `cmd:"" default:"withargs" help:"Show which interfaces connections can leave by."`
}

type splitOnCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run switches on.
func (c *splitOnCmd) Run(a *app) error { return a.split(true, c.JSON) }

type splitOffCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run switches off.
func (c *splitOffCmd) Run(a *app) error { return a.split(false, c.JSON) }

func (a *app) split(on, asJSON bool) error { //nolint:revive // a switch, and a flag
	r, err := a.client().Split(a.ctx, on)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.stdout, r)
	}
	return a.say("split tunnel %s; %s changed\n", onOff(on), count(r.Changed, "running connection"))
}

func onOff(on bool) string { //nolint:revive // a word for a boolean
	if on {
		return "on"
	}
	return "off"
}

type splitStatusCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run shows the split tunnel.
func (c *splitStatusCmd) Run(a *app) error {
	s, err := a.client().Status(a.ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, s.SplitTunnel)
	}
	if err := a.say("%s\n", splitSummary(s)); err != nil || s.SplitTunnel == nil {
		return err
	}
	if len(s.SplitTunnel.Selections) == 0 {
		return a.say("no app uses it: set split.use in the configuration\n")
	}
	rows := [][]string{{"INTERFACE", "FAMILY", "LEAVES BY", "FROM", "GATEWAY", "PROBLEM"}}
	for _, sel := range s.SplitTunnel.Selections {
		rows = append(rows, []string{selectorText(sel), sel.Family, dash(sel.Interface), dash(sel.Source), dash(sel.Gateway), problemText(sel)})
	}
	if err := table(a.stdout, rows); err != nil {
		return err
	}
	for _, problem := range engineProblems(s.SplitTunnel.Figures) {
		if err := a.say("engine: %s\n", printable(problem)); err != nil {
			return err
		}
	}
	return nil
}

// problemText is a problem without what the row says anyway.
func problemText(s splittunnel.Selection) string {
	_, text, found := strings.Cut(s.Problem, " for "+s.Family+": ")
	if !found {
		text = s.Problem
	}
	return strings.TrimPrefix(text, "netif: ")
}

// engineProblems returns what an engine's figures, which came as JSON, say about what does not work although there is an interface.
func engineProblems(figures any) (problems []string) {
	b, err := json.Marshal(figures)
	if err != nil {
		return nil // no figures
	}
	var f kroute.Figures
	if err := json.Unmarshal(b, &f); err != nil {
		return nil // of another engine
	}
	if f.Problem != "" {
		problems = append(problems, f.Problem)
	}
	for _, r := range f.Routes {
		for _, problem := range r.Problems {
			problems = append(problems, r.Interface+": "+problem)
		}
	}
	return problems
}

// selectorText is what the user wrote.
func selectorText(s splittunnel.Selection) string {
	if s.Selector == "" {
		return "(best physical)"
	}
	return s.Selector
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// splitSummary is the split tunnel in one line.
func splitSummary(s api.Status) string {
	t := s.SplitTunnel
	if t == nil {
		return "no engine"
	}
	text := onOff(t.On) + ", engine " + t.Engine
	if len(t.Selections) == 0 {
		return text + ", not in use"
	}
	work := 0
	for _, sel := range t.Selections {
		if sel.Problem == "" {
			work++
		}
	}
	return text + fmt.Sprintf(", %d of %s can be used, %s split, %d failed",
		work, count(len(t.Selections), "way"), count(int(t.Took), "decision"), t.Refused)
}
