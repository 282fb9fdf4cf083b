package refd

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/netif"
)

// onlineParts find out whether the host is online.
type onlineParts struct {
	*connectivity
	module *module.Service
}

func (d *Daemon) buildConnectivity() (err error) {
	o := &d.online
	if o.connectivity, err = newConnectivity(d.cfg.Connectivity.Probes, d.cfg.Connectivity.Domains); err != nil {
		return err
	}
	o.module, err = module.NewService(module.ServiceConfig{Name: "connectivity", Logger: d.log, Run: d.runConnectivity})
	if err != nil {
		return fmt.Errorf("connectivity: %w", err)
	}
	o.states = o.module.States()
	o.hasRoute = func() bool { return hasRoute(d.links.Snapshot()) }
	o.lookUp = func(ctx context.Context, host string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host) //nolint:wrapcheck // it names the host
	}
	o.told = d.onlineChanged
	return nil
}

func (d *Daemon) runConnectivity(ctx context.Context, ready func()) error {
	defer d.links.Subscribe(func(*netif.Snapshot) { d.online.networkChanged() })()
	return d.online.run(ctx, ready)
}

// onlineChanged has the names that lead online asked of the network's own nameservers while the host is not: nobody else can be reached.
func (d *Daemon) onlineChanged(o *offline) {
	d.log.Info("connectivity changed", "online", o == nil)
	var routes []nameserver.Route
	if upstreams := networkServers(systemServers()); o != nil && len(upstreams) > 0 {
		domains := slices.Clone(d.online.names)
		if _, err := netip.ParseAddr(o.host); err != nil && o.host != "" && !slices.Contains(domains, strings.ToLower(o.host)) {
			domains = append(domains, strings.ToLower(o.host))
		}
		routes = []nameserver.Route{{Domains: domains, Upstreams: upstreams}}
	}
	if err := d.nameserver.takeDetour(routes); err != nil {
		d.log.Warn("names that lead online are asked as all others", "err", err)
	}
}

// networkServers returns the nameservers on other hosts that the first of these sources names any of.
func networkServers(sources [][]netip.Addr) (list []nameserver.Upstream) {
	for _, source := range sources {
		for _, a := range source {
			if a.IsLoopback() || a.IsUnspecified() || a.Zone() != "" {
				continue
			}
			u := nameserver.Upstream{Protocol: nameserver.PlainUDP, Addr: netip.AddrPortFrom(a.Unmap(), nameserver.Port)}
			if !slices.Contains(list, u) {
				list = append(list, u)
			}
		}
		if len(list) > 0 {
			return list
		}
	}
	return nil
}
