package refd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
)

// nameserverParts are our own nameserver. Without upstreams in the configuration that refd started with, all are nil.
type nameserverParts struct {
	server  *nameserver.Server
	module  *module.Service
	queries *queries
	// seamless redirects to it what asks others.
	seamless atomic.Bool
}

// buildNameserver builds what the configuration asks for. That nobody can listen is no reason not to run: somebody else may have the
// port for now.
func (d *Daemon) buildNameserver() (err error) {
	cfg := &d.cfg.DNS.Nameserver
	if !cfg.Enabled() {
		return nil
	}
	n := &d.nameserver
	n.module, err = module.NewService(module.ServiceConfig{
		Name: "nameserver", Logger: d.log, Readiness: module.AtOnce,
		Run: func(ctx context.Context, ready func()) error { return n.server.Run(ctx, ready) },
	})
	if err != nil {
		return fmt.Errorf("nameserver: %w", err)
	}
	n.seamless.Store(cfg.Seamless)
	n.queries = newQueries(d.processes, &d.rules, d.naming.table, d.cfg.Mode == config.Observe)
	n.server, err = nameserver.New(nameserver.Config{
		Listen: cfg.Listen, Settings: cfg.Settings(), IsLocal: host{d.links}.IsLocalAddr,
		Decider: n.queries, OnAnswer: n.queries.answered, Announce: d.announceQuery,
		OnListen: func([]netip.AddrPort) { d.tellVPN() },
		States:   n.module.States(), Log: d.log.With("module", "nameserver"),
	})
	if err != nil {
		return fmt.Errorf("nameserver: %w", err)
	}
	return nil
}

// reload takes new settings. needRestart tells that they need a nameserver, and that refd started without one.
func (n *nameserverParts) reload(cfg *config.Nameserver) (needRestart bool, err error) {
	if n.server == nil {
		return cfg.Enabled(), nil
	}
	if err := n.server.Configure(cfg.Settings()); err != nil {
		return false, fmt.Errorf("nameserver: %w", err)
	}
	n.seamless.Store(cfg.Seamless)
	return false, nil
}

// announcedFor is how long a socket of the nameserver may take to send its first packet.
const announcedFor = 10 * time.Second

// announceQuery lets a query of our own go out, and keeps it from being redirected to us.
func (d *Daemon) announceQuery(p packet.Protocol, localPort uint16) error {
	return d.firewall.PreAuthenticate(p, localPort, announcedFor) //nolint:wrapcheck // it names the port
}

// configure tells a firewall what is ours.
func (n *nameserverParts) configure(c *firewall.Config, listen []netip.AddrPort) {
	if n.server == nil {
		return
	}
	for _, a := range listen {
		for _, p := range []packet.Protocol{packet.UDP, packet.TCP} {
			c.Services = append(c.Services, firewall.Service{Protocol: p, Addr: a})
		}
	}
	c.ToNameserver = n.takes
}

// takes reports whether a new connection is redirected to the nameserver, and remembers whom it is taken from. Nameservers of this host
// are left alone: they answer what only they know, and ask others on behalf of programs, which is redirected. So are those on the
// link, whose clients have link-local addresses that an answer from loopback does not reach.
func (n *nameserverParts) takes(s *conn.Snapshot) bool {
	t := s.Tuple
	if t.Remote.Port() != nameserver.Port || t.Protocol != packet.UDP && t.Protocol != packet.TCP || !n.seamless.Load() {
		return false
	}
	if s.Scope != netscope.Site && s.Scope != netscope.Global || !n.listens(t.Is4()) {
		return false
	}
	n.queries.askers.redirected.note(t)
	return true
}

// listens reports whether the nameserver can be asked over IPv4, or over IPv6.
func (n *nameserverParts) listens(over4 bool) bool { //nolint:revive // says which family
	return slices.ContainsFunc(n.server.Addrs(), func(a netip.AddrPort) bool { return a.Addr().Is4() == over4 })
}

// figures are for people and programs; nil without a nameserver.
func (n *nameserverParts) figures() *api.Nameserver {
	if n.server == nil {
		return nil
	}
	return &api.Nameserver{Enabled: n.server.Enabled(), Addresses: n.server.Addrs(), Upstreams: n.server.Upstreams(), Stats: n.server.Stats()}
}
