package refd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/refd/prompt"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

// buildPrompts makes what asks people.
func (d *Daemon) buildPrompts() {
	d.prompts = prompt.New(prompt.Config{
		Rules: &d.rules, DenyAfter: d.cfg.Ask.DenyAfter, Timeout: d.cfg.Ask.Timeout, Write: d.writeAnswer,
		Changed: d.feed.changed,
		Logger:  d.log.With("module", "prompts"),
	})
}

// writeAnswer writes a rule to the configuration file, and has it in force when it returns.
func (d *Daemon) writeAnswer(ctx context.Context, s *conn.Snapshot, a prompt.Answer) error {
	profile := d.rules.Load().Evaluate(s).Profile
	_, err := d.edit(ctx, false, func(l *config.Loaded) ([]config.Change, error) {
		r := ruleOf(s, a, taken(&l.File))
		apps := slices.Clone(l.Apps)
		i := slices.IndexFunc(apps, func(p rules.AppProfile) bool { return p.ID == profile })
		if i >= 0 {
			apps[i].Rules = slices.Concat([]rules.Rule{r}, apps[i].Rules)
		} else {
			p := rules.AppProfile{ID: r.ID, Match: []rules.AppMatch{r.App}}
			r.App = rules.AppMatch{}
			p.Rules = []rules.Rule{r}
			apps = append(apps, p)
		}
		return []config.Change{{Key: "apps", Value: apps}}, nil
	})
	return err
}

// taken reports which ids of rules, and of profiles, are in use.
func taken(f *config.File) func(id string) bool {
	used := map[string]bool{}
	note := func(list []rules.Rule) {
		for i := range list {
			used[list[i].ID] = true
		}
	}
	note(f.Global)
	for i := range f.Apps {
		used[f.Apps[i].ID] = true
		note(f.Apps[i].Rules)
	}
	return func(id string) bool { return used[id] }
}

// ruleOf makes a rule of an answer about a connection.
func ruleOf(s *conn.Snapshot, a prompt.Answer, taken func(string) bool) rules.Rule {
	r := rules.Rule{
		App: rules.AppMatch{Path: rules.Quote(s.Process.Path), Script: rules.Quote(s.Process.Script)}, Direction: rules.Out, Action: a.Action,
		Comment: "somebody was asked, and answered " + a.Action.String(),
	}
	if s.Direction == packet.Inbound {
		r.Direction = rules.In
	}
	what := a.Action.String() + "-" + word(filepath.Base(connstore.App(s.Process.Path, s.Process.Script)))
	if a.Target != "" {
		r.Remote = []string{a.Target}
		what += "-" + word(a.Target)
	}
	r.ID = free(what, taken)
	return r
}

// free returns an id that is not taken: this one, or with a number.
func free(wanted string, taken func(string) bool) string {
	id := wanted
	for n := 2; taken(id); n++ {
		id = wanted + "-" + strconv.Itoa(n)
	}
	return id
}

// word keeps what is good in an id.
func word(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '_'
	}, s)
}

// Prompts implements api.Backend.
func (b backend) Prompts(context.Context) ([]prompt.Prompt, error) { return b.d.prompts.All(), nil }

// Answer implements api.Backend.
func (b backend) Answer(ctx context.Context, r api.AnswerRequest) error {
	var err error
	if r.Dismiss {
		err = b.d.prompts.Dismiss(r.ID)
	} else {
		err = b.d.prompts.Answer(ctx, r.ID, r.Answer)
	}
	switch {
	case errors.Is(err, prompt.ErrNoPrompt):
		return fmt.Errorf("%w: %w", api.ErrNotFound, err)
	case errors.Is(err, prompt.ErrAnswer):
		return fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	return err //nolint:wrapcheck // it says what it is about
}

// Forget implements api.Backend.
func (b backend) Forget(context.Context) (api.Forgotten, error) {
	return api.Forgotten{Answers: b.d.prompts.Forget()}, nil
}
