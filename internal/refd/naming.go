package refd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/firewall/dnsguard"
	"github.com/weirfw/weir/pkg/firewall/naming"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/names"
)

// namingParts are where the names of connections come from. Observer and monitor are nil if they are not asked for.
type namingParts struct {
	table    *names.Table
	observer *naming.Observer
	monitor  *dnsmon.Monitor
}

// buildNaming builds what the configuration asks for. That this system's resolver cannot be listened to is no reason not to run.
func (d *Daemon) buildNaming() error {
	cfg := d.cfg.DNS
	var err error
	if d.naming.table, err = names.New(names.Config{}); err != nil {
		return fmt.Errorf("names: %w", err)
	}
	if cfg.Packets {
		if d.naming.observer, err = naming.NewObserver(naming.Config{Table: d.naming.table, Forwarder: dnsguard.SystemResolver}); err != nil {
			return fmt.Errorf("names: %w", err)
		}
	}
	if !cfg.Monitor {
		return nil
	}
	d.naming.monitor, err = dnsmon.New(dnsmon.Config{
		Socket: cfg.ResolvedSocket, Handle: d.heard, Report: d.resolverCondition, Logger: d.log.With("module", "resolver"),
	})
	if errors.Is(err, errors.ErrUnsupported) {
		d.log.Info("names come from DNS packets only", "err", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("names: %w", err)
	}
	return nil
}

// heard takes what the system's resolver answered. Where it tells to whom, the name is that process's.
func (d *Daemon) heard(a dnsmon.Answer) {
	var who names.Asker
	if a.PID != 0 {
		if p, err := d.processes.Process(a.PID); err == nil {
			who = names.Asker{PID: p.PID, Start: p.StartTicks}
		}
	}
	d.naming.heard(a, who)
	d.check.heardName(&a)
}

func (n *namingParts) heard(a dnsmon.Answer, who names.Asker) {
	n.table.Add(resolverSource, who, names.Resolve(&a)...)
}

// patientFinder waits for names while there is anybody who could tell them.
type patientFinder struct {
	naming.Finder
	hopes func() bool
}

// FindName implements firewall.NameFinder.
func (f *patientFinder) FindName(ctx context.Context, s *conn.Snapshot, wait time.Duration) (firewall.Name, bool) {
	if wait > 0 && !f.hopes() {
		wait = 0
	}
	return f.Finder.FindName(ctx, s, wait)
}

// configure gives a firewall what there is. An interface must not hold a nil pointer. answers reports whether our nameserver does.
func (n *namingParts) configure(c *firewall.Config, wait time.Duration, answers func() bool) {
	c.Names, c.NameWait = &patientFinder{
		naming.Finder{Table: n.table}, func() bool { return n.observer != nil || n.monitor != nil || answers() },
	}, wait
	if n.observer != nil {
		c.Observer = n.observer
	}
}

// resolverCondition shows what the monitor reports as a state of its module. Many hosts have another resolver, and nothing is wrong
// with that; but one that told before, and is gone, is missed.
func (d *Daemon) resolverCondition(c dnsmon.Condition) {
	if c.Over {
		d.resolver.States().Remove(c.ID)
		return
	}
	d.log.Info(c.Text, "condition", c.ID)
	severity := module.Warning
	if c.ID == dnsmon.ResolverAbsent {
		if d.naming.monitor.Stats().Connects == 0 {
			return
		}
		severity = module.Hint
	}
	d.resolver.States().Add(module.State{ID: c.ID, Name: "Names: " + c.ID, Message: c.Text, Severity: severity})
}

// figures are for people and programs.
func (n *namingParts) figures() *api.Names {
	f := &api.Names{Addresses: n.table.Len()}
	if n.observer != nil {
		f.PacketAnswers = n.observer.Answers()
	}
	if n.monitor != nil {
		s := n.monitor.Stats()
		f.Resolver = &s
	}
	return f
}

// lookUp returns an address that programs were told for a domain, and the aliases that led to it.
func (n *namingParts) lookUp(_ context.Context, domain string) (netip.Addr, []string, error) {
	for _, a := range n.table.Addrs(domain) {
		for _, e := range n.table.All(a) {
			if e.Domain == domain {
				return a, e.CNAMEs, nil
			}
		}
	}
	return netip.Addr{}, nil, errUnknownDomain
}

// errUnknownDomain: no program has asked for it.
var errUnknownDomain = errors.New("no program has looked it up")

// lookUpAnew asks the system's resolver, which tells of aliases the last one.
func lookUpAnew(ctx context.Context, domain string) (netip.Addr, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", domain+".")
	if err != nil {
		return netip.Addr{}, nil, err //nolint:wrapcheck // it names the domain
	}
	var cnames []string
	if last, err := net.DefaultResolver.LookupCNAME(ctx, domain+"."); err == nil && dnsmon.CanonicalName(last) != domain {
		cnames = []string{dnsmon.CanonicalName(last)}
	}
	return addrs[0].Unmap(), cnames, nil
}

// lookupTimeout bounds the question to the system's resolver.
const lookupTimeout = 3 * time.Second

// ResolveRemote puts an address in the place of a domain that r.Remote names, and the domain into r.Domain. It asks the system's
// resolver, and returns the aliases that led to the address. Errors wrap api.ErrRefused.
func ResolveRemote(ctx context.Context, r *api.ExplainRequest) (cnames []string, err error) {
	return resolveRemote(ctx, r, lookUpAnew)
}

// resolveRemote asks each of these functions until one knows.
func resolveRemote(
	ctx context.Context, r *api.ExplainRequest, ask ...func(ctx context.Context, domain string) (netip.Addr, []string, error),
) (cnames []string, err error) {
	host, port := r.Remote, ""
	if h, p, err := net.SplitHostPort(r.Remote); err == nil {
		host, port = h, p
	}
	domain := dnsmon.CanonicalName(host)
	if _, err := netip.ParseAddr(host); err == nil || !strings.Contains(domain, ".") || strings.ContainsAny(domain, ":/[] ") {
		return nil, nil // Hypothetical knows what to say
	}
	var addr netip.Addr
	for _, lookUp := range ask {
		if addr, cnames, err = lookUp(ctx, domain); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: no address is known for %s: %w: write an address, and --domain %s", api.ErrRefused, domain, err, domain)
	}
	r.Remote = addr.String()
	if port != "" {
		r.Remote = net.JoinHostPort(r.Remote, port)
	}
	if r.Domain == "" {
		r.Domain = domain
	}
	return cnames, nil
}
