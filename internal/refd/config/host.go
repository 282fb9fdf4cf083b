package config

import (
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/splittunnel/kroute"
	"github.com/weirfw/weir/pkg/splittunnel/proxy"
)

// checkHost asks the packages that would work with the settings, so that a file is not called good that refd then does not start
// with. It touches nothing of the host; what this system cannot do at all is for the start to tell, and what is known about a
// section is not told twice.
func (f *File) checkHost(known []value) (found []value) {
	add := func(path, hint string, err error) {
		told := slices.ContainsFunc(known, func(v value) bool { return strings.HasPrefix(v.path, path) })
		if err != nil && !told && !errors.Is(err, errors.ErrUnsupported) {
			found = append(found, value{path, plain(err), hint})
		}
	}
	n := f.Netfilter
	accepts := func(cfg nfq.Config) error {
		_, err := nfq.New(cfg)
		return err //nolint:wrapcheck // plain puts it into words
	}
	add("netfilter.chain_prefix", "", accepts(nfq.Config{Host: nfq.HostConfig{ChainPrefix: n.ChainPrefix}}))
	add("netfilter.marks", "give each its own number", accepts(nfq.Config{Host: nfq.HostConfig{Marks: nfq.Marks{
		Accept: n.Marks.Accept, Block: n.Marks.Block, Drop: n.Marks.Drop, AcceptFinal: n.Marks.AcceptFinal,
		AcceptAlways: n.Marks.AcceptAlways, BlockAlways: n.Marks.BlockAlways, DropAlways: n.Marks.DropAlways,
		Tunnel: n.Marks.Tunnel, SplitTun: n.Marks.SplitTun, Nameserver: n.Marks.Nameserver,
	}}}))
	add("netfilter.queues", "give each its own number", accepts(nfq.Config{Host: nfq.HostConfig{
		Queues: nfq.Queues{Out4: n.Queues.Out4, In4: n.Queues.In4, Out6: n.Queues.Out6, In6: n.Queues.In6},
	}}))
	add("netfilter.queue_length", "", accepts(nfq.Config{MaxQueueLen: n.QueueLength}))
	switch f.SplitTunnel.Engine {
	case SplitKroute:
		_, err := kroute.New(kroute.Config{
			Mark: n.Marks.SplitTun, Table: f.SplitTunnel.Table, Priority: f.SplitTunnel.Priority, MaxRoutes: f.SplitTunnel.Interfaces,
			StateFile: filepath.Join(n.StateDir, "kroute.json"),
		})
		add("split_tunnel", "", err)
	case SplitProxy:
		_, err := proxy.NewEngine(proxy.EngineConfig{
			Server: proxy.Config{Listen: []netip.AddrPort{f.SplitTunnel.Listen4, f.SplitTunnel.Listen6}}, Mark: n.Marks.AcceptFinal,
		})
		add("split_tunnel", "", err)
	case SplitNone:
	}
	return found
}

// plain is an error without the name of the package that it comes from.
func plain(err error) string {
	for _, kind := range []error{nfq.ErrBadConfig, nfq.ErrBadMarks, kroute.ErrConfig} {
		if errors.Is(err, kind) {
			return strings.TrimPrefix(err.Error(), kind.Error()+": ")
		}
	}
	return err.Error()
}
