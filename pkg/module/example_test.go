package module_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/weirfw/weir/pkg/module"
)

// monitor is what most modules look like.
type monitor struct {
	*module.Unit
	seen *module.Event[string]
}

func newMonitor() (*monitor, error) {
	m := &monitor{seen: module.NewEvent[string]("seen", nil)}
	u, err := module.New(module.Config{Name: "monitor", Start: m.start})
	if err != nil {
		return nil, fmt.Errorf("monitor: %w", err)
	}
	m.Unit = u
	return m, nil
}

func (m *monitor) start(context.Context) error { return m.Go("reader", m.read) }

func (m *monitor) read(ctx context.Context) error {
	m.seen.Submit("example.com")
	<-ctx.Done()
	return nil
}

func Example() {
	m, err := newMonitor()
	if err != nil {
		fmt.Println(err)
		return
	}
	sub := m.seen.Subscribe("example", 10)
	g, err := module.NewGroup(module.GroupConfig{Name: "all"}, m)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := g.Start(context.Background()); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("seen", <-sub.C())
	fmt.Println("workers", g.Workers())
	fmt.Println("stopped", g.Stop(context.Background()))
	// Output:
	// seen example.com
	// workers [monitor/reader]
	// stopped <nil>
}

func ExampleService() {
	s, err := module.NewService(module.ServiceConfig{
		Name: "proxy",
		Run: func(ctx context.Context, ready func()) error {
			fmt.Println("listening")
			ready()
			<-ctx.Done()
			fmt.Println("closed")
			return nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("start:", s.Start(context.Background()), "ready:", s.Ready())
	fmt.Println("stop:", s.Stop(context.Background()), "ready:", s.Ready())
	// Output:
	// listening
	// start: <nil> ready: true
	// closed
	// stop: <nil> ready: false
}

func ExampleSwitch() {
	u, err := module.New(module.Config{Name: "splittunnel"})
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := module.NewSwitch(module.SwitchConfig{Name: "use-splittunnel", Module: u})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	fmt.Println(s.Start(ctx), u.Phase())
	s.Set(module.On)
	fmt.Println(s.Settled(ctx), u.Phase())
	fmt.Println(s.Stop(ctx), u.Phase())
	// Output:
	// <nil> stopped
	// <nil> running
	// <nil> stopped
}

func ExampleHook() {
	var beforeSave module.Hook[int]
	beforeSave.Add("limit", func(_ context.Context, v int) (cancel bool, err error) {
		if v > 10 {
			return false, errors.New("too much")
		}
		return v < 0, nil
	})
	for _, v := range []int{5, -1, 11} {
		fmt.Println(beforeSave.Run(context.Background(), v))
	}
	// Output:
	// <nil>
	// hook limit: module: cancelled by a hook
	// hook limit: too much
}

func ExampleExitCode() {
	u, err := module.New(module.Config{Name: "nameserver"})
	if err != nil {
		fmt.Println(err)
		return
	}
	u.States().Add(module.State{ID: "port", Name: "Port in use", Severity: module.Error})
	u.States().Add(module.State{ID: "slow", Name: "Slow answers"})
	fmt.Println(module.Worst(u.States().All()), module.ExitCode(u.States().All()))
	u.States().Remove("port")
	fmt.Println(module.Worst(u.States().All()), module.ExitCode(u.States().All()))
	// Output:
	// error 12
	// hint 10
}

func ExampleNotifications() {
	u, err := module.New(module.Config{Name: "nameserver"})
	if err != nil {
		fmt.Println(err)
		return
	}
	board := module.NewNotifications(nil)
	defer board.Watch(u)()
	raise := func() { u.States().Add(module.State{ID: "port", Name: "Port in use", Severity: module.Error}) }
	raise()
	fmt.Println("shown:", len(board.All()))
	fmt.Println("dismiss:", board.Dismiss("nameserver", "port"))
	fmt.Println("shown:", len(board.All()), "states:", len(u.States().All()))
	raise()
	fmt.Println("raised again:", len(board.All()))
	// Output:
	// shown: 1
	// dismiss: <nil>
	// shown: 0 states: 1
	// raised again: 1
}
