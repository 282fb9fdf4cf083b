package main

import (
	"time"

	"github.com/weirfw/weir/internal/refd/api"
)

type selfcheckCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run checks, and ends with status 1 if something does not work.
func (c *selfcheckCmd) Run(a *app) error {
	list, err := a.client().SelfCheck(a.ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		err = printJSON(a.stdout, list)
	} else {
		err = printChecks(a, list)
	}
	for _, r := range list {
		if err == nil && r.Result == api.CheckFailed {
			return statusError(1)
		}
	}
	return err
}

func printChecks(a *app, list []api.CheckResult) error {
	rows := [][]string{{"CHECK", "RESULT", "TOOK", ""}}
	for _, r := range list {
		text := r.Message
		if r.Remedy != "" {
			text += ". " + r.Remedy
		}
		rows = append(rows, []string{r.ID, string(r.Result), r.Took.Round(time.Millisecond).String(), printable(text)})
	}
	return table(a.stdout, rows)
}
