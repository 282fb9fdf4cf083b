package refd

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/refd/metrics"
	"github.com/weirfw/weir/pkg/names"
	"github.com/weirfw/weir/pkg/nfq"
)

// resolverSource is where names come from that the system's resolver tells.
const resolverSource = names.Systemd

// nfqSource is the Linux backend.
type nfqSource struct {
	*nfq.Source
	host nfq.HostConfig
}

// openSource returns the packet backend that cfg describes.
func openSource(cfg *config.Loaded, log *slog.Logger, repaired func()) (source, error) {
	host := hostConfig(&cfg.File, log)
	n := cfg.Netfilter
	copyRange := 0 // headers are enough
	if cfg.DNS.Packets || cfg.DNS.Inspect {
		copyRange = dnsCopyRange
	}
	s, err := nfq.New(nfq.Config{
		CopyRange:   copyRange,
		Host:        host,
		MaxQueueLen: n.QueueLength,
		Timeout:     n.PacketTimeout,
		FailOpen:    n.FailOpen,
		Logger:      log.With("module", "packets"),
		OnRepair:    repaired,
	})
	if err != nil {
		return nil, fmt.Errorf("netfilter: %w", err)
	}
	return &nfqSource{Source: s, host: host}, nil
}

// dnsCopyRange holds the answers of nameservers, which are told that datagrams have 1232 bytes (DNS flag day 2020), and segments of TCP
// on links with the usual MTU. Of longer ones the records that come first are read.
const dnsCopyRange = 1536

func hostConfig(cfg *config.File, log *slog.Logger) nfq.HostConfig {
	n := cfg.Netfilter
	host := nfq.HostConfig{
		ChainPrefix: n.ChainPrefix,
		Marks: nfq.Marks{
			Accept: n.Marks.Accept, Block: n.Marks.Block, Drop: n.Marks.Drop, AcceptFinal: n.Marks.AcceptFinal,
			AcceptAlways: n.Marks.AcceptAlways, BlockAlways: n.Marks.BlockAlways, DropAlways: n.Marks.DropAlways,
			Tunnel: n.Marks.Tunnel, SplitTun: n.Marks.SplitTun, Nameserver: n.Marks.Nameserver,
		},
		Queues:    nfq.Queues{Out4: n.Queues.Out4, In4: n.Queues.In4, Out6: n.Queues.Out6, In6: n.Queues.In6},
		StateFile: filepath.Join(n.StateDir, "netfilter.json"),
		Logger:    log.With("module", "netfilter"),
	}
	if cfg.Mode == config.Observe {
		host.Mode = nfq.Observe
	}
	if cfg.OnExit == config.Open {
		host.OnExit = nfq.ExitOpen
	}
	switch split := cfg.SplitTunnel; split.Engine {
	case config.SplitKroute:
		host.Redirects.RouteSplitTun = true
	case config.SplitProxy:
		host.Redirects.SplitTun = nfq.Redirect{To4: split.Listen4, To6: split.Listen6}
	case config.SplitNone:
	}
	// also without servers to ask: a reload may bring some
	dns := &cfg.DNS.Nameserver
	host.Redirects.Nameserver.To4, host.Redirects.Nameserver.To6 = dns.Target(true), dns.Target(false)
	switch n.Variant {
	case "nft":
		host.Variant = nfq.VariantNFT
	case "legacy":
		host.Variant = nfq.VariantLegacy
	}
	return host
}

// followCloses implements closeFollower.
func (s *nfqSource) followCloses(on bool) error { //nolint:revive // on is all that it says
	how := nfq.ClosesByTimeout
	if on {
		how = nfq.ClosesAtOnce
	}
	return s.FollowCloses(how)
}

// useNameserver implements redirector.
func (s *nfqSource) useNameserver(over4, over6 bool) error { return s.UseNameserver(over4, over6) } //nolint:revive // says for what

func (s *nfqSource) figures() any { return s.Stats() }

func (s *nfqSource) cleanup(ctx context.Context) error {
	if err := nfq.Cleanup(ctx, s.host); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// sourceFigures are what of the figures of the backend goes to Prometheus.
func sourceFigures(s source) metrics.Source {
	q, ok := s.(*nfqSource)
	if !ok {
		return metrics.Source{}
	}
	f := q.Stats()
	return metrics.Source{Packets: f.Packets, Verdicts: f.Verdicts, Drops: map[string]uint64{
		"kernel-queue": f.KernelDrops, "receive-buffer": f.UserDrops, "pending": f.Overflows, "timeout": f.Timeouts,
	}}
}
