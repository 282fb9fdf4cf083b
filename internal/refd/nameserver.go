package refd

import (
	"context"
	"fmt"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/nameserver"
)

// nameserverParts are our own nameserver. Without upstreams in the configuration that refd started with, all are nil.
type nameserverParts struct {
	server  *nameserver.Server
	module  *module.Service
	queries *queries
}

// buildNameserver builds what the configuration asks for. That nobody can listen is no reason not to run: somebody else may have the
// port for now.
func (d *Daemon) buildNameserver() (err error) {
	cfg := &d.cfg.DNS.Nameserver
	if !cfg.Enabled() {
		return nil
	}
	n := &d.nameserver
	n.module, err = module.NewService(module.ServiceConfig{
		Name: "nameserver", Logger: d.log, Readiness: module.AtOnce,
		Run: func(ctx context.Context, ready func()) error { return n.server.Run(ctx, ready) },
	})
	if err != nil {
		return fmt.Errorf("nameserver: %w", err)
	}
	n.queries = newQueries(d.processes, &d.rules, d.naming.table, d.cfg.Mode == config.Observe)
	n.server, err = nameserver.New(nameserver.Config{
		Listen: cfg.Listen, Settings: cfg.Settings(), IsLocal: host{d.links}.IsLocalAddr,
		Decider: n.queries, OnAnswer: n.queries.answered,
		States: n.module.States(), Log: d.log.With("module", "nameserver"),
	})
	if err != nil {
		return fmt.Errorf("nameserver: %w", err)
	}
	return nil
}

// reload takes new settings. needRestart tells that they need a nameserver, and that refd started without one.
func (n *nameserverParts) reload(cfg *config.Nameserver) (needRestart bool, err error) {
	if n.server == nil {
		return cfg.Enabled(), nil
	}
	if err := n.server.Configure(cfg.Settings()); err != nil {
		return false, fmt.Errorf("nameserver: %w", err)
	}
	return false, nil
}

// figures are for people and programs; nil without a nameserver.
func (n *nameserverParts) figures() *api.Nameserver {
	if n.server == nil {
		return nil
	}
	return &api.Nameserver{Enabled: n.server.Enabled(), Addresses: n.server.Addrs(), Upstreams: n.server.Upstreams(), Stats: n.server.Stats()}
}
