package refd

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/firewall/dnsguard"
	"github.com/weirfw/weir/pkg/module"
)

// guardParts decide about DNS that our nameserver does not answer.
type guardParts struct {
	*dnsguard.Guard
	notices *bypassNotices
	module  *module.Service
	// prevent is what holds for apps that do not say otherwise.
	prevent atomic.Bool
	inspect bool
	// inspector looks at each packet of what is DNS; nil if nobody does.
	inspector firewall.Inspector
}

// buildGuard builds what the configuration asks for, after the nameserver.
func (d *Daemon) buildGuard() (err error) {
	g := &d.dns
	g.inspect = d.cfg.DNS.Inspect
	g.prevent.Store(d.cfg.DNS.PreventBypass)
	g.notices = newBypassNotices()
	g.module, err = module.NewService(module.ServiceConfig{Name: "dns", Logger: d.log, Run: g.notices.run})
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	g.notices.states = g.module.States()
	more := make([]io.Reader, 0, len(d.cfg.DNS.Endpoints))
	for _, path := range d.cfg.DNS.Endpoints {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("dns.endpoints: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read
		more = append(more, f)
	}
	known, err := dnsguard.KnownEndpoints(more...)
	if err != nil {
		return fmt.Errorf("dns.endpoints: %w", err)
	}
	observe := d.cfg.Mode == config.Observe
	g.Guard, err = dnsguard.New(dnsguard.Config{
		Disabled:  func() bool { return !d.nameserver.server.Enabled() },
		Prevents:  func(p *conn.Process) bool { return d.rules.Load().PreventsDNSBypass(p, g.prevent.Load()) },
		Endpoints: known,
		Prevented: func(b dnsguard.Bypass) {
			if !observe { // nothing was
				g.notices.note(b)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	return nil
}

// inspector is the Guard, but for what spares reports.
type inspector struct {
	*dnsguard.Guard
	spares func(*conn.Snapshot) bool
}

// Inspects implements firewall.Inspector.
func (i inspector) Inspects(s *conn.Snapshot) bool { return i.Guard.Inspects(s) && !i.spares(s) }

// configure gives a firewall what there is. Connections that spares reports are no DNS, whatever their port.
func (g *guardParts) configure(c *firewall.Config, spares func(*conn.Snapshot) bool) {
	if g.inspect {
		g.inspector = inspector{g.Guard, spares}
		c.Inspector = g.inspector
	}
}
