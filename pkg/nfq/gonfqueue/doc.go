// Package gonfqueue is a small intercept.Source on github.com/florianl/go-nfqueue:
// for programs that use that library already, and as a second opinion on the
// contract of package intercept.
//
// Package nfq is the one to use where there is a choice. It loads the rules that
// feed its queues, keeps permanent verdicts in the kernel, and costs a quarter of
// the CPU time a packet (docs/benchmarks.md). This package does none of that: rules
// of the caller feed the one queue, and verdicts are told in nfq.StylePlain, so that
// accepted packets leave the queue marked and all others are dropped.
//
// # Usage
//
//	source, err := gonfqueue.New(gonfqueue.Config{Queue: nfqueue.Config{NfQueue: 100}})
//	if err != nil {
//		return err
//	}
//	return source.Run(ctx, handler, func() { fmt.Println("intercepting") })
//
// # Privileges
//
// CAP_NET_ADMIN in the user namespace that owns the network namespace. On other
// systems than Linux, New returns an error that wraps errors.ErrUnsupported.
//
// # Concurrency
//
// One goroutine, which the library owns, calls the handler's Lookup and Handle.
// Packets may be decided from any goroutine. A Source runs once at a time.
//
// # What the library does not do
//
// It skips a netlink message that it cannot parse, so the packet of such a message
// has no verdict until Run ends, when the kernel drops it.
package gonfqueue
