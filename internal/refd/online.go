package refd

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
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

// resolvConfs are where the nameservers of the network are written, the better source first: that of systemd-resolved has them also
// where programs are sent to its stub.
//
//nolint:gochecknoglobals // a table that nobody writes
var resolvConfs = []string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"}

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
	if upstreams := networkServers(resolvConfs...); o != nil && len(upstreams) > 0 {
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

// networkServers returns the nameservers on other hosts that the first of these files names any of (resolv.conf(5)).
func networkServers(paths ...string) (list []nameserver.Upstream) {
	for _, path := range paths {
		for _, a := range resolversIn(path) {
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

// resolvers are the nameservers that programs on this host are told to ask, of all these files, without zones.
func resolvers(paths ...string) (list []netip.Addr) {
	for _, path := range paths {
		for _, a := range resolversIn(path) {
			list = append(list, a.Unmap().WithZone(""))
		}
	}
	return list
}

// resolversIn returns the nameservers that a file names (resolv.conf(5)).
func resolversIn(path string) (list []netip.Addr) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil // not every system has each
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			list = append(list, a)
		}
	}
	return list
}
