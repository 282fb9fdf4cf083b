// Command module shows a program made of modules: a state, a worker, an event and an operation.
//
// Without arguments it runs a sensor and an alarm until it is interrupted. With the argument "check" it runs an
// operation instead, and starts nothing.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/module"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	status := run(ctx, os.Args[1:], os.Stdout)
	stop()
	os.Exit(status)
}

// run is main with everything it touches as an argument, so that a test can call it.
func run(ctx context.Context, args []string, out io.Writer) (status int) {
	w := &writer{w: out}
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: withoutTime}))
	root, exit, err := build(args, log, w)
	if err != nil {
		w.printf("error: %v\n", err)
		return 1
	}
	// One callback sees the states of all modules.
	defer module.WatchStates(root, func(u module.StateUpdate) {
		w.printf("states of %s: %d\n", u.Module, len(u.States))
	})()
	status, err = module.Run(ctx, root, exit)
	if err != nil {
		w.printf("error: %v\n", err)
	}
	if status == 0 && w.broken.Load() {
		return 1
	}
	return status
}

// build makes all modules and starts none.
func build(args []string, log *slog.Logger, w *writer) (*module.Group, *module.Exit, error) {
	exit := module.NewExit()
	s, err := newSensor(args, log, w)
	if err != nil {
		return nil, nil, err
	}
	a, err := newAlarm(s, exit, log)
	if err != nil {
		return nil, nil, err
	}
	// The alarm starts first and stops last, so it misses nothing.
	root, err := module.NewGroup(module.GroupConfig{Name: "example", Logger: log}, a, s)
	if err != nil {
		return nil, nil, fmt.Errorf("build: %w", err)
	}
	return root, exit, nil
}

// sensor has a worker and an event. It reads a temperature that rises and falls.
type sensor struct {
	*module.Unit
	measured *module.Event[int]
}

func newSensor(args []string, log *slog.Logger, w *writer) (*sensor, error) {
	s := &sensor{measured: module.NewEvent[int]("measured", log)}
	cfg := module.Config{Name: "sensor", Logger: log, Start: s.start}
	if slices.Contains(args, "check") {
		cfg.Operation = &module.Operation{Name: "check", Run: func(context.Context) error {
			w.printf("check: the sensor is there\n")
			return nil
		}}
	}
	u, err := module.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("sensor: %w", err)
	}
	s.Unit = u
	return s, nil
}

// start is called at each Start. Workers that return nil have ended; those that fail are restarted.
func (s *sensor) start(context.Context) error { return s.Go("reader", s.read) }

func (s *sensor) read(ctx context.Context) error {
	tick := s.Ticker(10*time.Millisecond, time.Second) // slower while the program is asleep
	defer tick.Stop()
	for _, degrees := range []int{20, 25, 35, 30, 20} {
		select {
		case <-tick.C():
			s.measured.Submit(degrees)
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// alarm hears the sensor's event and has a state while it is hot.
type alarm struct {
	*module.Unit
	exit *module.Exit
	hot  bool // only used by the event's callback
}

func newAlarm(s *sensor, exit *module.Exit, log *slog.Logger) (*alarm, error) {
	a := &alarm{exit: exit}
	u, err := module.New(module.Config{Name: "alarm", Logger: log})
	if err != nil {
		return nil, fmt.Errorf("alarm: %w", err)
	}
	a.Unit = u
	// Here, and not in Start: this is done once, however often the module starts.
	s.measured.Call(u, "alarm", a.check)
	return a, nil
}

func (a *alarm) check(ctx context.Context, degrees int) (cancel bool, err error) {
	module.Log(ctx).Info("measured", "degrees", degrees)
	switch {
	case degrees > 30 && !a.hot:
		a.hot = true
		a.States().Add(module.State{
			ID: "hot", Name: "Too hot", Severity: module.Warning, Message: fmt.Sprintf("%d degrees", degrees),
		})
	case degrees <= 20 && a.hot:
		a.States().Remove("hot")
		return true, a.exit.Shutdown("it is cool again")
	}
	return false, nil
}

// writer is shared by the logger and the program.
type writer struct {
	broken atomic.Bool
	mu     sync.Mutex // guards w
	w      io.Writer
}

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.w.Write(p)
	if err != nil {
		return n, fmt.Errorf("output: %w", err)
	}
	return n, nil
}

// printf has nowhere to tell that the output is gone, but the exit status says so.
func (w *writer) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(w, format, args...); err != nil {
		w.broken.Store(true)
	}
}

// withoutTime makes the output the same each time.
func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
