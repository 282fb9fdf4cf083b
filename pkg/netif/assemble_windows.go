package netif

import (
	"net"
	"net/netip"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Types of interfaces (ifdef.h, the numbers of IANA) that x/sys does not name.
const (
	ifTypePropVirtual = 53
	ifTypeBridge      = 209
	ifTypeWWANPP      = 243
	ifTypeWWANPP2     = 244
)

// Bits of MIB_IF_ROW2.InterfaceAndOperStatusFlags, and its AdminStatus.
const (
	hardwareInterface = 1 << 0
	connectorPresent  = 1 << 2
	adminUp           = 1
)

// tunnelWords are in the descriptions of adapters that look like Ethernet and lead to a program.
var tunnelWords = [...]string{"tap-", "tap adapter", "wintun", "wireguard", "openvpn", "tailscale", "zerotier", "vpn"}

// assembly collects the answers of one reading.
type assembly struct {
	ifaces   []Interface
	metrics  map[metricKey]uint32 // of interfaces: a route's cost is its own metric and this
	defaults []DefaultRoute
	gateways []DefaultRoute // from the list of adapters
}

type metricKey struct {
	index  int
	family Family
}

// addAdapter adds an adapter with its addresses. The row is nil if it is not known.
func (a *assembly) addAdapter(at *windows.IpAdapterAddresses, row *windows.MibIfRow2) {
	i := Interface{
		Index: int(at.IfIndex), Name: windows.UTF16PtrToString(at.FriendlyName), Driver: windows.UTF16PtrToString(at.Description),
		MTU: int(at.Mtu),
	}
	if i.Index == 0 {
		i.Index = int(at.Ipv6IfIndex) // an adapter without IPv4
	}
	if at.Mtu == ^uint32(0) {
		i.MTU = 0 // loopback has no limit
	}
	i.Kind = kindOf(at.IfType, i.Driver, row)
	i.Flags = flagsOf(at, i.Kind, row)
	if i.Kind != KindTunnel {
		i.MAC = macOf(at.PhysicalAddress[:min(int(at.PhysicalAddressLength), len(at.PhysicalAddress))])
	}
	for u := at.FirstUnicastAddress; u != nil; u = u.Next {
		if addr, ok := addressOf(u); ok {
			i.Addrs = append(i.Addrs, addr)
		}
	}
	a.ifaces = append(a.ifaces, i)
	if a.metrics == nil {
		a.metrics = make(map[metricKey]uint32)
	}
	a.metrics[metricKey{i.Index, IPv4}] = at.Ipv4Metric
	a.metrics[metricKey{i.Index, IPv6}] = at.Ipv6Metric
	for g := at.FirstGatewayAddress; g != nil; g = g.Next {
		gateway := addrOf((*windows.RawSockaddrInet)(unsafe.Pointer(g.Address.Sockaddr)))
		if f := FamilyOf(gateway); f != 0 {
			a.gateways = append(a.gateways, DefaultRoute{
				Family: f, Index: i.Index, Gateway: gateway, Metric: a.metrics[metricKey{i.Index, f}],
			})
		}
	}
}

// kindOf goes by the type, then by whether there is hardware. Virtual machines' cards count as hardware, as on Linux.
func kindOf(ifType uint32, description string, row *windows.MibIfRow2) Kind {
	switch ifType {
	case windows.IF_TYPE_SOFTWARE_LOOPBACK:
		return KindLoopback
	case windows.IF_TYPE_TUNNEL, windows.IF_TYPE_PPP, ifTypePropVirtual:
		return KindTunnel
	case ifTypeBridge:
		return KindBridge
	case ifTypeWWANPP, ifTypeWWANPP2:
		return KindPhysical
	}
	lower := strings.ToLower(description)
	for _, word := range tunnelWords {
		if strings.Contains(lower, word) {
			return KindTunnel
		}
	}
	switch {
	case row == nil:
		return KindUnknown
	case row.InterfaceAndOperStatusFlags&(hardwareInterface|connectorPresent) != 0:
		return KindPhysical
	}
	return KindVirtual
}

func flagsOf(at *windows.IpAdapterAddresses, kind Kind, row *windows.MibIfRow2) (f net.Flags) {
	if at.OperStatus == windows.IfOperStatusUp {
		f |= net.FlagUp | net.FlagRunning
	}
	if row != nil && row.AdminStatus == adminUp {
		f |= net.FlagUp
	}
	switch {
	case kind == KindLoopback:
		f |= net.FlagLoopback | net.FlagMulticast
	case kind == KindTunnel && at.IfType != windows.IF_TYPE_ETHERNET_CSMACD:
		f |= net.FlagPointToPoint | net.FlagMulticast
	default:
		f |= net.FlagBroadcast | net.FlagMulticast
	}
	return f
}

// macOf leaves out what is none.
func macOf(b []byte) net.HardwareAddr {
	if len(b) < 6 || strings.Trim(string(b), "\x00") == "" {
		return nil
	}
	return append(net.HardwareAddr(nil), b...)
}

func addressOf(u *windows.IpAdapterUnicastAddress) (Address, bool) {
	addr := addrOf((*windows.RawSockaddrInet)(unsafe.Pointer(u.Address.Sockaddr)))
	bits := int(u.OnLinkPrefixLength)
	if !addr.IsValid() || bits > addr.BitLen() {
		return Address{}, false
	}
	a := Address{Prefix: netip.PrefixFrom(addr, bits)}
	switch u.DadState {
	case windows.IpDadStateTentative, windows.IpDadStateInvalid:
		a.Flags |= AddrTentative
	case windows.IpDadStateDuplicate:
		a.Flags |= AddrDuplicate
	case windows.IpDadStateDeprecated:
		a.Flags |= AddrDeprecated
	}
	if addr.Is6() && u.SuffixOrigin == windows.IpSuffixOriginRandom {
		a.Flags |= AddrTemporary
	}
	return a, true
}

// addrOf returns an address without its zone, which the interface tells; the zero Addr for families that are not IP.
func addrOf(raw *windows.RawSockaddrInet) netip.Addr {
	if raw == nil {
		return netip.Addr{}
	}
	switch raw.Family {
	case windows.AF_INET:
		return netip.AddrFrom4((*windows.RawSockaddrInet4)(unsafe.Pointer(raw)).Addr)
	case windows.AF_INET6:
		return netip.AddrFrom16((*windows.RawSockaddrInet6)(unsafe.Pointer(raw)).Addr)
	}
	return netip.Addr{}
}

// addRoute takes default routes and networks without a gateway. Windows has routes to single addresses, to multicast and to
// broadcast in the same table: they are not networks.
func (a *assembly) addRoute(row *windows.MibIpForwardRow2, family Family) {
	dst := netip.PrefixFrom(addrOf(&row.DestinationPrefix.Prefix), int(row.DestinationPrefix.PrefixLength))
	if !dst.IsValid() || FamilyOf(dst.Addr()) != family || row.Loopback != 0 {
		return
	}
	index := int(row.InterfaceIndex)
	gateway := addrOf(&row.NextHop)
	if gateway.IsUnspecified() {
		gateway = netip.Addr{}
	}
	if dst.Bits() == 0 {
		a.defaults = append(a.defaults, DefaultRoute{
			Family: family, Index: index, Gateway: gateway, Metric: row.Metric + a.metrics[metricKey{index, family}],
		})
		return
	}
	if gateway.IsValid() || dst.IsSingleIP() || dst.Addr().IsMulticast() {
		return
	}
	for n := range a.ifaces {
		if a.ifaces[n].Index == index && attaches(a.ifaces[n], dst.Masked()) {
			a.ifaces[n].Networks = append(a.ifaces[n].Networks, dst.Masked())
		}
	}
}

// attaches reports whether a route without a gateway means that its network is attached to i. See [Interface.Networks].
func attaches(i Interface, dst netip.Prefix) bool {
	if i.Kind != KindTunnel && i.Flags&net.FlagPointToPoint == 0 {
		return true
	}
	for _, a := range i.Addrs {
		if a.Network() == dst {
			return true
		}
	}
	return false
}

func (a *assembly) snapshot() (*Snapshot, error) {
	a.addGateways()
	for n := range a.ifaces {
		i := &a.ifaces[n]
		for _, addr := range i.Addrs {
			if !addr.Prefix.IsSingleIP() {
				i.Networks = append(i.Networks, addr.Network())
			}
		}
	}
	var defaults []DefaultRoute
	for _, d := range a.defaults {
		for _, i := range a.ifaces {
			if i.Index == d.Index {
				defaults = append(defaults, d)
			}
		}
	}
	return NewSnapshot(a.ifaces, defaults)
}

// addGateways takes adapters' gateways for default routes of a family of which the table has none: Windows is complete there,
// Wine does not list IPv6 routes.
func (a *assembly) addGateways() {
	for _, family := range []Family{IPv4, IPv6} {
		known := false
		for _, d := range a.defaults {
			known = known || d.Family == family
		}
		for _, g := range a.gateways {
			if g.Family == family && !known {
				a.defaults = append(a.defaults, g)
			}
		}
	}
}
