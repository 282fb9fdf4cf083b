package refd

import (
	"context"
	"fmt"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/refd/metrics"
	"github.com/weirfw/weir/internal/refd/web"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/module"
)

// noPage is the id of the state that the web page is not served.
const noPage = "api-no-page"

// serveAPI serves the API and the web page.
func (d *Daemon) serveAPI(ctx context.Context, ready func()) error {
	cfg := d.opt.Config
	role := api.ReadWrite
	if cfg.API.GroupRole == config.GroupRead {
		role = api.ReadOnly
	}
	err := api.Serve(ctx, api.Config{
		Socket: cfg.API.Socket, Group: cfg.API.Group, GroupRole: role, Listen: cfg.API.Listen, TokenDir: cfg.Netfilter.StateDir,
		Backend: backend{d}, Page: web.Handler(), Metrics: metrics.Handler(d.figures), Trouble: d.pageTrouble, Groupless: d.groupless,
		Logger: d.log.With("module", "api"),
	}, ready)
	if err != nil {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}

// pageTrouble shows that the web page is not served.
func (d *Daemon) pageTrouble(err error) {
	if err == nil {
		d.server.States().Remove(noPage)
		return
	}
	d.server.States().Add(module.State{
		ID: noPage, Name: "No web page", Severity: module.Hint,
		Message: err.Error() + " (set api.listen to another address, or to \"\" for no web page)",
	})
}

// groupless shows that the group cannot use the API: refd goes on without it.
func (d *Daemon) groupless(err error) {
	d.server.States().Add(module.State{
		ID: "api-no-group", Name: "Only root can use refd", Severity: module.Warning,
		Message: err.Error() + " (refd needs the capability CAP_CHOWN for that; or set api.group to \"\" for nobody but root)",
	})
}

// figures are what is measured now.
func (d *Daemon) figures() metrics.Figures {
	f := metrics.Figures{
		Firewall: d.firewall.Stats(), Times: d.firewall.Times(), Live: d.store.Len(), Started: d.started, Version: d.opt.Version,
		Source: sourceFigures(d.source), Attribution: map[string]uint64{}, Unattributed: map[string]uint64{},
	}
	found := d.processes.Stats()
	for method, n := range found.Found {
		f.Attribution[method.String()] = n
	}
	for reason, n := range found.Unknown {
		f.Unattributed[reason.String()] = n
	}
	if d.split != nil {
		status := d.split.Status()
		f.Split = &metrics.Split{Took: status.Took, Refused: status.Refused, Sessions: d.splitSessions()}
	}
	for _, s := range module.AllStates(d.root) {
		f.States = append(f.States, s.Severity.String())
	}
	return f
}

// splitSessions counts split connections that live.
func (d *Daemon) splitSessions() (n int) {
	d.store.Range(func(c *conn.Conn) bool {
		if c.State().SplitTun != nil {
			n++
		}
		return true
	})
	return n
}
