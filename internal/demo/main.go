// Command demo shows refd at work: real programs on a network of namespaces, what each of them saw, what refd decided, and why.
//
// Nothing of it touches the network of the machine. It needs root, ends by itself within a minute, and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// interrupted is the status of a process that Ctrl-C ended, as shells see it.
const interrupted = 130

func main() {
	// Broken pipes must not end the process before it has cleaned up: `demo | head`. A signal that is ignored would be so for
	// all programs that it starts, so it is caught and thrown away; the write fails, and that ends the demo.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, newScreen(os.Stdout))
	stop()
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "\ndemo: interrupted; everything is removed")
		os.Exit(interrupted)
	case err != nil:
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

// run plays the demo on a stage of its own and clears that, however the play ends.
func run(ctx context.Context, out *screen) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out.w = &audience{out.w, cancel}
	s := &stage{}
	s.perform(func() { newPlay(ctx, s, out).perform() })
	if ctx.Err() != nil {
		return context.Canceled // what failed, failed because programs were killed
	}
	return s.err()
}
