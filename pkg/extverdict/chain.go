package extverdict

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/verdict"
)

// Link is a handler of a Chain.
type Link struct {
	// Name is for people. Required.
	Name string
	// Handle is required.
	Handle Handler
}

// ErrEmptyChain is returned by Chain without handlers.
var ErrEmptyChain = errors.New("extverdict: a chain needs handlers")

// Chain makes one handler of several, for a Slot. They are asked in order, and
// the first that decides is believed; Result.By names it. They share the time
// that the firewall gives: once it is over, no further one is asked. One that
// panics makes the connection Failed, and no further one is asked; an answer that
// is not allowed counts as Undecided, and the next one is asked. Both are told by
// Call.Do, as they are of a handler alone.
//
// Errors wrap ErrEmptyChain or ErrNoHandler.
func Chain(links ...Link) (Handler, error) {
	if len(links) == 0 {
		return nil, ErrEmptyChain
	}
	calls := make([]Call, len(links))
	for i, l := range links {
		if l.Handle == nil {
			return nil, fmt.Errorf("chain %q: %w", l.Name, ErrNoHandler)
		}
		calls[i] = Call{&registration{name: l.Name, handle: l.Handle}}
	}
	return func(ctx context.Context, s *conn.Snapshot) Result { return ask(ctx, s, calls) }, nil
}

func ask(ctx context.Context, s *conn.Snapshot, calls []Call) Result {
	var faults []error
	for _, c := range calls {
		r, err := c.Do(ctx, s)
		if err != nil {
			faults = append(faults, err)
		}
		if r.Verdict != verdict.Undecided {
			r.By = cmp.Or(r.By, c.Name())
			r.fault = together(faults)
			return r
		}
		if ctx.Err() != nil {
			break
		}
	}
	return Result{fault: together(faults)}
}

// together is errors.Join that leaves a single error as it is.
func together(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}
