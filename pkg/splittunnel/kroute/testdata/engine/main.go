// The program runs an engine for eth0 until SIGTERM: something that can be killed.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/splittunnel"
	"github.com/weirfw/weir/pkg/splittunnel/kroute"
)

func main() {
	state := flag.String("state", "", "state file")
	keep := flag.Bool("keep", false, "stay closed")
	flag.Parse()
	if err := run(kroute.Config{StateFile: *state, KeepOnExit: *keep, Logger: slog.New(slog.NewTextHandler(os.Stdout, nil))}); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func run(cfg kroute.Config) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	e, err := kroute.New(cfg)
	if err != nil {
		return err
	}
	links, err := netif.New(netif.Config{})
	if err != nil {
		return err
	}
	use := func(s *netif.Snapshot) {
		var paths []splittunnel.Path
		for _, f := range []netif.Family{netif.IPv4, netif.IPv6} {
			if c, err := s.Pick("eth0", f); err == nil {
				paths = append(paths, splittunnel.Path{Family: f, Choice: c})
			}
		}
		if err := e.Use(ctx, paths); err != nil {
			fmt.Println("use:", err)
		}
	}
	use(links.Snapshot())
	followed := make(chan error, 1)
	go func() { followed <- links.Run(ctx, nil) }()
	links.Subscribe(use)
	if err := e.Run(ctx, func() { fmt.Println("ready") }); err != nil {
		return err
	}
	return <-followed
}
