package extverdict

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/verdict"
)

// ErrAlreadySet is returned by Set when the slot has a handler.
var ErrAlreadySet = errors.New("extverdict: a handler is set already")

// ErrNoHandler is returned by Set for a nil handler.
var ErrNoHandler = errors.New("extverdict: handler is nil")

// ErrNotAllowed is wrapped when a handler answers with a verdict that it may not
// give. The answer counts as Undecided.
var ErrNotAllowed = errors.New("extverdict: verdict not allowed for a handler")

// PanicError tells that a handler panicked. The connection counts as Failed.
type PanicError struct {
	// Handler is the name given to Set.
	Handler string
	// Value is what was panicked with, as text.
	Value string
	// Place is the file and line of the panic.
	Place string
}

// Error implements error.
func (e *PanicError) Error() string {
	return fmt.Sprintf("extverdict: handler %q panicked at %s: %s", e.Handler, e.Place, e.Value)
}

// Result is a handler's answer. The zero value is "no opinion".
type Result struct {
	// Verdict is Accept, Block or Undecided. Others are ignored.
	Verdict verdict.Verdict
	// Reason is for people.
	Reason string
	// SkipTunnel keeps an accepted connection out of tunnel and split tunnel.
	SkipTunnel bool
	// By names who decided, if not the handler as a whole: Chain fills it in.
	By string

	// fault is what a handler of a Chain did wrong, though another answered.
	fault error
}

// Handler decides about a connection. It is called from many goroutines at
// once and must not change s. It should return within the firewall's deadline
// (250 ms by default): after that its answer is not waited for, and ctx is done.
type Handler func(ctx context.Context, s *conn.Snapshot) Result

type registration struct {
	name   string
	handle Handler
}

// Slot holds at most one handler. The zero value is an empty slot, ready to
// use. It must not be copied.
type Slot struct {
	reg atomic.Pointer[registration]
}

// Set puts h into the slot under a name for people. It may be called at any
// time, before or after the firewall started, but succeeds only once: a second
// call returns ErrAlreadySet.
func (s *Slot) Set(name string, h Handler) error {
	if h == nil {
		return ErrNoHandler
	}
	if !s.reg.CompareAndSwap(nil, &registration{name: name, handle: h}) {
		return fmt.Errorf("set %q: %w: %q", name, ErrAlreadySet, s.reg.Load().name)
	}
	return nil
}

// Call is a handler that was loaded from a slot, so that one evaluation costs
// one atomic load.
type Call struct{ reg *registration }

// Load returns the slot's handler; ok is false if there is none. A nil slot has
// none.
func (s *Slot) Load() (c Call, ok bool) {
	if s == nil {
		return Call{}, false
	}
	r := s.reg.Load()
	return Call{r}, r != nil
}

// Name returns the handler's name.
func (c Call) Name() string { return c.reg.name }

// Do asks the handler. With a *PanicError the result is Failed; with an error
// that wraps ErrNotAllowed it is Undecided, or that of the next handler of a
// Chain.
func (c Call) Do(ctx context.Context, s *conn.Snapshot) (r Result, err error) {
	defer func() {
		if v := recover(); v != nil {
			r = Result{Verdict: verdict.Failed, Reason: "handler " + c.reg.name + " panicked"}
			err = &PanicError{Handler: c.reg.name, Value: fmt.Sprint(v), Place: panicPlace()}
		}
	}()
	r = c.reg.handle(ctx, s)
	err, r.fault = r.fault, nil
	switch r.Verdict {
	case verdict.Undecided, verdict.Accept, verdict.Block:
		return r, err
	case verdict.Failed:
		if p := (*PanicError)(nil); errors.As(err, &p) {
			return r, err // a handler of a Chain panicked
		}
	case verdict.Undeterminable, verdict.Drop, verdict.RerouteToNameserver, verdict.RerouteToTunnel, verdict.RerouteToSplitTun:
	}
	bad := fmt.Errorf("%w: %q answered %v; only Accept, Block and Undecided are", ErrNotAllowed, c.reg.name, r.Verdict)
	if err != nil {
		bad = errors.Join(err, bad)
	}
	return Result{}, bad
}

// panicPlace returns the first frame outside the runtime below the recovering
// function.
func panicPlace() string {
	pc := make([]uintptr, 16)
	// 0 Callers, 1 panicPlace, 2 the deferred function
	frames := runtime.CallersFrames(pc[:runtime.Callers(3, pc)])
	for {
		f, more := frames.Next()
		if f.Function != "" && !strings.HasPrefix(f.Function, "runtime.") {
			return fmt.Sprintf("%s:%d", f.File, f.Line)
		}
		if !more {
			return "unknown place"
		}
	}
}
