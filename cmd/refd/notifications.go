package main

import (
	"cmp"
	"strings"

	"github.com/weirfw/weir/internal/refd/api"
)

type notificationsCmd struct {
	List    notificationListCmd    `cmd:"" default:"1" help:"List what there is to know."`
	Act     notificationActCmd     `cmd:"" help:"Do something about it."`
	Dismiss notificationDismissCmd `cmd:"" help:"Hide a notification until it comes up again."`
}

type notificationActCmd struct {
	Module string `arg:"" help:"Module."`
	ID     string `arg:"" help:"ID."`
	Action string `arg:"" help:"What to do about it: one of those that list names."`
}

// Run acts.
func (c *notificationActCmd) Run(a *app) error {
	return a.client().Act(a.ctx, api.NoticeRequest{Module: c.Module, ID: c.ID, Action: c.Action})
}

type notificationListCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run lists.
func (c *notificationListCmd) Run(a *app) error {
	list, err := a.client().Notifications(a.ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, list)
	}
	rows := [][]string{{"SEVERITY", "SINCE", "MODULE", "ID", "ACTIONS", "WHAT"}}
	for i := range list {
		n := &list[i]
		var actions []string
		for _, a := range n.Actions {
			actions = append(actions, a.ID)
		}
		rows = append(rows, []string{
			n.Severity.String(), clock(n.Time), n.Module, n.ID, cmp.Or(strings.Join(actions, " "), "-"), cmp.Or(n.Message, n.Title),
		})
	}
	return table(a.stdout, rows)
}

type notificationDismissCmd struct {
	Module string `arg:"" help:"Module."`
	ID     string `arg:"" help:"ID."`
}

// Run dismisses.
func (c *notificationDismissCmd) Run(a *app) error {
	return a.client().Dismiss(a.ctx, api.NoticeRequest{Module: c.Module, ID: c.ID})
}

type sleepCmd struct {
	Mode string `arg:"" enum:"on,off" help:"on or off."`
}

// Run switches the sleep mode.
func (c *sleepCmd) Run(a *app) error {
	return a.client().Sleep(a.ctx, api.SleepRequest{On: c.Mode == "on"})
}
