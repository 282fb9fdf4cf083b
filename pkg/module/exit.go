package module

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ExitRestart is the exit status of a program that wants to be started again. It is EX_TEMPFAIL of sysexits.h. A
// systemd unit has RestartForceExitStatus=75 for it; a Windows service has recovery actions that restart it, with
// failure actions on for stops with an error ("sc failureflag NAME 1").
const ExitRestart = 75

// Ending is how a program ends.
type Ending uint8

// The kinds of endings.
const (
	Shutdown Ending = 1
	Restart  Ending = 2
)

// String returns the name of the ending. It is also the name of the event that clients of an API get.
func (e Ending) String() string {
	switch e {
	case Shutdown:
		return "shutdown"
	case Restart:
		return "restart"
	}
	return fmt.Sprintf("ending %d", uint8(e))
}

// MarshalText implements encoding.TextMarshaler.
func (e Ending) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// ExitRequest asks for the end of the program.
type ExitRequest struct {
	Ending Ending `json:"ending"`
	// Reason is for people.
	Reason string `json:"reason"`
}

// Exit is where parts of a program ask for its end. Make one with [NewExit] and give it to [Run].
type Exit struct {
	event *Event[ExitRequest]
	done  chan struct{}

	mu      sync.Mutex // guards request
	request ExitRequest
}

// NewExit returns an exit that nobody has asked for.
func NewExit() *Exit {
	return &Exit{event: NewEvent[ExitRequest]("exit", nil), done: make(chan struct{})}
}

// Requested is the event of the one request. Subscriptions have it in their channel before [Exit.Done] is closed, and
// so before modules are stopped: whoever has a stream open can take it from there as the last thing to send.
func (x *Exit) Requested() *Event[ExitRequest] { return x.event }

// Shutdown asks for the end of the program. It returns [ErrEnding] if that was asked for before.
func (x *Exit) Shutdown(reason string) error { return x.ask(ExitRequest{Shutdown, reason}) }

// Restart asks for the end of the program with [ExitRestart], so that it is started again. It returns [ErrEnding] if
// an end was asked for before.
func (x *Exit) Restart(reason string) error { return x.ask(ExitRequest{Restart, reason}) }

// Done returns a channel that is closed when the end was asked for, to be used like that of a [context.Context].
func (x *Exit) Done() <-chan struct{} { return x.done }

// Request returns what was asked for; its Ending is 0 if nothing was.
func (x *Exit) Request() ExitRequest {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.request
}

func (x *Exit) ask(r ExitRequest) error {
	x.mu.Lock()
	if x.request.Ending != 0 {
		x.mu.Unlock()
		return fmt.Errorf("%s: %w", r.Ending, ErrEnding)
	}
	x.request = r
	x.mu.Unlock()
	x.event.Submit(r)
	close(x.done)
	return nil
}

// exitStatus is that of the request, and else that of the error.
func exitStatus(x *Exit, err error) int {
	if x.Request().Ending == Restart {
		return ExitRestart
	}
	return ExitStatus(err)
}

// Run is the life of a program. If m, or a module in it, has an [Operation], nothing is started and the operation
// runs. Else m is started; it is stopped when ctx has ended, when x was asked for an end (x may be nil), or if it was
// stopped from inside. Run returns the exit status: [ExitStatus] of the error, or [ExitRestart] if a restart was asked
// for, even if the stop had errors.
func Run(ctx context.Context, m Module, x *Exit) (status int, err error) {
	op, err := FindOperation(m)
	if err != nil {
		return ExitStatus(err), err
	}
	if op != nil {
		if err := guard(func() error { return op.Run(ctx) }); err != nil {
			err = fmt.Errorf("%s: %w", op.Name, err)
			return ExitStatus(err), err
		}
		return 0, nil
	}
	if x == nil {
		x = NewExit()
	}
	if err := runStart(ctx, m, x); err != nil {
		if (ctx.Err() != nil || x.Request().Ending != 0) && givenUp(err) {
			return exitStatus(x, nil), nil
		}
		return ExitStatus(err), err
	}
	var ended <-chan struct{}
	if e, ok := m.(interface{ ended() <-chan struct{} }); ok {
		ended = e.ended()
	}
	select {
	case <-ctx.Done():
	case <-x.Done():
	case <-ended:
	}
	if err := m.Stop(context.WithoutCancel(ctx)); err != nil {
		err = fmt.Errorf("stop: %w", err)
		return exitStatus(x, err), err
	}
	return exitStatus(x, nil), nil
}

// runStart gives the start up when an end is asked for.
func runStart(ctx context.Context, m Module, x *Exit) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-x.Done():
			cancel()
		case <-ctx.Done():
		}
	})
	if err := m.Start(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	return nil
}

// givenUp reports whether a start failed only because it was given up, and everything is undone.
func givenUp(err error) bool {
	return errors.Is(err, context.Canceled) && !errors.Is(err, ErrStillRunning)
}
