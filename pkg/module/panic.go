package module

import (
	"fmt"
	"path"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

// PanicError is what becomes of a panic in a worker.
type PanicError struct {
	// Value is what was given to panic.
	Value any
	// Place is the file and line of the panic, such as "dns/reader.go:42".
	Place string
	// Stack is the stack of the goroutine.
	Stack []byte
}

// Error implements error.
func (e *PanicError) Error() string { return fmt.Sprintf("panic at %s: %v", e.Place, e.Value) }

// Unwrap returns the value of the panic if it is an error.
func (e *PanicError) Unwrap() error {
	err, ok := e.Value.(error)
	if !ok {
		return nil
	}
	return err
}

// guard calls fn and turns a panic into a [PanicError].
func guard(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Place: panicPlace(), Stack: debug.Stack()}
		}
	}()
	return fn()
}

// panicPlace finds the line that panicked. It must be called by the deferred function that recovers.
func panicPlace() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	panicked := false
	for {
		f, more := frames.Next()
		switch {
		case f.Function == "runtime.gopanic":
			panicked = true
		case strings.HasPrefix(f.Function, "runtime."), strings.HasPrefix(f.Function, "internal/runtime/"):
			// A nil map, a closed channel and the like panic below the line that is to blame.
		case panicked:
			return place(f.File, f.Line)
		}
		if !more {
			return "unknown"
		}
	}
}

// place writes a file with its directory, and the line: enough to find it, and the same on every build machine.
func place(file string, line int) string {
	dir, base := path.Split(file)
	return path.Join(path.Base(dir), base) + ":" + strconv.Itoa(line)
}
