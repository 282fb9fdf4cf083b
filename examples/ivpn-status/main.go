// Command ivpn-status shows what the daemon of the IVPN client says, until it is stopped. It changes nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/weirfw/weir/pkg/ivpn"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "ivpn-status:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("ivpn-status", flag.ContinueOnError)
	folder := flags.String("folder", "", "where the daemon writes port.txt; empty: where it does on this system")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return fmt.Errorf("usage: ivpn-status [-folder FOLDER]: %w", err)
	}
	client, err := ivpn.NewClient(ivpn.ClientConfig{
		Folder: *folder, Name: "ivpn-status",
		On: func(e ivpn.Event) { fmt.Fprintln(out, describe(e)) },
	})
	if err != nil {
		return fmt.Errorf("build the client: %w", err)
	}
	err = client.Run(ctx, func() {
		if !client.Connected() {
			fmt.Fprintln(out, "waiting for the daemon of IVPN; Ctrl-C ends it")
		}
	})
	if err != nil {
		return fmt.Errorf("follow the daemon: %w", err)
	}
	return nil
}

// describe puts an event into words.
func describe(e ivpn.Event) string {
	switch e := e.(type) {
	case ivpn.Found:
		return fmt.Sprintf("the daemon listens at port %d", e.Port)
	case ivpn.Connected:
		if e.ServiceBinary == "" {
			return fmt.Sprintf("connected to version %s, which does not tell its executable", e.Version)
		}
		return fmt.Sprintf("connected to version %s, %s", e.Version, e.ServiceBinary)
	case ivpn.Disconnected:
		if e.Err == nil {
			return "disconnected"
		}
		return fmt.Sprintf("not connected: %v", e.Err)
	case ivpn.Refused:
		return fmt.Sprintf("the daemon's files are not used: %v", e.Err)
	case ivpn.Absent:
		return "the daemon has ended"
	case ivpn.ConnectionStarting:
		return fmt.Sprintf("VPN endpoint %v", e.Endpoint)
	case ivpn.ConnectionStopped:
		return "no VPN endpoint"
	case ivpn.VPNConnected:
		return fmt.Sprintf("VPN connected by %v, addresses %v and %v", e.Type, e.ClientIP, e.ClientIPv6)
	case ivpn.VPNDisconnected:
		return "VPN not connected " + e.ReasonDescription
	case ivpn.VPNState:
		return fmt.Sprintf("VPN state %s %s", e.State, e.Value)
	case ivpn.ServiceExiting:
		return "the daemon is about to end"
	}
	return fmt.Sprintf("%#v", e)
}
