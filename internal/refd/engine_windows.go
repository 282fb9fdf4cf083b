package refd

import (
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/splittunnel"
	"github.com/weirfw/weir/pkg/splittunnel/proxy"
)

// openEngine returns the engine of the split tunnel that cfg asks for: the proxy, the only one that there is on Windows.
func openEngine(cfg *config.File, _ source, log *slog.Logger, known func(packet.Tuple) (splittunnel.Path, bool)) (splittunnel.Engine, error) {
	e, err := proxy.NewEngine(proxy.EngineConfig{
		Server: proxy.Config{
			Listen: []netip.AddrPort{cfg.SplitTunnel.Listen4, cfg.SplitTunnel.Listen6},
			Log:    log.With("module", "proxy"),
		},
		Known: known,
	})
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	return e, nil
}
