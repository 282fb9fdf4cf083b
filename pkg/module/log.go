package module

import (
	"context"
	"log/slog"
	"runtime"
)

// Keys of the attributes that each record of a unit's logger carries.
const (
	// LogModule is the name of the unit.
	LogModule = "module"
	// LogWorker is the name of the worker, if a worker logs.
	LogWorker = "worker"
	// LogCaller is the file and line that logs.
	LogCaller = "caller"
)

type workerKey struct{}

// workerInfo is what a worker's context carries.
type workerInfo struct {
	name string
	log  *slog.Logger
}

// Log returns the logger of the worker that has this context: its records carry module, worker and the caller's file
// and line. Outside of workers it returns a logger that is silent.
func Log(ctx context.Context) *slog.Logger {
	if w, ok := ctx.Value(workerKey{}).(*workerInfo); ok {
		return w.log
	}
	return slog.New(slog.DiscardHandler)
}

// newLogger returns a logger for the module; nil is silence.
func newLogger(log *slog.Logger, module string) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	base := log.Handler().WithAttrs([]slog.Attr{slog.String(LogModule, module)})
	return slog.New(&logHandler{base: base})
}

// workerLogger returns a logger that names the worker in each record, also in those without a context.
func workerLogger(log *slog.Logger, worker string) *slog.Logger {
	h, ok := log.Handler().(*logHandler)
	if !ok {
		return log
	}
	c := *h
	c.worker = worker
	return slog.New(&c)
}

// logHandler adds worker and caller at the top level of records.
type logHandler struct {
	// base takes the record as long as no group is open.
	base slog.Handler
	// later is what follows after a group was opened: worker and caller must not end up inside of that group, so
	// the handler is put together when the record comes.
	later []func(slog.Handler) slog.Handler
	// worker is empty if the context must tell.
	worker string
}

// Enabled implements slog.Handler.
func (h *logHandler) Enabled(ctx context.Context, l slog.Level) bool { return h.base.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	extra := h.extra(ctx, r)
	if len(h.later) == 0 {
		r = r.Clone()
		r.AddAttrs(extra...)
		return h.base.Handle(ctx, r) //nolint:wrapcheck // A handler in the middle has nothing to add.
	}
	next := h.base.WithAttrs(extra)
	for _, add := range h.later {
		next = add(next)
	}
	return next.Handle(ctx, r) //nolint:wrapcheck // As above.
}

func (h *logHandler) extra(ctx context.Context, r slog.Record) []slog.Attr {
	attrs := make([]slog.Attr, 0, 2)
	worker := h.worker
	if w, ok := ctx.Value(workerKey{}).(*workerInfo); ok && worker == "" {
		worker = w.name
	}
	if worker != "" {
		attrs = append(attrs, slog.String(LogWorker, worker))
	}
	if r.PC != 0 {
		f, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
		attrs = append(attrs, slog.String(LogCaller, place(f.File, f.Line)))
	}
	return attrs
}

// WithAttrs implements slog.Handler.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	c := *h
	if len(h.later) == 0 {
		c.base = h.base.WithAttrs(attrs)
		return &c
	}
	return c.add(func(next slog.Handler) slog.Handler { return next.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	return c.add(func(next slog.Handler) slog.Handler { return next.WithGroup(name) })
}

// add is called with a copy; the slice is copied too, because handlers that share it may both grow.
func (h *logHandler) add(fn func(slog.Handler) slog.Handler) slog.Handler {
	h.later = append(h.later[:len(h.later):len(h.later)], fn)
	return h
}
