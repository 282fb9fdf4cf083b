//go:build !windows

package refd

import "net/netip"

// systemServers returns the nameservers that programs of this host are told to ask, by where they are written, the better source first:
// that of systemd-resolved has those of the network also where programs are sent to its stub.
func systemServers() [][]netip.Addr {
	return resolversIn("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf")
}
