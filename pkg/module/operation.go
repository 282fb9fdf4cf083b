package module

import (
	"context"
	"errors"
	"fmt"
)

// Operation is something that a program does instead of starting its modules, such as a check of its config or a
// clean-up. The constructor of one module sets it in [Config.Operation] if the command line asks for it; then all
// modules are built, none is started, and the operation runs. See [Run].
type Operation struct {
	// Name is for people. Required.
	Name string
	// Run does it. Its error makes the exit status, see [ExitStatus]. Required.
	Run func(ctx context.Context) error
}

// Operator is a [Module] that may have an [Operation]; nil means none.
type Operator interface {
	Operation() *Operation
}

// Operation returns the operation of the one module in the group that has one, or nil.
func (g *Group) Operation() *Operation { return g.op }

// FindOperation returns the operation of m or of a module in it, or nil. If there are several, the error wraps
// [ErrOperations].
func FindOperation(m Module) (*Operation, error) { return findOperation(m) }

// findOperation asks groups for their modules only: the operation of a group is that of a module in it.
func findOperation(m Module) (*Operation, error) {
	var found *Operation
	var err error
	Walk(m, func(m Module) {
		o, ok := m.(Operator)
		if _, group := m.(*Group); !ok || group {
			return
		}
		op := o.Operation()
		switch {
		case op == nil:
		case op.Run == nil:
			err = errors.Join(err, bad("operation %q of %s has no Run", op.Name, m.Name()))
		case found != nil:
			err = errors.Join(err, fmt.Errorf("%w: %s and %s", ErrOperations, found.Name, op.Name))
		default:
			found = op
		}
	})
	return found, err
}

// StatusError is an error that wants a certain exit status.
type StatusError struct {
	// Status is the exit status.
	Status int
	// Err is the reason.
	Err error
}

// Error implements error.
func (e *StatusError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Status)
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *StatusError) Unwrap() error { return e.Err }

// ExitStatus returns the exit status for an error: 0 for nil, that of a [StatusError] in it, else 1.
func ExitStatus(err error) int {
	var s *StatusError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &s):
		return s.Status
	}
	return 1
}
