// Command split-one-app lets one program leave by an interface of its own, whatever owns the default route.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/procinfo"
	"github.com/weirfw/weir/pkg/splittunnel"
	"github.com/weirfw/weir/pkg/splittunnel/kroute"
	"github.com/weirfw/weir/pkg/verdict"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "split-one-app:", err)
		os.Exit(1)
	}
}

// oneApp is the policy: one program, one interface.
type oneApp struct {
	path string
	by   netif.Selector
}

// Wish implements splittunnel.Policy.
func (a oneApp) Wish(s *conn.Snapshot) splittunnel.Wish {
	return splittunnel.Wish{Use: s.Process != nil && s.Process.Path == a.path, Interface: a.by}
}

// Interfaces implements splittunnel.Policy.
func (a oneApp) Interfaces() []netif.Selector { return []netif.Selector{a.by} }

func parse(args []string) (oneApp, error) {
	if len(args) != 2 {
		return oneApp{}, errors.New(`usage: split-one-app PROGRAM INTERFACE (a name, an address, a MAC, an index, or "" for the best physical one)`)
	}
	path, err := filepath.EvalSymlinks(args[0]) // connections are known by the real file
	if err != nil {
		return oneApp{}, fmt.Errorf("program: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return oneApp{}, fmt.Errorf("program: %w", err)
	}
	by, err := netif.ParseSelector(args[1])
	if err != nil {
		return oneApp{}, fmt.Errorf("interface: %w", err)
	}
	return oneApp{path: path, by: by}, nil
}

func run(ctx context.Context, args []string) error {
	policy, err := parse(args)
	if err != nil {
		return err
	}
	links, err1 := netif.New(netif.Config{})
	finder, err2 := procinfo.New(procinfo.Config{})
	// The kernel routes what has a mark; the marks, and the right source address, come from the packet filter.
	source, err3 := nfq.New(nfq.Config{Host: nfq.HostConfig{OnExit: nfq.ExitOpen, Redirects: nfq.Redirects{RouteSplitTun: true}}})
	engine, err4 := kroute.New(kroute.Config{Guard: source})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return fmt.Errorf("split-one-app needs Linux: %w", err)
	}
	var fw *firewall.Firewall
	splitter, err := splittunnel.New(splittunnel.Config{
		Engine: engine, Links: links, Policy: policy,
		// What is split now may have to leave by another interface, or not at all.
		OnChange: func(ctx context.Context) {
			if _, err := fw.Reevaluate(ctx, firewall.Everything); err != nil {
				fmt.Println("re-evaluate:", err)
			}
		},
	})
	if err != nil {
		return errors.Join(fmt.Errorf("build the split tunnel: %w", err), finder.Close())
	}
	fw, err = firewall.New(firewall.Config{
		Store: connstore.NewLive(connstore.Config{}), Processes: finder, Source: source, SplitTunneler: splitter,
		DefaultInbound: verdict.Accept, // this example is about ways, not about refusing
		FailedAnswer:   firewall.FailLikeBlock,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("build the firewall: %w", err), finder.Close())
	}
	return errors.Join(runAll(ctx, links, splitter, fw, source), finder.Close())
}

// runAll runs the parts until ctx is done: each starts when the one before it works, and ends before that one does.
func runAll(ctx context.Context, links *netif.Watcher, splitter *splittunnel.Splitter, fw *firewall.Firewall, source intercept.Source) error {
	services := []module.ServiceConfig{
		{Name: "interfaces", Run: links.Run},
		{Name: "split tunnel", Run: splitter.Run},
		{Name: "firewall", Run: fw.Run},
		{Name: "packets", Run: func(ctx context.Context, ready func()) error { return source.Run(ctx, fw, ready) }},
	}
	var parts []module.Module
	for _, s := range services {
		part, err := module.NewService(s)
		if err != nil {
			return fmt.Errorf("build %s: %w", s.Name, err)
		}
		parts = append(parts, part)
	}
	group, err := module.NewGroup(module.GroupConfig{Name: "split-one-app"}, parts...)
	if err != nil {
		return fmt.Errorf("build the group: %w", err)
	}
	if err := group.Start(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	fmt.Println("splitting; Ctrl-C ends it and removes all rules and routes")
	for _, s := range splitter.Status().Selections {
		fmt.Printf("%s: leaves by %s from %s %s\n", s.Family, s.Interface, s.Source, s.Problem)
	}
	<-ctx.Done()
	if err := group.Stop(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}
