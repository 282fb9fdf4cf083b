package refd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/splittunnel"
	"github.com/weirfw/weir/pkg/splittunnel/kroute"
	"github.com/weirfw/weir/pkg/splittunnel/proxy"
)

// openEngine returns the engine of the split tunnel that cfg asks for, to work
// with a packet backend. known tells the path of a connection that was split
// before.
func openEngine(cfg *config.File, src source, log *slog.Logger, known func(packet.Tuple) (splittunnel.Path, bool)) (splittunnel.Engine, error) {
	if cfg.SplitTunnel.Engine == config.SplitProxy {
		e, err := proxy.NewEngine(proxy.EngineConfig{
			Server: proxy.Config{
				Listen: []netip.AddrPort{cfg.SplitTunnel.Listen4, cfg.SplitTunnel.Listen6},
				Log:    log.With("module", "proxy"),
			},
			Mark:  cfg.Netfilter.Marks.AcceptFinal,
			Known: known,
		})
		if err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
		return e, nil
	}
	kc := krouteConfig(cfg, log)
	kc.Guard, _ = src.(kroute.Guard)
	e, err := kroute.New(kc)
	if err != nil {
		return nil, fmt.Errorf("kroute: %w", err)
	}
	return e, nil
}

func krouteConfig(cfg *config.File, log *slog.Logger) kroute.Config {
	return kroute.Config{
		Mark:       cfg.Netfilter.Marks.SplitTun,
		Table:      cfg.SplitTunnel.Table,
		Priority:   cfg.SplitTunnel.Priority,
		MaxRoutes:  cfg.SplitTunnel.Interfaces,
		StateFile:  filepath.Join(cfg.Netfilter.StateDir, "kroute.json"),
		KeepOnExit: cfg.Mode == config.Enforce && cfg.OnExit == config.Closed,
		Logger:     log.With("module", "kroute"),
	}
}

// Cleanup removes what a refd with this configuration left on the host: first
// what catches packets, then where they go.
func Cleanup(ctx context.Context, cfg *config.File, log *slog.Logger) error {
	var errs []error
	if err := nfq.Cleanup(ctx, hostConfig(cfg, log)); err != nil {
		errs = append(errs, fmt.Errorf("clean up packet filter rules: %w", err))
	}
	if err := kroute.Cleanup(ctx, krouteConfig(cfg, log)); err != nil {
		errs = append(errs, fmt.Errorf("clean up routes: %w", err))
	}
	return errors.Join(errs...)
}
