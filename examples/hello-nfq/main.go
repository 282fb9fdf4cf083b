// Command hello-nfq is a firewall: it refuses the port of its argument, lets the rest pass, and prints what it decides.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hello-nfq:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: hello-nfq PORT")
	}
	port, err := strconv.ParseUint(args[0], 10, 16)
	if err != nil {
		return fmt.Errorf("port: %w", err)
	}
	source, err := nfq.New(nfq.Config{Host: nfq.HostConfig{OnExit: nfq.ExitOpen}})
	if err != nil {
		return fmt.Errorf("hello-nfq needs Linux: %w", err)
	}
	return source.Run(ctx, refuse(port), func() { fmt.Println("filtering; Ctrl-C ends it and removes all rules") })
}

// refuse is the port to refuse. It is an intercept.Handler.
type refuse uint16

// Lookup decides known connections. There are none: what is decided is decided for good, and the kernel keeps it.
func (refuse) Lookup(*packet.Info) (verdict.Action, uint8, bool) { return 0, 0, false }

// Handle decides the first packet of a connection, and with it the rest.
func (r refuse) Handle(p packet.Packet) {
	i, decide, what := p.Info(), p.PermanentAccept, "accept"
	if i.Protocol.HasPorts() && i.Destination().Port() == uint16(r) {
		decide, what = p.PermanentBlock, "block"
	}
	fmt.Println(what, i.Direction, i.Tuple, decide())
}
