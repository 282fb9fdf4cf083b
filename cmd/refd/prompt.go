package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/weirfw/weir/internal/refd/api"
	notify "github.com/weirfw/weir/internal/refd/desktop"
	"github.com/weirfw/weir/internal/refd/prompt"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

type promptCmd struct {
	Watch   promptWatchCmd   `cmd:"" default:"1" help:"Wait for questions and answer them in this terminal."`
	List    promptListCmd    `cmd:"" help:"List the open questions."`
	Answer  promptAnswerCmd  `cmd:"" help:"Answer a question."`
	Forget  promptForgetCmd  `cmd:"" help:"Take back the answers that hold for this session."`
	Desktop promptDesktopCmd `cmd:"" help:"Show questions as notifications of this desktop session, until interrupted."`
}

type promptWatchCmd struct{}

// answers are what somebody types.
//
//nolint:gochecknoglobals // a table that nobody writes
var answers = map[string]prompt.Answer{
	"a": {Action: rules.Allow, For: prompt.Once}, "as": {Action: rules.Allow, For: prompt.Session}, "aa": {Action: rules.Allow, For: prompt.Always},
	"b": {Action: rules.Block, For: prompt.Once}, "bs": {Action: rules.Block, For: prompt.Session}, "ba": {Action: rules.Block, For: prompt.Always},
}

const answerHelp = "a allow, b block; as, bs for this session; aa, ba always (writes a rule); d dismiss > "

// Run asks in a terminal.
func (promptWatchCmd) Run(a *app) error {
	client := a.client()
	lines := readLines(a)
	said := false
	seen := map[uint64]string{}
	for {
		open, err := client.Prompts(a.ctx)
		if a.ctx.Err() != nil {
			return nil //nolint:nilerr // interrupted: that was the question
		}
		if err != nil {
			return err
		}
		next := unanswered(open, seen)
		if next == nil {
			if !said {
				said = true
				if err := a.say("waiting for questions; interrupt to end\n"); err != nil {
					return err
				}
			}
			select {
			case <-a.ctx.Done():
				return nil
			case _, ok := <-lines:
				if !ok {
					return nil
				}
			case <-time.After(500 * time.Millisecond):
			}
			continue
		}
		if err := a.say("\n%s%s", promptText(next), answerHelp); err != nil {
			return err
		}
		select {
		case <-a.ctx.Done():
			return nil
		case line, ok := <-lines:
			if !ok {
				return nil
			}
			if err := answerLine(a, client, next, line, seen); err != nil {
				return err
			}
		}
	}
}

// unanswered returns the oldest question that was not put aside as it is.
func unanswered(open []prompt.Prompt, seen map[uint64]string) *prompt.Prompt {
	for i := range open {
		if seen[open[i].ID] != promptText(&open[i]) {
			return &open[i]
		}
	}
	return nil
}

func answerLine(a *app, client *api.Client, p *prompt.Prompt, line string, seen map[uint64]string) error {
	r := api.AnswerRequest{ID: p.ID, Dismiss: line == "d"}
	answer, ok := answers[line]
	answer.Seen = p.Revision
	switch r.Answer = answer; {
	case line == "":
		seen[p.ID] = promptText(p)
		return a.say("put aside\n")
	case !ok && !r.Dismiss:
		return a.say("what is %q?\n", printable(line))
	}
	if err := client.Answer(a.ctx, r); err != nil {
		return a.say("%v\n", err)
	}
	return nil
}

// readLines reads what is typed. The channel is closed at its end.
func readLines(a *app) <-chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(a.stdin); in.Scan(); {
			select {
			case lines <- strings.TrimSpace(in.Text()):
			case <-a.ctx.Done():
				return
			}
		}
	}()
	return lines
}

// promptText is a question in words.
func promptText(p *prompt.Prompt) string {
	var b strings.Builder
	what := "wants to connect to"
	if p.Direction == packet.Inbound {
		what = "is being connected to by"
	}
	fmt.Fprintf(&b, "%d: %s %s\n", p.ID, printable(cmp.Or(p.Program(), "an unknown program")), what)
	for _, t := range p.Targets {
		fmt.Fprintf(&b, "   %s %s %s\n", t.Protocol, t.Remote, printable(t.Domain))
	}
	return b.String()
}

type promptListCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run lists.
func (c *promptListCmd) Run(a *app) error {
	open, err := a.client().Prompts(a.ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, open)
	}
	rows := [][]string{{"ID", "SINCE", "APP", "DIR", "WAITING", "TARGETS"}}
	for i := range open {
		p := &open[i]
		var targets []string
		for _, t := range p.Targets {
			targets = append(targets, t.Name())
		}
		rows = append(rows, []string{
			fmt.Sprint(p.ID), clock(p.Asked), printable(cmp.Or(p.Program(), "?")), p.Direction.String(), fmt.Sprint(p.Waiting), strings.Join(targets, " "),
		})
	}
	return table(a.stdout, rows)
}

type promptAnswerCmd struct {
	ID     uint64 `arg:"" help:"Number of the question."`
	Action string `arg:"" enum:"allow,block,drop,dismiss" help:"allow, block, drop or dismiss."`
	For    string `enum:"once,session,always" default:"once" help:"once, session or always, which writes a rule."`
	Target string `help:"Only for this domain or address of the question."`
}

// Run answers.
func (c *promptAnswerCmd) Run(a *app) error {
	r := api.AnswerRequest{ID: c.ID, Dismiss: c.Action == "dismiss", Answer: prompt.Answer{For: prompt.Duration(c.For), Target: c.Target}}
	if !r.Dismiss {
		if err := r.Answer.Action.UnmarshalText([]byte(c.Action)); err != nil {
			return fmt.Errorf("action: %w", err)
		}
	}
	return a.client().Answer(a.ctx, r)
}

type promptForgetCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run forgets.
func (c *promptForgetCmd) Run(a *app) error {
	f, err := a.client().Forget(a.ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, f)
	}
	return a.say("%s forgotten\n", count(f.Answers, "answer"))
}

type promptDesktopCmd struct{}

// Run shows notifications.
func (promptDesktopCmd) Run(a *app) error {
	client := a.client()
	if _, err := client.Prompts(a.ctx); err != nil {
		return err
	}
	bus, err := dbus.ConnectSessionBus(dbus.WithContext(context.WithoutCancel(a.ctx)))
	if err != nil {
		return fmt.Errorf("connect to the session bus (run this in a desktop session): %w", err)
	}
	defer bus.Close()                                                                                                         //nolint:errcheck // the process ends
	return notify.Run(a.ctx, notify.Config{Bus: bus, Prompter: client, Logger: slog.New(slog.NewTextHandler(a.stderr, nil))}) //nolint:wrapcheck // it says what it is about
}
