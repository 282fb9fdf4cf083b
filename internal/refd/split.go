package refd

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/splittunnel"
)

// splitPolicy is what the rules say about the split tunnel.
type splitPolicy struct {
	rules *rules.Live
	// next is about to be in force: its interfaces have to be ready before.
	next atomic.Pointer[rules.Set]
	// stay keeps the interfaces that earlier rules named usable: running
	// connections stay on their side.
	stay bool
	// parsed has the selectors of the interfaces that the rules name.
	parsed atomic.Pointer[map[string]netif.Selector]
}

// Wish implements splittunnel.Policy.
func (p *splitPolicy) Wish(s *conn.Snapshot) splittunnel.Wish {
	o := p.rules.Split(s)
	if !o.Use {
		return splittunnel.Wish{}
	}
	sel, ok := (*p.parsed.Load())[o.Interface]
	if !ok {
		sel = selector(o.Interface)
	}
	return splittunnel.Wish{Use: true, Interface: sel}
}

// NeedsName implements splittunnel.Needer.
func (p *splitPolicy) NeedsName(s *conn.Snapshot) bool { return p.rules.Split(s).NeedsDomain }

// selector parses what was checked when the rules were loaded.
func selector(text string) netif.Selector {
	sel, err := netif.ParseSelector(text)
	if err != nil {
		return netif.Selector{}
	}
	return sel
}

// Interfaces implements splittunnel.Policy.
func (p *splitPolicy) Interfaces() []netif.Selector {
	parsed := make(map[string]netif.Selector)
	var list []netif.Selector
	if old := p.parsed.Load(); p.stay && old != nil {
		for text, sel := range *old {
			parsed[text] = sel
			list = append(list, sel)
		}
	}
	for _, set := range []*rules.Set{p.rules.Load(), p.next.Load()} {
		for _, text := range set.SplitInterfaces() {
			if _, known := parsed[text]; known {
				continue
			}
			parsed[text] = selector(text)
			list = append(list, parsed[text])
		}
	}
	p.parsed.Store(&parsed)
	return list
}

// buildSplit builds the split tunnel if there is an engine for it.
func (d *Daemon) buildSplit() error {
	d.wishes.rules, d.wishes.stay = &d.rules, d.cfg.OnChange == config.Leave
	d.wishes.Interfaces()
	if d.cfg.SplitTunnel.Engine == config.SplitNone {
		return nil
	}
	engine, err := openEngine(&d.cfg.File, d.source, d.log, d.knownPath)
	if err != nil {
		return fmt.Errorf("split tunnel: %w", err)
	}
	d.split, err = splittunnel.New(splittunnel.Config{
		Engine: engine, Links: d.links, Policy: &d.wishes, OnChange: d.waysChanged, Logger: d.log.With("module", "split tunnel"),
	})
	if err != nil {
		return fmt.Errorf("split tunnel: %w", err)
	}
	d.switchSplit(&d.cfg.File)
	return nil
}

// switchSplit switches the split tunnel as the configuration says.
func (d *Daemon) switchSplit(cfg *config.File) {
	want := splittunnel.Off
	if cfg.SplitTunnel.Enabled {
		want = splittunnel.On
	}
	d.split.Switch(want)
}

// knownPath returns the path of a connection that was split before.
func (d *Daemon) knownPath(t packet.Tuple) (splittunnel.Path, bool) {
	c := d.store.Get(t)
	if c == nil {
		return splittunnel.Path{}, false
	}
	return d.split.PathOf(c.State())
}

// waysChanged decides again about the connections that interfaces concern.
func (d *Daemon) waysChanged(ctx context.Context) {
	_, err := d.firewall.Reevaluate(ctx, func(s *conn.Snapshot) bool {
		return s.SplitTun != nil || s.Decision.Reason.Code == firewall.CodeSplitTunFailed
	})
	if err != nil && ctx.Err() == nil {
		d.log.Warn("re-evaluate split connections", "err", err)
	}
}

// useRules puts rules into force. What they want of interfaces is ready before,
// and what the old ones wanted is gone after. The error is about interfaces; the
// rules are in force all the same.
func (d *Daemon) useRules(ctx context.Context, set *rules.Set) (err error) {
	if d.split != nil {
		d.wishes.next.Store(set)
		_ = d.split.Refresh(ctx) // what is still wrong below is told
	}
	d.rules.Swap(set)
	if d.split != nil {
		d.wishes.next.Store(nil)
		err = d.split.Refresh(ctx)
	}
	return err
}

// Split implements api.Backend.
func (b backend) Split(ctx context.Context, r api.SplitRequest) (api.ReloadResult, error) {
	d := b.d
	if d.split == nil {
		return api.ReloadResult{}, fmt.Errorf("%w: there is no engine: set split_tunnel.engine, and start refd again", api.ErrRefused)
	}
	want := splittunnel.Off
	if r.On {
		want = splittunnel.On
	}
	d.split.Switch(want)
	d.log.Info("split tunnel switched", "on", r.On)
	changed, err := d.firewall.Reevaluate(context.WithoutCancel(ctx), firewall.Everything)
	if err != nil {
		return api.ReloadResult{}, fmt.Errorf("re-evaluate connections: %w", err)
	}
	return api.ReloadResult{Rules: len(d.rules.Load().Rules()), Changed: changed}, nil
}
