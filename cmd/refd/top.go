package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/weirfw/weir/pkg/connstore"
)

type topCmd struct {
	filterFlags

	Once  bool          `help:"Show once, after one interval."`
	JSON  bool          `name:"json" help:"Print JSON, once."`
	Pause time.Duration `name:"interval" default:"2s" help:"How often."`
}

// topRow is an app, or what else connections are counted by, with what happened since the last look.
type topRow struct {
	Key         string `json:"key"`
	Connections int    `json:"connections"`
	Allowed     int    `json:"allowed"`
	Refused     int    `json:"refused"`
	// Received and Sent are bytes a second.
	Received      float64 `json:"receivedPerSecond"`
	Sent          float64 `json:"sentPerSecond"`
	ReceivedBytes uint64  `json:"receivedBytes"`
	SentBytes     uint64  `json:"sentBytes"`
}

// Run shows who transfers most, every few seconds until the command is interrupted.
func (c *topCmd) Run(a *app) error {
	if c.Every != "" || c.Order != "" || c.Offset != 0 {
		return errors.New("refd top has an order of its own: use it without --every, --order and --offset")
	}
	c.By = cmp.Or(c.By, connstore.ByApp.String())
	q, err := c.query()
	if err != nil {
		return err
	}
	q.Kind = connstore.OnlyConnections
	if c.Pause < 100*time.Millisecond {
		return fmt.Errorf("--interval %v: use 100ms or more", c.Pause)
	}
	client := a.client()
	tick := time.NewTicker(c.Pause)
	defer tick.Stop()
	var before []connstore.Group
	for first := true; ; first = false {
		p, err := client.Connections(a.ctx, q)
		if a.ctx.Err() != nil {
			return nil //nolint:nilerr // interrupted: that was the question
		}
		if err != nil {
			return err
		}
		if !first {
			if err := c.show(a.stdout, topRows(before, p.Groups, c.Pause)); err != nil || c.Once || c.JSON {
				return err
			}
		}
		before = p.Groups
		select {
		case <-a.ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// topRows compares two looks: who transfers most comes first.
func topRows(before, now []connstore.Group, apart time.Duration) []topRow {
	was := map[string]connstore.Group{}
	for _, g := range before {
		was[g.Key] = g
	}
	// old connections are forgotten after a time: sums may become less
	rate := func(before, now uint64) float64 {
		if now < before {
			return 0
		}
		return float64(now-before) / apart.Seconds()
	}
	rows := make([]topRow, 0, len(now))
	for i := range now {
		g := &now[i]
		old := was[g.Key]
		rows = append(rows, topRow{
			Key: g.Key, Connections: g.Total, Allowed: g.Allowed(), Refused: g.Refused(), ReceivedBytes: g.ReceivedBytes, SentBytes: g.SentBytes,
			Received: rate(old.ReceivedBytes, g.ReceivedBytes), Sent: rate(old.SentBytes, g.SentBytes),
		})
	}
	slices.SortStableFunc(rows, func(a, b topRow) int {
		return cmp.Or(cmp.Compare(b.Received+b.Sent, a.Received+a.Sent), cmp.Compare(b.ReceivedBytes+b.SentBytes, a.ReceivedBytes+a.SentBytes))
	})
	return rows
}

func (c *topCmd) show(w io.Writer, rows []topRow) error {
	if c.JSON {
		return printJSON(w, rows)
	}
	lines := [][]string{{"RECEIVED/S", "SENT/S", "CONNECTIONS", "ALLOWED", "REFUSED", "RECEIVED", "SENT", "WHAT"}}
	for _, r := range rows {
		lines = append(lines, []string{
			bytesText(uint64(r.Received)), bytesText(uint64(r.Sent)), fmt.Sprint(r.Connections), fmt.Sprint(r.Allowed), fmt.Sprint(r.Refused),
			bytesText(r.ReceivedBytes), bytesText(r.SentBytes), cmp.Or(r.Key, "?"),
		})
	}
	height, width, terminal := screenSize(w)
	if !terminal || c.Once {
		return table(w, lines)
	}
	var text bytes.Buffer
	if err := table(&text, lines[:min(len(lines), max(1, height-1))]); err != nil {
		return err
	}
	return overdraw(w, strings.TrimSuffix(text.String(), "\n"), width)
}
