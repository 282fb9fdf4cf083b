package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/verdict"
)

type connsCmd struct {
	Watch     bool     `short:"w" help:"Show again every second until interrupted."`
	JSON      bool     `name:"json" help:"Print JSON."`
	App       string   `help:"Only apps whose path contains this."`
	Domain    string   `help:"Only domains that contain this."`
	Verdict   []string `help:"Only these verdicts, such as Accept or Block."`
	Remote    string   `help:"Only remote addresses in this network, such as 10.0.0.0/8."`
	Port      uint16   `help:"Only connections with this port."`
	Direction string   `enum:"in,out," default:"" help:"Only in or out."`
	Live      bool     `help:"Only live ones."`
	Limit     int      `default:"100" help:"At most so many; 0 is all."`
}

// Run lists connections.
func (c *connsCmd) Run(a *app) error {
	q, err := c.query()
	if err != nil {
		return err
	}
	if c.Watch {
		return c.watch(a, q)
	}
	p, err := a.client().Connections(a.ctx, q)
	switch {
	case err != nil:
		return err
	case c.JSON:
		return printJSON(a.stdout, p)
	}
	if err := printConns(a.stdout, p); err != nil {
		return err
	}
	if n := len(p.Connections); n < p.Total {
		return a.say("%d of %d; --limit 0 shows all\n", n, p.Total)
	}
	return nil
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
	if f, isFile := w.(*os.File); isFile && !c.JSON {
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
	lines := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")
	for i, line := range lines {
		// one less: at the end of a full line, clearing would begin with its last place
		if r := []rune(line); len(r) >= columns {
			line = string(r[:columns-1])
		}
		lines[i] = line + clearLine
	}
	if _, err := io.WriteString(w, noWrap+home+strings.Join(lines, "\n")+clearRest+wrap); err != nil {
		return fmt.Errorf("draw: %w", err)
	}
	return nil
}

func (c *connsCmd) query() (connstore.Query, error) {
	q := connstore.Query{App: c.App, Domain: c.Domain, Port: c.Port, Limit: c.Limit}
	for _, name := range c.Verdict {
		v, err := parseVerdict(name)
		if err != nil {
			return q, fmt.Errorf("--verdict: %w", err)
		}
		q.Verdicts = append(q.Verdicts, v)
	}
	if c.Remote != "" {
		p, err := netip.ParsePrefix(c.Remote)
		if err != nil {
			addr, err2 := netip.ParseAddr(c.Remote)
			if err2 != nil {
				return q, fmt.Errorf("--remote %q: write an address or a network such as 10.0.0.0/8", c.Remote)
			}
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		q.Remote = p
	}
	switch c.Direction {
	case "in":
		q.Direction = connstore.OnlyInbound
	case "out":
		q.Direction = connstore.OnlyOutbound
	}
	if c.Live {
		q.Life = connstore.OnlyLive
	}
	return q, nil
}

// parseVerdict takes a name in any case.
func parseVerdict(name string) (verdict.Verdict, error) {
	for v := range verdict.Verdict(verdict.NumVerdicts) {
		if strings.EqualFold(v.String(), name) {
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
	return table(w, rows)
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
	what := s.Decision.Verdict.Verb()
	if !s.Enforced && s.Decision.Verdict.Refuses() {
		what = "would be " + what
	}
	return []string{
		fmt.Sprint(s.ID), s.Started.Local().Format(time.TimeOnly), what, app, s.Direction.String(), s.Tuple.Protocol.String(),
		domain, remote, local, why(s.Decision.Reason),
	}
}
