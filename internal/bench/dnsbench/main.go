// Command dnsbench is package nameserver alone, as scripts/bench-dns.sh measures it: it forwards to one server, accepts every query, and
// prints "ready" when it listens.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"

	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/verdict"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "dnsbench:", err)
		os.Exit(1)
	}
}

// allow is a decider that can tell at once, so that deciding is part of what is measured.
type allow struct{}

// Decide accepts.
func (allow) Decide(context.Context, nameserver.Query, *nameserver.Answer) verdict.Decision {
	return verdict.Decision{Verdict: verdict.Accept}
}

// DecideQuick accepts, too.
func (allow) DecideQuick(nameserver.Query, *nameserver.Answer) (verdict.Decision, bool) {
	return verdict.Decision{Verdict: verdict.Accept}, true
}

func run(ctx context.Context) (err error) {
	listen := flag.String("listen", "127.0.0.1:5302", "address to listen on")
	upstream := flag.String("upstream", "127.0.0.1:5300", "server to forward to")
	profile := flag.String("profile", "", "file for a CPU profile")
	flag.Parse()
	at, err := netip.ParseAddrPort(*listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	u, err := nameserver.ParseUpstream(*upstream)
	if err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	s, err := nameserver.New(nameserver.Config{
		Listen: []netip.AddrPort{at}, Decider: allow{}, Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{u}},
	})
	if err != nil {
		return fmt.Errorf("nameserver: %w", err)
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return errors.Join(fmt.Errorf("profile: %w", err), f.Close())
		}
		defer func() {
			pprof.StopCPUProfile()
			if cerr := f.Close(); cerr != nil {
				err = errors.Join(err, fmt.Errorf("profile: %w", cerr))
			}
		}()
	}
	err = s.Run(ctx, func() { fmt.Println("ready") })
	fmt.Fprintf(os.Stderr, "%+v\n", s.Stats())
	return err
}
