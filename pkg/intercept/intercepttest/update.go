package intercepttest

import (
	"fmt"
	"slices"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Op names a call of intercept.Updater or intercept.Cutter.
type Op string

// The calls that a Source records.
const (
	OpUpdate    Op = "update"
	OpForget    Op = "forget"
	OpForgetAll Op = "forget all"
	OpCut       Op = "cut"
)

// Call is a recorded call.
type Call struct {
	Op     Op
	Tuple  packet.Tuple
	Action verdict.Action
	Route  uint8
}

// Calls returns what was asked of the Source by Update, Forget, ForgetAll and
// Cut, in order.
func (s *Source) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Remembered returns the permanent verdict that decides packets of the
// connection now.
func (s *Source) Remembered(t packet.Tuple) (action verdict.Action, route uint8, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.memory[t]
	return m.action, m.route, ok
}

// Update implements intercept.Updater: a permanent action is remembered,
// another one is the same as Forget.
func (s *Source) Update(t packet.Tuple, action verdict.Action, route uint8) error {
	return s.record(Call{Op: OpUpdate, Tuple: t, Action: action, Route: route}, func() {
		if action.Permanent() && s.cfg.Memory == Remembers {
			s.memory[t] = memo{action: action, route: route}
		} else {
			delete(s.memory, t)
		}
	})
}

// Forget implements intercept.Updater.
func (s *Source) Forget(t packet.Tuple) error {
	return s.record(Call{Op: OpForget, Tuple: t}, func() { delete(s.memory, t) })
}

// ForgetAll implements intercept.Updater.
func (s *Source) ForgetAll() error {
	return s.record(Call{Op: OpForgetAll}, func() { clear(s.memory) })
}

// Cut implements intercept.Cutter. It is only recorded.
func (s *Source) Cut(t packet.Tuple) error {
	return s.record(Call{Op: OpCut, Tuple: t}, func() {})
}

// record notes c and applies it with s.mu held.
func (s *Source) record(c Call, apply func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil {
		return fmt.Errorf("%s %v: %w", c.Op, c.Tuple, ErrNotRunning)
	}
	s.calls = append(s.calls, c)
	apply()
	return nil
}

// ReportUsage passes u to the handler if it is an intercept.Traffic.
func (s *Source) ReportUsage(u ...intercept.Usage) error {
	t, err := s.traffic()
	if err == nil && t != nil {
		t.ReportUsage(u)
	}
	return err
}

// ReportEnd passes e to the handler if it is an intercept.Traffic. What was
// remembered about the connection is gone.
func (s *Source) ReportEnd(e intercept.End) error {
	t, err := s.traffic()
	if err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.memory, e.Tuple)
	s.mu.Unlock()
	if t != nil {
		t.ReportEnd(e)
	}
	return nil
}

func (s *Source) traffic() (intercept.Traffic, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil {
		return nil, fmt.Errorf("report traffic: %w", ErrNotRunning)
	}
	t, _ := s.active.handler.(intercept.Traffic)
	return t, nil
}
