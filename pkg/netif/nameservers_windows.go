package netif

import (
	"net/netip"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Nameservers returns the servers that the adapters which are up have for the system's DNS client, each once; those with link-local
// addresses have the adapter's index as zone. It needs no privileges.
//
// On other systems, where files tell that, the error wraps errors.ErrUnsupported.
func Nameservers() ([]netip.Addr, error) {
	first, err := adapters(windows.GAA_FLAG_SKIP_UNICAST)
	if err != nil {
		return nil, err
	}
	return nameserversOf(first), nil
}

// placeholders are what Windows writes for adapters that have no servers of IPv6: site-local addresses, which nobody has any more
// (RFC 3879).
//
//nolint:gochecknoglobals // a constant that netip makes
var placeholders = netip.MustParsePrefix("fec0::/10")

func nameserversOf(first *windows.IpAdapterAddresses) (list []netip.Addr) {
	for at := first; at != nil; at = at.Next {
		if at.OperStatus != windows.IfOperStatusUp {
			continue
		}
		for s := at.FirstDnsServerAddress; s != nil; s = s.Next {
			a := addrOf((*windows.RawSockaddrInet)(unsafe.Pointer(s.Address.Sockaddr)))
			if !a.IsValid() || placeholders.Contains(a) {
				continue
			}
			if a.IsLinkLocalUnicast() && a.Is6() {
				a = a.WithZone(strconv.FormatUint(uint64(at.Ipv6IfIndex), 10))
			}
			if !slices.Contains(list, a) {
				list = append(list, a)
			}
		}
	}
	return list
}
