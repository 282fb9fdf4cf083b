package module

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that callers may want to tell apart.
var (
	// ErrConfig is wrapped by the errors of constructors that were given a config that cannot work.
	ErrConfig = errors.New("module: bad config")
	// ErrRunning is returned by Start if the module runs already.
	ErrRunning = errors.New("module: already running")
	// ErrNotRunning is returned by what needs a started module.
	ErrNotRunning = errors.New("module: not running")
	// ErrStillRunning is wrapped by [StillRunningError].
	ErrStillRunning = errors.New("module: workers still running")
	// ErrEnded is the failure of a [Service] whose Run returned nil although nobody asked it to end.
	ErrEnded = errors.New("module: ended without being asked to")
	// ErrOperations is returned if more than one module of a program has a command line operation.
	ErrOperations = errors.New("module: more than one command line operation")
	// ErrHookCancelled is returned by [Hook.Run] if a hook cancelled.
	ErrHookCancelled = errors.New("module: cancelled by a hook")
	// ErrEnding is returned by [Exit.Shutdown] and [Exit.Restart] if the program is ending already.
	ErrEnding = errors.New("module: already ending")
	// ErrNoNotification is returned by [Notifications.Dismiss] for what is not shown.
	ErrNoNotification = errors.New("module: no such notification")
)

// StillRunningError says which workers did not end in time. Their names are written module/worker.
type StillRunningError struct {
	Workers []string
}

// Error implements error.
func (e *StillRunningError) Error() string {
	return "workers still running: " + strings.Join(e.Workers, ", ")
}

// Unwrap returns [ErrStillRunning].
func (e *StillRunningError) Unwrap() error { return ErrStillRunning }

// bad returns an [ErrConfig] with a reason.
func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
}
