package firewall

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

// Asker puts a connection to a person and waits for the answer until ctx is
// done.
type Asker interface {
	// Ask waits for the answer. The error is context.DeadlineExceeded if there was none in time, and ErrNobody if there is nobody who
	// could give one: both are denials by default.
	Ask(ctx context.Context, s *conn.Snapshot) (verdict.Decision, error)
}

// ErrNobody is what an Asker returns at once while there is nobody to ask.
var ErrNobody = errors.New("firewall: there is nobody to ask")

// RuleDecider makes a Decider of rules. It decides every connection, by a
// default if need be, so it comes last.
type RuleDecider struct {
	// Rules in force; required.
	Rules *rules.Live
	// Asker answers rules with the action ask. Without one they are denied at
	// once, as if nobody had answered.
	Asker Asker
	// Timeout of a question; default 1 minute.
	Timeout time.Duration
}

// Decide implements Decider.
func (d *RuleDecider) Decide(_ context.Context, s *conn.Snapshot) Outcome {
	r := d.Rules.Load().Evaluate(s)
	o := Outcome{Decided: true, Decision: r.Decision, Inspect: r.Inspect, NeedsName: r.NeedsDomain}
	if r.Rule != nil {
		o.Hit = r.Rule
	}
	switch {
	case !r.Ask:
	case d.Asker == nil:
		o.Decision = askedNobody(s, r)
	default:
		o.Wait = func(ctx context.Context) (verdict.Decision, error) { return d.ask(ctx, s, r) }
	}
	return o
}

func (d *RuleDecider) ask(ctx context.Context, s *conn.Snapshot, asked rules.Outcome) (verdict.Decision, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(d.Timeout, time.Minute))
	defer cancel()
	answer, err := d.Asker.Ask(ctx, s)
	if errors.Is(err, ErrNobody) {
		return askedNobody(s, asked), nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return rules.AskTimeout(s.Direction, asked), nil
	}
	return answer, err //nolint:wrapcheck // the asker's own words are for people
}

// askedNobody is the denial of a connection about which there is nobody to ask.
func askedNobody(s *conn.Snapshot, asked rules.Outcome) verdict.Decision {
	d := rules.AskTimeout(s.Direction, asked)
	d.Reason.Text = "the rule asks, and there is nobody to ask"
	return d
}
