package refd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/appid"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/rules"
)

// backend answers the API.
type backend struct{ d *Daemon }

var _ api.Backend = backend{}

// Status implements api.Backend.
func (b backend) Status(ctx context.Context) (api.Status, error) {
	d := b.d
	d.mu.Lock()
	cfg := d.cfg
	d.mu.Unlock()
	s := api.Status{
		Version: d.opt.Version, PID: os.Getpid(), Mode: string(cfg.Mode), Config: d.opt.ConfigPath,
		Rules: len(d.rules.Load().Rules()), Started: d.started, Live: d.store.Len(),
		Firewall: d.firewall.Stats(), Source: d.source.figures(), Processes: d.processes.Stats(),
		Modules: []api.Module{}, States: []api.State{},
	}
	if by := d.confirmBy.Load(); by != nil {
		s.ConfirmUntil = *by
	}
	s.Attribution = d.attribution.status(d.processes.Stats())
	s.Names, s.Nameserver = d.naming.figures(), d.nameserver.figures()
	if d.split != nil {
		split := d.split.Status()
		s.SplitTunnel = &split
	}
	if d.ivpn != nil {
		vpn := d.ivpn.State()
		s.IVPN = &vpn
	}
	until, err := d.pauser.Until(ctx)
	if err != nil {
		return s, fmt.Errorf("status: %w", err)
	}
	s.PausedUntil = until
	module.Walk(d.root, func(m module.Module) {
		if p, ok := m.(interface{ Phase() module.Phase }); ok {
			s.Modules = append(s.Modules, api.Module{Name: m.Name(), Phase: p.Phase().String()})
		}
	})
	states := module.AllStates(d.root)
	for _, st := range states {
		s.States = append(s.States, api.State{
			Module: st.Module, ID: st.ID, Title: st.Name, Message: st.Message, Severity: st.Severity, Since: st.Time,
		})
	}
	s.Worst = module.Worst(states)
	return s, nil
}

// Connections implements api.Backend.
func (b backend) Connections(_ context.Context, q connstore.Query) (connstore.Page, error) {
	if err := q.Validate(); err != nil {
		return connstore.Page{}, fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	return b.d.store.Query(q), nil
}

// Rules implements api.Backend.
func (b backend) Rules(context.Context) ([]api.Rule, error) {
	out := []api.Rule{}
	for _, r := range b.d.rules.Load().Rules() {
		layer := r.Layer.String()
		if r.Profile != "" {
			layer += " " + r.Profile
		}
		out = append(out, api.Rule{ID: r.ID, Layer: layer, Action: r.Action.String(), Comment: r.Comment, Hits: r.Hits()})
	}
	return out, nil
}

// Interfaces implements api.Backend.
func (b backend) Interfaces(context.Context) ([]api.Interface, error) {
	return Interfaces(b.d.links.Snapshot()), nil
}

// Interfaces describes the interfaces of a snapshot.
func Interfaces(s *netif.Snapshot) []api.Interface {
	out := []api.Interface{}
	for i := range s.All() {
		a := api.Interface{
			Index: uint32(i.Index), Name: i.Name, Kind: i.Kind.String(), MAC: i.MAC.String(), MTU: i.MTU, Up: i.Usable(), Addresses: []string{},
		}
		for _, addr := range i.Addrs {
			a.Addresses = append(a.Addresses, addr.Prefix.String())
		}
		a.Default4, a.Default6 = gateway(s, i.Index, netif.IPv4), gateway(s, i.Index, netif.IPv6)
		for _, f := range []netif.Family{netif.IPv4, netif.IPv6} {
			if c, err := s.Pick("", f); err == nil && c.Interface.Index == i.Index {
				a.Best = append(a.Best, f.String())
			}
		}
		out = append(out, a)
	}
	return out
}

func gateway(s *netif.Snapshot, index int, f netif.Family) string {
	for r := range s.Defaults(f) {
		switch {
		case r.Index != index:
		case r.Gateway.IsValid():
			return r.Gateway.String()
		default:
			return "direct"
		}
	}
	return ""
}

// Explain implements api.Backend.
func (b backend) Explain(ctx context.Context, r api.ExplainRequest) (api.Explanation, error) {
	cnames, err := resolveRemote(ctx, &r, b.d.naming.lookUp, lookUpAnew)
	if err != nil {
		return api.Explanation{}, err
	}
	s, err := b.d.hypothetical(r)
	if err != nil {
		return api.Explanation{}, err
	}
	s.CNAMEs = cnames
	e := Explain(b.d.rules.Load(), s)
	if d, ok := b.d.firewall.Preview(ctx, s); ok {
		e.Decision = d
	}
	b.d.mu.Lock()
	e.Enforced = b.d.cfg.Mode == config.Enforce || e.Decision.Verdict.Allows()
	b.d.mu.Unlock()
	return e, nil
}

// Explain says what a set of rules decides about a connection, and why.
func Explain(set *rules.Set, s *conn.Snapshot) api.Explanation {
	o := set.Evaluate(s)
	e := api.Explanation{Connection: *s, Decision: o.Decision, Asks: o.Ask, Steps: []api.Step{}}
	for _, st := range set.Explain(s) {
		layer := st.Layer.String()
		if st.Profile != "" {
			layer += " " + st.Profile
		}
		e.Steps = append(e.Steps, api.Step{Layer: layer, Rule: st.Rule, Matched: st.Result == rules.Decided, Text: st.String()})
	}
	return e
}

// hypothetical builds the connection that an ExplainRequest describes.
func (d *Daemon) hypothetical(r api.ExplainRequest) (*conn.Snapshot, error) {
	s, err := Hypothetical(r)
	if err != nil {
		return nil, err
	}
	if r.Interface != "" {
		i, ok := d.links.Snapshot().ByName(r.Interface)
		if !ok {
			return nil, fmt.Errorf("%w: there is no interface %q: see `refd interfaces`", api.ErrRefused, r.Interface)
		}
		s.Interface = uint32(i.Index)
	}
	return s, nil
}

// Hypothetical builds the connection that an ExplainRequest describes, but for
// its interface. Errors wrap api.ErrRefused.
func Hypothetical(r api.ExplainRequest) (*conn.Snapshot, error) {
	remote, err := netip.ParseAddrPort(r.Remote)
	if err != nil {
		a, err2 := netip.ParseAddr(r.Remote)
		if err2 != nil {
			return nil, fmt.Errorf("%w: %q is no address: write 192.0.2.1, 192.0.2.1:443, [2001:db8::1]:443 or example.org:443", api.ErrRefused, r.Remote)
		}
		remote = netip.AddrPortFrom(a, 0)
	}
	addr := remote.Addr().Unmap().WithZone("")
	local := netip.IPv4Unspecified()
	if addr.Is6() {
		local = netip.IPv6Unspecified()
	}
	s := &conn.Snapshot{Direction: r.Direction, Scope: netscope.Of(addr), Domain: r.Domain, Started: time.Now()}
	s.Tuple.Local = netip.AddrPortFrom(local, r.LocalPort)
	s.Tuple.Remote = netip.AddrPortFrom(addr, remote.Port())
	s.Tuple.Protocol = r.Protocol
	if r.Path != "" || r.Script != "" {
		s.Process = &conn.Process{PID: -1, UID: r.UID, Path: r.Path, Args: r.Args, Script: r.Script}
		s.Process.App = (&appid.Identifier{}).Of(s.Process, nil)
	}
	return s, nil
}

// Reload implements api.Backend. The old configuration stays if the new one is
// bad.
func (b backend) Reload(ctx context.Context) (api.ReloadResult, error) { return b.d.Reload(ctx) }

// Reload reads the configuration file again and applies what can be applied at
// run time. The old configuration stays if the new one is bad: with an error,
// nothing was changed.
func (d *Daemon) Reload(ctx context.Context) (api.ReloadResult, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.configPath() == "" {
		return api.ReloadResult{}, fmt.Errorf("%w: refd was started without a configuration file", api.ErrRefused)
	}
	cfg, err := config.Read(d.configPath(), rules.WithPrevious(d.rules.Load()), rules.WithInterfaces(d.opt.Interfaces))
	if err != nil {
		return api.ReloadResult{}, fmt.Errorf("%w: the old configuration stays: %w", api.ErrRefused, err)
	}
	res := api.ReloadResult{Rules: len(cfg.Rules.Rules()), NeedRestart: d.cfg.NeedRestart(&cfg.File)}
	if err := d.nameserver.reload(&cfg.DNS.Nameserver); err != nil {
		return api.ReloadResult{}, fmt.Errorf("%w: the old configuration stays: %w", api.ErrRefused, err)
	}
	d.steer()
	d.dns.prevent.Store(cfg.DNS.PreventBypass)
	if err := d.useRules(ctx, cfg.Rules); err != nil {
		d.log.Warn("some path of the split tunnel does not work", "err", err)
	}
	if d.opt.Level != nil {
		d.opt.Level.Set(cfg.Log.Level)
	}
	// what needs a restart stays as it runs
	running := *d.cfg
	running.Digest = cfg.Digest
	running.Rules, running.Config, running.Log.Level = cfg.Rules, cfg.Config, cfg.Log.Level
	if running.SplitTunnel.Enabled = cfg.SplitTunnel.Enabled; d.split != nil {
		d.switchSplit(&running.File)
	}
	running.IVPN.Notice = cfg.IVPN.Notice
	d.notice.want(cfg.IVPN.Notice)
	running.Lists, running.Read = cfg.Lists, cfg.Read
	running.DNS.CNAMEs, running.DNS.PreventBypass = cfg.DNS.CNAMEs, cfg.DNS.PreventBypass
	listen := running.DNS.Nameserver.Listen
	running.DNS.Nameserver = cfg.DNS.Nameserver
	running.DNS.Nameserver.Listen = listen
	d.cfg = &running
	d.feed.changed()
	d.log.Info("configuration reloaded", "rules", res.Rules, "need_restart", res.NeedRestart)
	d.prompts.Reset()
	// the rules are in force: whoever asked may go away meanwhile
	if res.Changed, err = d.firewall.Reevaluate(context.WithoutCancel(ctx), firewall.Everything); err != nil {
		// nothing to take back: the new rules hold, and what is not changed of a connection is changed with its next packet
		d.log.Warn("re-evaluate connections", "err", err)
		res.Trouble = "re-evaluate connections: " + err.Error()
	}
	return res, nil
}

// Pause implements api.Backend.
func (b backend) Pause(ctx context.Context, dur time.Duration) error {
	if dur < time.Second || dur > 24*time.Hour {
		return fmt.Errorf("%w: pause for %v: use 1s to 24h", api.ErrRefused, dur)
	}
	if err := b.d.pauser.Pause(ctx, dur); err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	return nil
}

// Resume implements api.Backend.
func (b backend) Resume(ctx context.Context) error {
	if err := b.d.pauser.Resume(ctx); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	return nil
}

// Confirm implements api.Backend.
func (b backend) Confirm(context.Context) error {
	if b.d.confirmBy.Swap(nil) == nil {
		return fmt.Errorf("%w: nothing waits for a confirmation", api.ErrRefused)
	}
	b.d.confirm.Stop()
	b.d.log.Info("confirmed")
	return nil
}

// Exit implements api.Backend.
func (b backend) Exit(_ context.Context, how string) error {
	var err error
	switch how {
	case "shutdown":
		err = b.d.exit.Shutdown("asked for by the API")
	case "restart":
		err = b.d.exit.Restart("asked for by the API")
	default:
		err = errors.New("unknown way to exit: " + how)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	return nil
}
