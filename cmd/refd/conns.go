package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/verdict"
)

type connsCmd struct {
	filterFlags

	Watch   bool `short:"w" help:"Show again every second until interrupted."`
	JSON    bool `name:"json" help:"Print JSON."`
	History bool `help:"Look into the history on disk instead of at what is there now."`
	Queries bool `help:"DNS queries to refd's nameserver in place of connections."`
	Live    bool `help:"Only live ones."`
	Ended   bool `help:"Only ended ones."`
	Limit   int  `default:"100" help:"At most so many; 0 is all."`
}

// Run lists connections.
func (c *connsCmd) Run(a *app) error {
	q, err := c.query()
	if err != nil {
		return err
	}
	if c.Watch {
		if c.History || c.By != "" || c.Every != "" {
			return errors.New("--watch shows single connections that are there now: use it without --history, --by and --every")
		}
		return c.watch(a, q)
	}
	ask := a.client().Connections
	if c.History {
		ask = a.client().History
	}
	p, err := allPages(a.ctx, ask, q)
	switch {
	case err != nil:
		return err
	case c.JSON:
		return printJSON(a.stdout, p)
	}
	return printPage(a, p)
}

// allPages asks for what is on several pages: the server gives api.MaxPage connections, or groups, at once.
func allPages(ctx context.Context, ask func(context.Context, connstore.Query) (connstore.Page, error), q connstore.Query) (all connstore.Page, err error) {
	left := q.Limit
	for first := true; ; first = false {
		if q.Limit = left; left == 0 || left > api.MaxPage {
			q.Limit = api.MaxPage
		}
		p, err := ask(ctx, q)
		if err != nil {
			return all, err
		}
		if first {
			all = p
		} else {
			all.Connections, all.Groups = append(all.Connections, p.Connections...), append(all.Groups, p.Groups...)
		}
		got := len(p.Connections) + len(p.Groups) // an answer has one or the other
		if left > 0 {
			if left -= got; left <= 0 {
				return all, nil
			}
		}
		if got < q.Limit {
			return all, nil
		}
		q.Offset += got
	}
}

// printPage prints connections or groups, the points in time if there are any, and how many there are besides.
func printPage(a *app, p connstore.Page) error {
	n, all := len(p.Connections), p.Total
	if p.TotalGroups > 0 {
		n, all = len(p.Groups), p.TotalGroups
	}
	var err error
	switch {
	case p.TotalGroups > 0:
		err = table(a.stdout, groupRows(p.Groups))
	case len(p.Series) > 0:
		return table(a.stdout, seriesRows(p.Series))
	default:
		err = printConns(a.stdout, p)
	}
	if err != nil || n >= all {
		return err
	}
	return a.say("%d of %d; --limit 0 shows all\n", n, all)
}

// watch shows connections every second until the command is interrupted: as many as the terminal has room for, or what else is no
// terminal page after page.
func (c *connsCmd) watch(a *app, q connstore.Query) error {
	client := a.client()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	limit := q.Limit
	for first := true; ; first = false {
		rows, columns, terminal := c.size(a.stdout)
		if q.Limit = limit; terminal && (limit == 0 || limit > rows-2) {
			q.Limit = max(1, rows-2) // and a line above, and one below
		}
		p, err := client.Connections(a.ctx, q)
		if err == nil {
			switch {
			case c.JSON:
				err = printJSON(a.stdout, p)
			case terminal:
				err = draw(a.stdout, p, columns)
			case first:
				err = printConns(a.stdout, p)
			default:
				err = errors.Join(a.say("\n"), printConns(a.stdout, p))
			}
		}
		if err == nil {
			select {
			case <-a.ctx.Done():
			case <-tick.C:
				continue
			}
		}
		if terminal && !first {
			err = errors.Join(err, a.say("\n")) // the last row has no end
		}
		if a.ctx.Err() != nil {
			return nil //nolint:nilerr // that was the question, and nobody waits for the answer
		}
		return err
	}
}

// size returns that of the terminal that rows are drawn on, if it is one.
func (c *connsCmd) size(w io.Writer) (rows, columns int, ok bool) {
	if c.JSON {
		return 0, 0, false
	}
	return screenSize(w)
}

// screenSize returns the size of a terminal; ok is false for what is none.
func screenSize(w io.Writer) (rows, columns int, ok bool) {
	if f, isFile := w.(*os.File); isFile {
		return terminalSize(f)
	}
	return 0, 0, false
}

// The terminal's words (ECMA-48, and DECAWM of the VT100): go to the first place, clear the rest of the line and of the screen,
// and do not break lines that are longer than their runes tell.
const (
	home      = "\x1b[H"
	clearLine = "\x1b[K"
	clearRest = "\x1b[J"
	noWrap    = "\x1b[?7l"
	wrap      = "\x1b[?7h"
)

// draw draws connections over what was drawn before. It is one write, so that nothing flickers, and it does not end the last line,
// which would move all the others.
func draw(w io.Writer, p connstore.Page, columns int) error {
	var text bytes.Buffer
	if err := printConns(&text, p); err != nil {
		return err
	}
	if n := len(p.Connections); n < p.Total {
		fmt.Fprintf(&text, "the newest %d of %d", n, p.Total)
	}
	return overdraw(w, strings.TrimSuffix(text.String(), "\n"), columns)
}

// overdraw draws text over what was drawn before, without what does not fit into a line.
func overdraw(w io.Writer, text string, columns int) error {
	lines, coloured := strings.Split(text, "\n"), colours(w)
	for i, line := range lines {
		// one less: at the end of a full line, clearing would begin with its last place
		if r := []rune(line); len(r) >= columns {
			line = string(r[:columns-1])
		}
		if coloured {
			line = paint(line)
		}
		lines[i] = line + clearLine
	}
	if _, err := io.WriteString(w, noWrap+home+strings.Join(lines, "\n")+clearRest+wrap); err != nil {
		return fmt.Errorf("draw: %w", err)
	}
	return nil
}

func (c *connsCmd) query() (connstore.Query, error) {
	q, err := c.filterFlags.query()
	q.Kind, q.Limit = connstore.OnlyConnections, c.Limit
	if c.Queries {
		q.Kind = connstore.OnlyQueries
	}
	switch {
	case c.Live && c.Ended:
		return q, errors.New("--live and --ended: use one of them")
	case c.Live:
		q.Life = connstore.OnlyLive
	case c.Ended:
		q.Life = connstore.OnlyEnded
	}
	return q, err
}

// parseVerdict takes a name or the words that people see, in any case: "RerouteToSplitTun", "split tunneled" or "split-tunneled".
func parseVerdict(name string) (verdict.Verdict, error) {
	for _, v := range verdict.All() {
		if strings.EqualFold(v.String(), name) || strings.EqualFold(v.Verb(), strings.ReplaceAll(name, "-", " ")) {
			return v, nil
		}
	}
	return verdict.Parse(name) //nolint:wrapcheck // the caller says which flag it is
}

func printConns(w io.Writer, p connstore.Page) error {
	// a narrow terminal cuts what is last
	rows := [][]string{{"ID", "TIME", "VERDICT", "APP", "DIR", "PROTO", "DOMAIN", "REMOTE", "LOCAL", "WHY"}}
	for i := range p.Connections {
		rows = append(rows, connRow(&p.Connections[i]))
	}
	if !colours(w) {
		return table(w, rows)
	}
	var text strings.Builder
	if err := table(&text, rows); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) {
		if _, err := io.WriteString(w, paint(line)); err != nil {
			return fmt.Errorf("print connections: %w", err)
		}
	}
	return nil
}

func connRow(s *conn.Snapshot) []string {
	app := "?"
	if s.Process != nil {
		app = fmt.Sprintf("%s[%d]", s.Process.Name(), s.Process.PID)
	}
	local, remote := s.Tuple.Local.String(), s.Tuple.Remote.String()
	if !s.Tuple.Protocol.HasPorts() {
		local, remote = s.Tuple.Local.Addr().String(), s.Tuple.Remote.Addr().String()
	}
	domain := cmp.Or(s.Domain, "-")
	if s.Query != nil {
		domain += " " + s.Query.Type
	}
	what := s.Decision.Verdict.Verb()
	if !s.Enforced && s.Decision.Verdict.Refuses() {
		what = "would be " + what
	}
	return []string{
		fmt.Sprint(s.ID), clock(s.Started), what, app, s.Direction.String(), s.Tuple.Protocol.String(),
		domain, remote, local, why(s.Decision.Reason) + outcomeOf(s.Query),
	}
}

// clock is the time of day, with the date if it was not today.
func clock(t time.Time) string {
	t = t.Local()
	if t.Format(time.DateOnly) == time.Now().Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}

// outcomeOf says what a DNS query was answered; nothing about a connection.
func outcomeOf(q *conn.Query) string {
	switch {
	case q == nil:
		return ""
	case q.Error != "":
		return "; " + q.Error
	case len(q.Addresses) > 0:
		text := "; " + q.Source + ":"
		for _, a := range q.Addresses {
			text += " " + a.String()
		}
		return text
	case q.RCode != "":
		return "; " + q.Source + ": " + q.RCode
	}
	return ""
}
