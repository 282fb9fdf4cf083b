package refd

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/ivpn"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/nameserver"
)

// vpnParts are what refd has of the interop with IVPN.
type vpnParts struct {
	// ivpn is nil if that VPN client is not looked for; vpn is its module.
	ivpn   *ivpn.Interop
	vpn    *module.Service
	notice vpnNotice
	// intercepting is true while packets are.
	intercepting atomic.Bool
}

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
		cfg := ivpn.Config{
			Client: cc, OnChange: d.vpnChanged, Report: d.vpnCondition,
			Nameserver: delegation{d}, Description: "DNS is configured in refd",
		}
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
	d.notice.states = d.vpn.States()
	d.notice.want(d.cfg.IVPN.Notice)
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
	switch {
	case c.ID == ivpn.ConditionDetected && c.Over:
		d.notice.say("")
	case c.ID == ivpn.ConditionDetected:
		d.log.Info(c.Text)
		d.notice.say(c.Text)
	case c.Over:
		d.vpn.States().Remove(c.ID)
	default:
		d.log.Warn(c.Text, "condition", c.ID)
		d.vpn.States().Add(module.State{ID: c.ID, Name: "IVPN", Message: c.Text, Severity: module.Warning})
	}
}

// vpnNotice is the hint that IVPN is on this host, for those who want to see it.
type vpnNotice struct {
	states *module.States // set before the first use

	mu     sync.Mutex // guards what follows
	wanted bool
	text   string // empty while IVPN is not there
}

// want says whether the hint shall be seen, from now on.
func (n *vpnNotice) want(wanted bool) { //nolint:revive // it is a setting
	n.change(func() { n.wanted = wanted })
}

// say tells what there is to be seen; empty is nothing.
func (n *vpnNotice) say(text string) { n.change(func() { n.text = text }) }

func (n *vpnNotice) change(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do()
	switch {
	case n.states == nil: // IVPN is not looked for
	case n.wanted && n.text != "":
		n.states.Update(module.State{
			ID: ivpn.ConditionDetected, Name: "IVPN", Severity: module.Hint,
			Message: n.text + " (ivpn.notice: false takes this line away)",
		})
	default:
		n.states.Remove(ivpn.ConditionDetected)
	}
}

// setIntercepting notes whether packets are intercepted.
func (d *Daemon) setIntercepting(now bool) { //nolint:revive // it is what is noted
	d.intercepting.Store(now)
	d.tellVPN()
}

// ofVPN reports whether a connection is one of IVPN's own. Its tunnels may go to any port.
func (d *Daemon) ofVPN(s *conn.Snapshot) bool { return d.ivpn != nil && d.ivpn.Concerns(s) }

// tellVPN has the interop look at our nameserver again.
func (d *Daemon) tellVPN() {
	if d.ivpn != nil {
		d.ivpn.Reconsider()
	}
}

// delegation says where the host's programs find our nameserver.
type delegation struct{ d *Daemon }

// Delegated implements ivpn.Nameserver: while there is something to ask, and queries to others come here, too. Of several addresses
// one of IPv4, which every host has; none with another port, which IVPN cannot be told.
func (x delegation) Delegated() (listen netip.Addr, ok bool) {
	server := x.d.nameserver.server
	if server == nil || !server.Enabled() || !x.d.intercepting.Load() {
		return netip.Addr{}, false
	}
	for _, a := range server.Addrs() {
		if a.Port() == nameserver.Port && (!listen.IsValid() || a.Addr().Is4() && !listen.Is4()) {
			listen = a.Addr()
		}
	}
	return listen, listen.IsValid()
}
