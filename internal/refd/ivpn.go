package refd

import (
	"context"
	"fmt"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/ivpn"
	"github.com/weirfw/weir/pkg/module"
)

// buildIVPN builds the interop with IVPN if it is switched on, and fills the slot
// of the external handler if there are other handlers. Exceptions to the kill
// switches of WireGuard tunnels are made by the packet backend, which finds them
// by itself.
func (d *Daemon) buildIVPN() error {
	links := d.opt.Handlers
	if d.cfg.IVPN.Enabled {
		cc := ivpn.ClientConfig{Folder: d.cfg.IVPN.Folder, Name: "refd", Version: d.opt.Version, Logger: d.log.With("module", "ivpn")}
		if d.cfg.IVPN.Role == config.IVPNFirewall {
			cc.Role = ivpn.Firewall
		}
		cfg := ivpn.Config{Client: cc, OnChange: d.vpnChanged, Report: d.vpnCondition, Description: "DNS is configured in refd"}
		if len(links) == 0 {
			// Not before IVPN is there: a handler costs every new connection a little.
			cfg.Register = d.external.Set
		}
		var err error
		if d.ivpn, err = ivpn.New(cfg); err != nil {
			return fmt.Errorf("ivpn: %w", err)
		}
		if len(links) > 0 {
			links = append([]extverdict.Link{{Name: ivpn.HandlerName, Handle: d.ivpn.Handle}}, links...)
		}
	}
	if len(links) == 0 {
		return nil
	}
	chain, err := extverdict.Chain(links...)
	if err != nil {
		return fmt.Errorf("external handlers: %w", err)
	}
	if err := d.external.Set("external", chain); err != nil {
		return fmt.Errorf("external handlers: %w", err)
	}
	return nil
}

// vpnModules makes the modules of the interop: d.vpn, and the one that is told
// when the daemon of IVPN has started. Neither holds up the start of refd.
func (d *Daemon) vpnModules() (announced *module.Service, err error) {
	d.vpn, err = module.NewService(module.ServiceConfig{Name: "ivpn", Logger: d.log, Run: d.ivpn.Run, Readiness: module.AtOnce})
	if err != nil {
		return nil, fmt.Errorf("build modules: %w", err)
	}
	announced, err = module.NewService(module.ServiceConfig{
		Name: "ping", Logger: d.log, Readiness: module.AtOnce,
		Run: func(ctx context.Context, ready func()) error {
			return api.ServePing(ctx, d.opt.Config.IVPN.Ping, d.ivpn.Ping, d.log.With("module", "ping"), ready)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("build modules: %w", err)
	}
	return announced, nil
}

// vpnChanged decides anew about the connections of IVPN.
func (d *Daemon) vpnChanged(ctx context.Context) {
	if _, err := d.firewall.Reevaluate(ctx, d.ivpn.Concerns); err != nil && ctx.Err() == nil {
		d.log.Warn("re-evaluate connections of IVPN", "err", err)
	}
}

// vpnCondition shows what the interop reports as a state of its module.
func (d *Daemon) vpnCondition(c ivpn.Condition) {
	if c.Over {
		d.vpn.States().Remove(c.ID)
		return
	}
	state := module.State{ID: c.ID, Name: "IVPN", Message: c.Text, Severity: module.Warning}
	if c.ID != ivpn.ConditionDetected {
		d.log.Warn(c.Text, "condition", c.ID)
		d.vpn.States().Add(state)
		return
	}
	d.log.Info(c.Text)
	if d.cfg.IVPN.Notice {
		state.Severity = module.Hint
		state.Message += " (ivpn.notice: false takes this line away)"
		d.vpn.States().Add(state)
	}
}
