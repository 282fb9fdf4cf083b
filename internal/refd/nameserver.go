package refd

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
)

// nameserverParts are our own nameserver. Without upstreams it is disabled and listens nowhere.
type nameserverParts struct {
	server  *nameserver.Server
	module  *module.Service
	queries *queries
	// seamless is that what asks others is redirected to it; over4 and over6 are that this happens now.
	seamless, over4, over6 atomic.Bool
	steering               sync.Mutex // makes changes of over4 and over6 take turns

	mu sync.Mutex // guards what follows; held while settings change
	// settings are those of the configuration, detour is added to them while the host is not online.
	settings nameserver.Settings
	detour   []nameserver.Route
}

// buildNameserver builds the nameserver. That nobody can listen is no reason not to run: somebody else may have the port for now.
func (d *Daemon) buildNameserver() (err error) {
	cfg := &d.cfg.DNS.Nameserver
	n := &d.nameserver
	n.module, err = module.NewService(module.ServiceConfig{
		Name: "nameserver", Logger: d.log, Readiness: module.AtOnce,
		Run: func(ctx context.Context, ready func()) error { return n.server.Run(ctx, ready) },
	})
	if err != nil {
		return fmt.Errorf("nameserver: %w", err)
	}
	n.seamless.Store(cfg.Seamless)
	n.settings = cfg.Settings()
	n.queries = newQueries(d.processes, &d.rules, d.naming.table, d.cfg.Mode == config.Observe)
	n.queries.known = d.processOf
	records := &queryRecords{store: d.store, askers: &n.queries.askers, ownPID: n.queries.ownPID, waiting: map[uint64]conn.ID{}}
	hostName, err := os.Hostname()
	if err != nil {
		d.log.Info("the host's own name is not answered", "err", err)
	}
	n.server, err = nameserver.New(nameserver.Config{
		Listen: cfg.Listen, Settings: n.settings, IsLocal: host{d.links}.IsLocalAddr,
		Decider: n.queries, Recorder: records, OnAnswer: n.queries.answered, Own: d.check.ownName, HostName: hostName,
		Announce: d.announceQuery, Withdraw: d.withdrawQuery, IsServer: n.queries.isServer, MaxQueries: maxAskers,
		OnListen: func([]netip.AddrPort) { d.steer(); d.tellVPN() },
		States:   n.module.States(), Log: d.log.With("module", "nameserver"),
	})
	if err != nil {
		return fmt.Errorf("nameserver: %w", err)
	}
	return nil
}

// redirector is a source that prepares the host for what is redirected to the nameserver.
type redirector interface {
	useNameserver(over4, over6 bool) error
}

// steer begins to redirect to the nameserver, or ends that, when it began or ended to listen or a setting changed. The source knows
// before the first packet is redirected, and after the last.
func (d *Daemon) steer() {
	n := &d.nameserver
	n.steering.Lock()
	defer n.steering.Unlock()
	over4, over6 := n.seamless.Load() && n.listens(true), n.seamless.Load() && n.listens(false)
	if !over4 {
		n.over4.Store(false)
	}
	if !over6 {
		n.over6.Store(false)
	}
	if s, ok := d.source.(redirector); ok {
		if err := s.useNameserver(over4, over6); err != nil {
			d.log.Warn("redirected queries may not be answered beside a VPN", "err", err)
		}
	}
	n.over4.Store(over4)
	n.over6.Store(over6)
}

// reload takes new settings. steer has to follow.
func (n *nameserverParts) reload(cfg *config.Nameserver) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	settings := cfg.Settings()
	if err := n.server.Configure(withDetour(settings, n.detour)); err != nil {
		return fmt.Errorf("nameserver: %w", err)
	}
	n.settings = settings
	n.seamless.Store(cfg.Seamless)
	return nil
}

// takeDetour has some names asked of other servers than those of the configuration, for now; nil ends that.
func (n *nameserverParts) takeDetour(routes []nameserver.Route) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(routes) == 0 && len(n.detour) == 0 || len(n.settings.Upstreams) == 0 {
		n.detour = routes
		return nil
	}
	if err := n.server.Configure(withDetour(n.settings, routes)); err != nil {
		return fmt.Errorf("nameserver: %w", err)
	}
	n.detour = routes
	return nil
}

// withDetour adds routes, but for domains that the settings have a route for.
func withDetour(s nameserver.Settings, routes []nameserver.Route) nameserver.Settings {
	if len(s.Upstreams) == 0 {
		return s
	}
	s.Routes = slices.Clone(s.Routes)
	known := map[string]bool{}
	for _, r := range s.Routes {
		for _, d := range r.Domains {
			known[dnsmon.CanonicalName(strings.TrimPrefix(d, "."))] = true
		}
	}
	for _, r := range routes {
		r.Domains = slices.DeleteFunc(slices.Clone(r.Domains), func(d string) bool { return known[d] })
		if len(r.Domains) > 0 {
			s.Routes = append(s.Routes, r)
		}
	}
	return s
}

// announcedFor is how long a socket of the nameserver may take to send its first packet.
const announcedFor = 10 * time.Second

// announceQuery lets a query of our own go out, and keeps it from being redirected to us.
func (d *Daemon) announceQuery(p packet.Protocol, localPort uint16) error {
	return d.firewall.PreAuthenticate(p, localPort, announcedFor) //nolint:wrapcheck // it names the port
}

// withdrawQuery takes back what announceQuery said.
func (d *Daemon) withdrawQuery(p packet.Protocol, localPort uint16) {
	d.firewall.Withdraw(p, localPort)
}

// configure tells a firewall what is ours. Connections that spares reports are no DNS, whatever their port.
func (n *nameserverParts) configure(c *firewall.Config, listen []netip.AddrPort, spares func(*conn.Snapshot) bool) {
	for _, a := range listen {
		for _, p := range []packet.Protocol{packet.UDP, packet.TCP} {
			c.Services = append(c.Services, firewall.Service{Protocol: p, Addr: a})
		}
	}
	c.ToNameserver = func(s *conn.Snapshot) bool { return n.takes(s, spares) }
}

// takes reports whether a new connection is redirected to the nameserver, and remembers whom it is taken from. Nameservers of this host
// are left alone: they answer what only they know, and ask others on behalf of programs, which is redirected. So are those on the
// link, whose clients have link-local addresses that an answer from loopback does not reach.
func (n *nameserverParts) takes(s *conn.Snapshot, spares func(*conn.Snapshot) bool) bool {
	t := s.Tuple
	if t.Remote.Port() != nameserver.Port || t.Protocol != packet.UDP && t.Protocol != packet.TCP {
		return false
	}
	over := &n.over6
	if t.Is4() {
		over = &n.over4
	}
	if s.Scope != netscope.Site && s.Scope != netscope.Global || !over.Load() || spares(s) {
		return false
	}
	n.queries.askers.redirected.note(t)
	return true
}

// listens reports whether the nameserver can be asked over IPv4, or over IPv6.
func (n *nameserverParts) listens(over4 bool) bool { //nolint:revive // says which family
	return slices.ContainsFunc(n.server.Addrs(), func(a netip.AddrPort) bool { return a.Addr().Is4() == over4 })
}

// figures are for people and programs.
func (n *nameserverParts) figures() *api.Nameserver {
	return &api.Nameserver{Enabled: n.server.Enabled(), Addresses: n.server.Addrs(), Upstreams: n.server.Upstreams(), Stats: n.server.Stats()}
}
