package refd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/refd/prompt"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

// buildPrompts makes what asks people.
func (d *Daemon) buildPrompts() {
	d.prompts = prompt.New(prompt.Config{
		Rules: &d.rules, DenyAfter: d.cfg.Ask.DenyAfter, Timeout: d.cfg.Ask.Timeout, Write: d.writeAnswer, Query: d.onlyQueries,
		Changed: d.feed.changed,
		Logger:  d.log.With("module", "prompts"),
	})
}

// onlyQueries reports whether a connection carries DNS queries and nothing else: it is inspected, or goes to who answers them for this
// host. A port alone says nothing: whoever leads somewhere else may listen there.
func (d *Daemon) onlyQueries(c *conn.Snapshot) bool { return d.onlyQueriesTo(c, systemServers) }

func (d *Daemon) onlyQueriesTo(c *conn.Snapshot, servers func() [][]netip.Addr) bool {
	t := &c.Tuple
	if c.Direction != packet.Outbound || t.Remote.Port() != nameserver.Port || t.Protocol != packet.UDP && t.Protocol != packet.TCP {
		return false
	}
	return d.dns.inspector != nil && d.dns.inspector.Inspects(c) ||
		d.nameserver.server.Enabled() && slices.Contains(d.opt.Config.DNS.Nameserver.Listen, t.Remote) ||
		slices.ContainsFunc(slices.Concat(servers()...), func(a netip.Addr) bool { return a.Unmap().WithZone("") == t.Remote.Addr().WithZone("") })
}

// writeAnswer writes a rule to the configuration file, and has it in force when it returns.
func (d *Daemon) writeAnswer(ctx context.Context, s *conn.Snapshot, a prompt.Answer) error {
	profile := d.rules.Load().Evaluate(s).Profile
	_, err := d.edit(ctx, false, func(l *config.Loaded) ([]config.Change, error) {
		if l.Digest != d.running().Digest {
			// who answers a question does not mean to put what somebody is writing there into force
			return nil, fmt.Errorf("%w: the configuration file was changed and is not in force: `refd reload` first, then answer", api.ErrRefused)
		}
		r, err := ruleOf(s, a, taken(&l.File))
		if err != nil {
			return nil, err
		}
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

// appOf matches an app by its file, and one whose path is not the host's by its identity. A match of nothing would be one of everybody.
func appOf(p *conn.Process) rules.AppMatch {
	m := rules.AppMatch{Path: rules.Quote(p.Path), Script: rules.Quote(p.Script)}
	if p.Path == "" && p.InnerPath != "" {
		m.Identity = rules.Quote(p.App.ID)
	}
	return m
}

// ruleOf makes a rule of an answer about a connection. Its error wraps prompt.ErrAnswer.
func ruleOf(s *conn.Snapshot, a prompt.Answer, taken func(string) bool) (r rules.Rule, err error) {
	r = rules.Rule{
		App: appOf(s.Process), Direction: rules.Out, Action: a.Action,
		Comment: "somebody was asked, and answered " + a.Action.String(),
	}
	if s.Direction == packet.Inbound {
		r.Direction = rules.In
	}
	what := a.Action.String() + "-" + word(filepath.Base(connstore.App(s.Process.Executable(), s.Process.Script)))
	if a.Target != "" {
		entry, err := remoteOf(s)
		if err != nil {
			return r, err
		}
		r.Remote = []string{entry}
		what += "-" + word(a.Target)
	}
	r.ID = free(what, taken)
	return r, nil
}

// free returns an id that is not taken: this one, or with a number.
func free(wanted string, taken func(string) bool) string {
	id := wanted
	for n := 2; taken(id); n++ {
		id = wanted + "-" + strconv.Itoa(n)
	}
	return id
}

// remoteOf writes the other side of a connection as a rule has it: its name, which somebody else chose, and nothing that looks like
// more; or its address.
func remoteOf(s *conn.Snapshot) (string, error) {
	if s.Domain == "" {
		return s.Tuple.Remote.Addr().Unmap().WithZone("").String(), nil
	}
	entry, ok := rules.ExactName(s.Domain)
	if !ok {
		return "", fmt.Errorf("%w: no rule can be about the name %q", prompt.ErrAnswer, s.Domain)
	}
	return entry, nil
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
func (b backend) Prompts(ctx context.Context) ([]prompt.Prompt, error) {
	if !api.MayWrite(ctx) {
		return b.d.prompts.Peek(), nil // nobody is to wait for an answer that cannot be given
	}
	return b.d.prompts.All(), nil
}

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
