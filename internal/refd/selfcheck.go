package refd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/module"
)

// When the self-check runs.
const (
	checkOnStart     = 2 * time.Second
	checkEvery       = 5 * time.Minute
	checkAfterChange = 15 * time.Second
	// checkAgain is after a failure, which may pass.
	checkAgain = 30 * time.Second
	// checkTimeout bounds one check.
	checkTimeout = 10 * time.Second
	// checkFailures is after how many in a row people are told.
	checkFailures = 2
)

// errNothingToCheck is wrapped by the error of a check about what is not switched on, or not there.
var errNothingToCheck = errors.New("nothing to check")

// check is a part of the self-check.
type check struct {
	// id is that of the state, title its name and remedy what to do.
	id, title, remedy string
	run               func(ctx context.Context) error
}

// selfCheck looks from time to time whether what refd relies on works.
type selfCheck struct {
	checks []check
	// due reports whether there is any sense in checking now.
	due    func() bool
	states *module.States
	log    *slog.Logger
	// changed gets a value when the network has.
	changed chan struct{}

	mu sync.Mutex // held while checks run; guards what follows
	// failed counts failures in a row, by id.
	failed map[string]int
}

// networkChanged has a check follow soon.
func (s *selfCheck) networkChanged() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *selfCheck) run(ctx context.Context, ready func()) error {
	next := time.Now().Add(checkOnStart)
	timer := time.NewTimer(checkOnStart)
	defer timer.Stop()
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
			if soon := time.Now().Add(checkAfterChange); soon.Before(next) {
				next = soon // one that is near is not put off: changes may go on and on
			}
		case <-timer.C:
			next = time.Now().Add(s.checkIfDue(ctx))
		}
		timer.Reset(time.Until(next))
	}
}

// checkIfDue returns when to check again.
func (s *selfCheck) checkIfDue(ctx context.Context) time.Duration {
	if !s.due() {
		return checkEvery
	}
	for _, r := range s.now(ctx) {
		if r.Result == api.CheckFailed {
			return checkAgain
		}
	}
	return checkEvery
}

// now checks everything, and shows what has failed repeatedly as states.
func (s *selfCheck) now(ctx context.Context) []api.CheckResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	results := make([]api.CheckResult, 0, len(s.checks))
	for _, c := range s.checks {
		began := time.Now()
		err := c.limited(ctx)
		if ctx.Err() != nil {
			break // it was told to stop, and says nothing
		}
		r := api.CheckResult{ID: c.id, Result: api.CheckPassed, Took: time.Since(began)}
		switch {
		case errors.Is(err, errNothingToCheck):
			r.Result, r.Message = api.CheckSkipped, err.Error()
		case err != nil:
			r.Result, r.Message, r.Remedy = api.CheckFailed, err.Error(), c.remedy
			s.log.Info("self-check failed", "check", c.id, "err", err)
		}
		s.judgeLocked(&c, &r)
		results = append(results, r)
	}
	return results
}

func (c *check) limited(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return c.run(ctx)
}

func (s *selfCheck) judgeLocked(c *check, r *api.CheckResult) {
	if r.Result != api.CheckFailed {
		delete(s.failed, c.id)
		s.states.Remove(c.id)
		return
	}
	if s.failed[c.id]++; s.failed[c.id] < checkFailures {
		return
	}
	s.states.Update(module.State{
		ID: c.id, Name: c.title, Severity: module.Warning, Message: fmt.Sprintf("%s: %s. %s", c.title, r.Message, c.remedy),
	})
}
