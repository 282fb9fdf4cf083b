// Command tunnel-socks5 is a firewall with a tunnel of its own: it sends the outbound TCP connections that its flags choose
// through a SOCKS5 server, and lets the others go their way.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/weirfw/weir/pkg/connstore"
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
		fmt.Fprintln(os.Stderr, "tunnel-socks5:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args, os.Stdout)
	if err != nil || o.help {
		return err
	}
	c, err := newClient(o)
	if err != nil {
		return err
	}
	return errors.Join(c.run(ctx), c.finder.Close())
}

// client is a VPN client in miniature: a tunnel, and the firewall that decides what goes through it.
type client struct {
	options
	ways   nfq.Redirects
	store  *connstore.Live
	finder *procinfo.Finder
	source *nfq.Source
	tunnel *tunnel
	fw     *firewall.Firewall
}

// newClient puts the parts together. It changes nothing on this host yet.
func newClient(o options) (_ *client, err error) {
	// What has verdict 6 is sent to 127.0.0.17:717 and [::1]:717. If nobody listens there it is refused: the kernel has no other
	// way for it.
	ways := nfq.Redirects{Tunnel: nfq.DefaultRedirects().Tunnel, RouteSplitTun: o.split != nil}
	c := &client{options: o, ways: ways, store: connstore.NewLive(connstore.Config{})}
	c.source, err = nfq.New(nfq.Config{Host: nfq.HostConfig{Redirects: c.ways, OnExit: nfq.ExitOpen}})
	if err != nil {
		return nil, fmt.Errorf("tunnel-socks5 needs Linux: %w", err)
	}
	// The firewall needs to know processes here: it lets its own connections pass, those to the SOCKS5 server among them, and
	// knows them by their process id (Config.OwnPID).
	c.finder, err = procinfo.New(procinfo.Config{})
	if err != nil {
		return nil, fmt.Errorf("tunnel-socks5 needs Linux: %w", err)
	}
	c.tunnel = newTunnel(o.socks, o.chosen, c.store)
	c.fw, err = firewall.New(firewall.Config{
		Store: c.store, Processes: c.finder, Source: c.source, Tunneler: c.tunnel, SplitTunneler: o.split,
		DefaultInbound: verdict.Accept,         // this example is about what goes out
		FailedAnswer:   firewall.FailLikeBlock, // programs learn at once that there is no tunnel
		Report:         func(c firewall.Condition) { fmt.Println("condition:", c.ID, c.Text) },
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("build the firewall: %w", err), c.finder.Close())
	}
	return c, nil
}

// run filters until ctx is done. What takes connections in is there before the first of them is sent to it, and the source of
// packets ends first.
func (c *client) run(ctx context.Context) error {
	listeners, err := listen(ctx, c.ways.Tunnel.To4, c.ways.Tunnel.To6)
	if err != nil {
		return err
	}
	carrying, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var parts sync.WaitGroup
	for _, l := range listeners {
		parts.Go(func() { c.tunnel.serve(carrying, l) })
	}
	c.tunnel.check(ctx) // so that the first connections find it ready
	parts.Go(func() { c.tunnel.watch(carrying, c.every) })
	ready, judged := make(chan struct{}), make(chan error, 1)
	go func() { judged <- c.fw.Run(carrying, func() { close(ready) }) }()
	<-ready
	err = c.source.Run(ctx, c.fw, func() { fmt.Println("filtering; Ctrl-C ends it and removes all rules") })
	stop()
	parts.Wait()
	return errors.Join(err, <-judged)
}

// listen opens all addresses or none.
func listen(ctx context.Context, addrs ...netip.AddrPort) (all []*net.TCPListener, err error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // over loopback it has nothing to give
	for _, a := range addrs {
		l, err := config.Listen(ctx, "tcp", a.String())
		if err != nil {
			for _, open := range all {
				_ = open.Close() // nobody has used it
			}
			return nil, fmt.Errorf("listen for redirected connections (is another VPN client running?): %w", err)
		}
		all = append(all, l.(*net.TCPListener)) //nolint:errcheck // it is one, as Listen says of "tcp"
	}
	return all, nil
}
