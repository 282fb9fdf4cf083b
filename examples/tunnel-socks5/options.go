package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirfw/weir/pkg/firewall"
)

// options is what the program was told.
type options struct {
	// socks is the SOCKS5 server: an address and not a name, because names may have to be looked up through the tunnel.
	socks  netip.AddrPort
	chosen destinations
	// every is the time between two looks at the server.
	every time.Duration
	// split may send what does not go through the tunnel out by an interface of its choice. The program has none; a VPN client
	// may well have both, and the test uses it to show that the tunnel comes first.
	split firewall.SplitTunneler
	// help was asked for, and given.
	help bool
}

func parse(args []string, out io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("tunnel-socks5", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.TextVar(&o.socks, "socks", netip.AddrPort{}, "address and port of the SOCKS5 `server`")
	flags.DurationVar(&o.every, "check", 2*time.Second, "how often to look whether the server is there")
	flags.Func("ports", "`ports` that go through the tunnel, such as 80,443; without it all of -to", o.chosen.addPorts)
	flags.Func("to", "`networks` that go through the tunnel, such as 198.51.100.0/24,2001:db8::/32; without it all of -ports",
		o.chosen.addNetworks)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return options{help: true}, nil
	case err != nil:
		return o, fmt.Errorf("command line: %w", err)
	case flags.NArg() > 0:
		return o, fmt.Errorf("command line: what is %q? See -help", flags.Arg(0))
	case !o.socks.IsValid() || o.socks.Port() == 0 || o.socks.Addr().IsUnspecified():
		return o, errors.New("command line: -socks is required: the SOCKS5 server, such as 192.0.2.1:1080")
	case len(o.chosen.ports) == 0 && len(o.chosen.networks) == 0:
		return o, errors.New("command line: -ports or -to is required: what goes through the tunnel (everything: -to 0.0.0.0/0,::/0)")
	case o.every <= 0:
		return o, fmt.Errorf("command line: -check %v: want a time above 0", o.every)
	}
	return o, nil
}

// destinations is a set of remote ends. An empty list allows all; an end must be in both.
type destinations struct {
	networks []netip.Prefix
	ports    []uint16
}

func (d *destinations) has(a netip.AddrPort) bool {
	in := func(n netip.Prefix) bool { return n.Contains(a.Addr()) }
	return (len(d.networks) == 0 || slices.ContainsFunc(d.networks, in)) &&
		(len(d.ports) == 0 || slices.Contains(d.ports, a.Port()))
}

func (d *destinations) addPorts(list string) error {
	for s := range strings.SplitSeq(list, ",") {
		port, err := strconv.ParseUint(s, 10, 16)
		if err != nil || port == 0 {
			return fmt.Errorf("port %q: want a number from 1 to 65535", s)
		}
		d.ports = append(d.ports, uint16(port))
	}
	return nil
}

// addNetworks takes single addresses, too.
func (d *destinations) addNetworks(list string) error {
	for s := range strings.SplitSeq(list, ",") {
		if a, err := netip.ParseAddr(s); err == nil {
			s = netip.PrefixFrom(a, a.BitLen()).String()
		}
		n, err := netip.ParsePrefix(s)
		switch {
		case err != nil:
			return fmt.Errorf("network: %w", err)
		case n.Addr().Is4In6():
			return fmt.Errorf("network %v: write IPv4 networks as such", n)
		}
		d.networks = append(d.networks, n)
	}
	return nil
}
