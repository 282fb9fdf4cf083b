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
	Ask(ctx context.Context, s *conn.Snapshot) (verdict.Decision, error)
}

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
		o.Decision = rules.AskTimeout(s.Direction, r)
		o.Decision.Reason.Text = "the rule asks, and there is nobody to ask"
	default:
		o.Wait = func(ctx context.Context) (verdict.Decision, error) { return d.ask(ctx, s, r) }
	}
	return o
}

func (d *RuleDecider) ask(ctx context.Context, s *conn.Snapshot, asked rules.Outcome) (verdict.Decision, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(d.Timeout, time.Minute))
	defer cancel()
	answer, err := d.Asker.Ask(ctx, s)
	if errors.Is(err, context.DeadlineExceeded) {
		return rules.AskTimeout(s.Direction, asked), nil
	}
	return answer, err //nolint:wrapcheck // the asker's own words are for people
}
