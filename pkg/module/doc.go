// Package module starts, stops and watches the parts of a program that have goroutines.
//
// A [Unit] is one such part: it has a name, a logger, a context, workers, tasks, states and a sleep mode. Most
// programs embed one and give [New] the functions that start and stop the part:
//
//	type Monitor struct{ *module.Unit }
//
//	func NewMonitor(log *slog.Logger) (*Monitor, error) {
//		m := &Monitor{}
//		u, err := module.New(module.Config{Name: "monitor", Logger: log, Start: m.start})
//		if err != nil {
//			return nil, err
//		}
//		m.Unit = u
//		return m, nil
//	}
//
//	func (m *Monitor) start(context.Context) error { return m.Go("reader", m.read) }
//
// A [Service] makes a module of a blocking Run(ctx, ready) function, which is how the packages of this SDK work. A
// [Group] starts modules in order and stops them in reverse; groups nest. A [Switch] turns a module on and off at run
// time. [Run] is what a main function calls.
//
// Modules talk by [Event] (tell everybody, wait for nobody) and [Hook] (ask everybody, in turn). Subscribing and
// adding hooks belongs into constructors, after New and before Start: what is registered there stays over any number
// of starts and stops. A [Task] that was made before Start keeps its schedule in the same way.
//
// [States] say what is wrong just now; [Notifications] show them to people. [WatchStates] sees all states of a tree
// with one callback, [ExitCode] turns the worst one into a number for scripts.
//
// # Stopping from inside
//
// A worker may stop its own unit, or any group around it, if it passes its own context to Stop. Such a Stop cannot
// wait for the worker that calls it: it only asks, and returns nil at once. The worker should return then. The next
// Stop from outside waits for that stop and returns its error.
//
// # Leaks
//
// Everything that a Unit runs is counted: Stop waits for it, and names what is still there when its time is up. A unit
// with such left-overs refuses to start again until they have ended, because two generations of workers on the same
// data are worse than a module that is off.
package module
