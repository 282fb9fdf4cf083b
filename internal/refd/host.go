package refd

import (
	"net/netip"

	"github.com/weirfw/weir/pkg/netif"
)

// host answers the firewall's questions from the newest snapshot of the
// interfaces.
type host struct{ links *netif.Watcher }

// IsLocalAddr implements firewall.Host.
func (h host) IsLocalAddr(a netip.Addr) bool {
	_, ok := h.links.Snapshot().Owner(a)
	return ok
}

// IsAttached implements firewall.Host.
func (h host) IsAttached(a netip.Addr) bool {
	_, ok := h.links.Snapshot().Attached(a)
	return ok
}

// IsBroadcast implements firewall.Host.
func (h host) IsBroadcast(a netip.Addr) bool { return h.links.Snapshot().IsBroadcast(a) }
