package refd

import (
	"net/netip"

	"github.com/weirfw/weir/pkg/netif"
)

// systemServers returns the nameservers that the system asks for the programs of this host: those of its adapters.
func systemServers() [][]netip.Addr {
	list, err := netif.Nameservers()
	if err != nil {
		return nil // as on a host that has none
	}
	return [][]netip.Addr{list}
}
