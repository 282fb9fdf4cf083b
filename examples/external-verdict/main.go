// Command external-verdict is a firewall that asks a handler of its own: every program may open as many connections as the
// argument says, and no more.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/procinfo"
	"github.com/weirfw/weir/pkg/verdict"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "external-verdict:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	if len(args) != 1 {
		return errors.New("usage: external-verdict CONNECTIONS")
	}
	most, err := strconv.ParseUint(args[0], 10, 16)
	if err != nil {
		return fmt.Errorf("number of connections: %w", err)
	}
	finder, err := procinfo.New(procinfo.Config{})
	if err != nil {
		return fmt.Errorf("external-verdict needs Linux: %w", err)
	}
	defer func() { err = errors.Join(err, finder.Close()) }()
	source, err := nfq.New(nfq.Config{Host: nfq.HostConfig{OnExit: nfq.ExitOpen}})
	if err != nil {
		return fmt.Errorf("external-verdict needs Linux: %w", err)
	}
	// Here the handler is there before the firewall starts. Later is fine, too: it then decides about new connections, and
	// Firewall.Reevaluate asks it about those that run.
	var slot extverdict.Slot
	if err := slot.Set("allowance", newAllowance(int(most)).decide); err != nil {
		return fmt.Errorf("register the handler: %w", err)
	}
	fw, err := firewall.New(firewall.Config{
		Store: connstore.NewLive(connstore.Config{}), Processes: finder, External: &slot, Source: source,
		DefaultInbound: verdict.Accept, // this example is about what goes out
		Report:         func(c firewall.Condition) { fmt.Println("condition:", c.ID, c.Text) },
	})
	if err != nil {
		return fmt.Errorf("build the firewall: %w", err)
	}
	return intercept(ctx, fw, source)
}

// intercept runs both until ctx is done. The firewall starts before the packets come, and ends after the last one.
func intercept(ctx context.Context, fw *firewall.Firewall, source *nfq.Source) error {
	judging, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ready, judged := make(chan struct{}), make(chan error, 1)
	go func() { judged <- fw.Run(judging, func() { close(ready) }) }()
	<-ready
	err := source.Run(ctx, fw, func() { fmt.Println("filtering; Ctrl-C ends it and removes all rules") })
	stop()
	return errors.Join(err, <-judged)
}
