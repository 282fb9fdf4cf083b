// Package desktop shows prompts as notifications of a desktop, by the D-Bus interface org.freedesktop.Notifications
// (https://specifications.freedesktop.org/notification-spec/latest/), and passes on what the user chooses there.
package desktop

import (
	"context"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/prompt"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

const (
	busName  = "org.freedesktop.Notifications"
	busPath  = dbus.ObjectPath("/org/freedesktop/Notifications")
	busIface = "org.freedesktop.Notifications"

	// dbusName is the bus itself, as a name and as an interface.
	dbusName = "org.freedesktop.DBus"
)

// Prompter is who asks.
type Prompter interface {
	Prompts(ctx context.Context) ([]prompt.Prompt, error)
	Answer(ctx context.Context, r api.AnswerRequest) error
}

// Config of Run.
type Config struct {
	// Bus is a connection to the user's session bus. Required; it stays open.
	Bus *dbus.Conn
	// Prompter is required.
	Prompter Prompter
	// Every is how often prompts are looked for; default 1 s.
	Every time.Duration
	// Logger is silent if nil.
	Logger *slog.Logger
}

// choice is a button.
type choice struct {
	key, label string
	answer     prompt.Answer
}

// choices are in the order of the buttons. Some desktops show two or three only.
func choices() []choice {
	return []choice{
		{"allow-once", "Allow once", prompt.Answer{Action: rules.Allow, For: prompt.Once}},
		{"block-once", "Block once", prompt.Answer{Action: rules.Block, For: prompt.Once}},
		{"allow-always", "Allow everything, always", prompt.Answer{Action: rules.Allow, For: prompt.Always}},
		{"block-always", "Block everything, always", prompt.Answer{Action: rules.Block, For: prompt.Always}},
		{"allow-session", "Allow everything until refd ends", prompt.Answer{Action: rules.Allow, For: prompt.Session}},
	}
}

// agent is for one goroutine.
type agent struct {
	cfg   Config
	shown map[uint64]*shown // by prompt
	// owner is the name on the bus of who shows notifications; empty if it is not known. Nobody else's clicks count.
	owner string
}

type shown struct {
	notification uint32
	text         string
	revision     uint64
}

// Run shows prompts until ctx is done; then it takes back what it showed. The error is about a bus without notifications, or a bus
// that went away; that refd cannot be asked is logged, and tried again.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Every == 0 {
		cfg.Every = time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	a := &agent{cfg: cfg, shown: map[uint64]*shown{}}
	signals := make(chan *dbus.Signal, 64)
	cfg.Bus.Signal(signals)
	defer cfg.Bus.RemoveSignal(signals)
	// a match on the sender goes by its well-known name, and the bus knows whose that is
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(busName), dbus.WithMatchObjectPath(busPath), dbus.WithMatchInterface(busIface)},
		{dbus.WithMatchSender(dbusName), dbus.WithMatchInterface(dbusName), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName)},
	} {
		if err := cfg.Bus.AddMatchSignalContext(ctx, match...); err != nil {
			return fmt.Errorf("listen to the desktop: %w", err)
		}
	}
	a.findOwner(ctx)
	tick := time.NewTicker(cfg.Every)
	defer tick.Stop()
	defer a.takeBack(context.WithoutCancel(ctx))
	failing := false
	for {
		err := a.update(ctx)
		if broken := (*busError)(nil); errors.As(err, &broken) && ctx.Err() == nil {
			return err
		}
		if (err != nil) != failing && ctx.Err() == nil {
			if failing = err != nil; failing {
				cfg.Logger.Warn("ask refd for questions", "err", err)
			} else {
				cfg.Logger.Info("refd can be asked for questions again")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-cfg.Bus.Context().Done():
			return errors.New("the desktop's bus has gone")
		case <-tick.C:
		case s := <-signals:
			if s != nil {
				a.heard(ctx, s)
			}
		}
	}
}

// busError is about the desktop, not about refd.
type busError struct{ err error }

func (e *busError) Error() string { return "notifications of the desktop: " + e.err.Error() }
func (e *busError) Unwrap() error { return e.err }

// patience is how long a desktop may take to answer.
const patience = 2 * time.Second

// update shows what is new or another, and takes back what has gone.
func (a *agent) update(ctx context.Context) error {
	open, err := a.cfg.Prompter.Prompts(ctx)
	if err != nil {
		return err //nolint:wrapcheck // Run logs it as what it is
	}
	still := map[uint64]bool{}
	for i := range open {
		p := &open[i]
		still[p.ID] = true
		if err := a.show(ctx, p); err != nil {
			return err
		}
	}
	for id, s := range a.shown {
		if !still[id] {
			delete(a.shown, id)
			if err := a.closeOne(ctx, s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *agent) show(ctx context.Context, p *prompt.Prompt) error {
	title, body := Text(p)
	s := a.shown[p.ID]
	if s != nil && s.text == title+body {
		s.revision = p.Revision
		return nil
	}
	var replaces uint32
	if s != nil {
		replaces = s.notification
	}
	var buttons []string
	for _, c := range choices() {
		if c.answer.For == prompt.Always && p.App == "" {
			continue // there is no program to write a rule for
		}
		buttons = append(buttons, c.key, c.label)
	}
	hints := map[string]dbus.Variant{"urgency": dbus.MakeVariant(byte(2)), "category": dbus.MakeVariant("network")}
	var id uint32
	const never = int32(0)
	// The answer is waited for even if ctx ends: without it, what is shown could not be taken back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	err := a.cfg.Bus.Object(busName, busPath).CallWithContext(ctx, busIface+".Notify", 0,
		"refd", replaces, "security-high", title, body, buttons, hints, never).Store(&id)
	if err != nil {
		return &busError{err}
	}
	a.shown[p.ID] = &shown{id, title + body, p.Revision}
	if a.owner == "" {
		a.findOwner(ctx) // it may have been started by the call
	}
	return nil
}

// Text is a prompt in words: a title, and the rest with the mark-up that desktops know.
func Text(p *prompt.Prompt) (title, body string) {
	name := prompt.Printable(p.Process.Name())
	if name == "" {
		name = "An unknown program"
	}
	what := "wants to connect"
	if p.Direction == packet.Inbound {
		what = "is being connected to"
	}
	lines := ""
	for _, t := range p.Targets[max(0, len(p.Targets)-3):] {
		to := t.Remote.String()
		if t.Domain != "" {
			to = t.Domain + " (" + to + ")"
		}
		lines += html.EscapeString(prompt.Printable(to)+", "+t.Protocol.String()) + "\n"
	}
	if more := len(p.Targets) - 3; more > 0 {
		lines += fmt.Sprintf("and %d more\n", more)
	}
	return name + " " + what, lines + html.EscapeString(prompt.Printable(p.Program()))
}

// findOwner asks the bus who shows notifications.
func (a *agent) findOwner(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var owner string
	if err := a.cfg.Bus.BusObject().CallWithContext(ctx, dbusName+".GetNameOwner", 0, busName).Store(&owner); err == nil {
		a.owner = owner // else nobody does yet
	}
}

func (a *agent) closeOne(ctx context.Context, s *shown) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	err := a.cfg.Bus.Object(busName, busPath).CallWithContext(ctx, busIface+".CloseNotification", 0, s.notification).Err
	if e := (dbus.Error{}); errors.As(err, &e) {
		return nil // it was closed there, too
	}
	if err != nil {
		return &busError{err}
	}
	return nil
}

// takeBack closes what is shown when nobody listens to the answer any more.
func (a *agent) takeBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, s := range a.shown {
		if err := a.closeOne(ctx, s); err != nil {
			a.cfg.Logger.Warn("take a notification back", "err", err)
			return
		}
	}
}

// heard passes an answer on. A notification that the user closed stays closed until something about its prompt changes.
func (a *agent) heard(ctx context.Context, s *dbus.Signal) {
	if s.Name == dbusName+".NameOwnerChanged" && s.Sender == dbusName {
		var name, before, after string
		if err := dbus.Store(s.Body, &name, &before, &after); err == nil && name == busName {
			a.owner = after
		}
		return
	}
	if s.Name != busIface+".ActionInvoked" || s.Sender != a.owner || a.owner == "" {
		return // every program on the bus can send this
	}
	var id uint32
	var key string
	if err := dbus.Store(s.Body, &id, &key); err != nil {
		return // not in the form of the specification
	}
	for of, it := range a.shown {
		if it.notification != id {
			continue
		}
		for _, c := range choices() {
			if c.key != key {
				continue
			}
			c.answer.Seen = it.revision
			if err := a.cfg.Prompter.Answer(ctx, api.AnswerRequest{ID: of, Answer: c.answer}); err != nil {
				a.cfg.Logger.Warn("answer a question", "err", err)
				it.text = "" // it is asked again
			}
		}
	}
}
