package netif

import (
	"net"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// assembly collects the answers of one reading.
type assembly struct {
	links  []link
	addrs  map[int][]Address
	routes []*route
}

func (a *assembly) addLink(m netlink.Message) error {
	if m.Header.Type != unix.RTM_NEWLINK {
		return nil
	}
	l, err := decodeLink(m.Data)
	if err != nil {
		return err
	}
	a.links = append(a.links, l)
	return nil
}

func (a *assembly) addAddr(m netlink.Message) error {
	// Other families have addresses too, phonet for one.
	if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) == 0 ||
		(m.Data[0] != unix.AF_INET && m.Data[0] != unix.AF_INET6) {
		return nil
	}
	index, addr, err := decodeAddr(m.Data)
	if err != nil {
		return err
	}
	if a.addrs == nil {
		a.addrs = make(map[int][]Address)
	}
	a.addrs[index] = append(a.addrs[index], addr)
	return nil
}

// addRoute takes the routes of the family asked for: a kernel without IPv6 answers that question with IPv4 routes.
func (a *assembly) addRoute(m netlink.Message, family uint8) error {
	if m.Header.Type != unix.RTM_NEWROUTE {
		return nil
	}
	r, err := decodeRoute(m.Data)
	if err != nil {
		return err
	}
	if r.family == family && !r.skip() {
		a.routes = append(a.routes, r)
	}
	return nil
}

func (a *assembly) snapshot() (*Snapshot, error) {
	ifaces := make([]Interface, len(a.links))
	byIndex := make(map[int]*Interface, len(a.links))
	for n, l := range a.links {
		ifaces[n] = l.iface()
		ifaces[n].Addrs = a.addrs[l.index]
		byIndex[l.index] = &ifaces[n]
	}
	var defaults []DefaultRoute
	for _, r := range a.routes {
		for _, h := range r.hops {
			// An interface that came after the list of links was made has its own event.
			i, ok := byIndex[h.index]
			if !ok || h.flags&unix.RTNH_F_DEAD != 0 {
				continue
			}
			switch {
			case r.dst.Bits() == 0:
				defaults = append(defaults, DefaultRoute{
					Family: FamilyOf(r.dst.Addr()), Index: h.index,
					Gateway: h.gateway, Metric: r.metric, Source: r.source,
				})
			case !h.gateway.IsValid() && attaches(*i, r.dst):
				i.Networks = append(i.Networks, r.dst)
			}
		}
	}
	return NewSnapshot(ifaces, defaults)
}

// attaches reports whether a route without a gateway means that its network is attached to i. See
// [Interface.Networks].
func attaches(i Interface, dst netip.Prefix) bool {
	if i.Kind != KindTunnel && i.Flags&net.FlagPointToPoint == 0 {
		return true
	}
	return slices.ContainsFunc(i.Addrs, func(a Address) bool { return a.Network() == dst })
}

func (l link) iface() Interface {
	return Interface{
		Index:  l.index,
		Name:   l.name,
		Kind:   l.kind(),
		Driver: l.driver,
		MAC:    l.hardwareAddr(),
		MTU:    int(l.mtu),
		Flags:  l.netFlags(),
	}
}

// hardwareAddr leaves out what is none: zeros on loopback, and an IP address where tunnels put theirs.
func (l link) hardwareAddr() net.HardwareAddr {
	if len(l.mac) < 6 || isTunnelType(l.hwType) || !slices.ContainsFunc(l.mac, func(b byte) bool { return b != 0 }) {
		return nil
	}
	return l.mac
}

func (l link) netFlags() (f net.Flags) {
	for _, p := range [...]struct {
		kernel uint32
		flag   net.Flags
	}{
		{unix.IFF_UP, net.FlagUp},
		{unix.IFF_BROADCAST, net.FlagBroadcast},
		{unix.IFF_LOOPBACK, net.FlagLoopback},
		{unix.IFF_POINTOPOINT, net.FlagPointToPoint},
		{unix.IFF_MULTICAST, net.FlagMulticast},
		{unix.IFF_RUNNING, net.FlagRunning},
	} {
		if l.flags&p.kernel != 0 {
			f |= p.flag
		}
	}
	return f
}

// kind goes by the driver that made a software interface; devices have none.
func (l link) kind() Kind {
	if l.flags&unix.IFF_LOOPBACK != 0 {
		return KindLoopback
	}
	if l.driver != "" {
		if k := driverKind(l.driver); k != KindUnknown {
			return k
		}
		if isTunnelType(l.hwType) {
			return KindTunnel
		}
		return KindVirtual
	}
	// A mobile modem speaks plain IP like a tunnel, but sits on a bus.
	if isTunnelType(l.hwType) && !l.hasParent {
		return KindTunnel
	}
	return KindPhysical
}

func driverKind(driver string) Kind {
	switch driver {
	case "tun", "wireguard", "amneziawg", "ovpn", "ovpn-dco", "ppp", "xfrm", "vti", "vti6", "ipip", "sit", "ip6tnl",
		"gre", "gretap", "ip6gre", "ip6gretap", "erspan", "ip6erspan", "vxlan", "geneve", "bareudp", "gtp", "l2tp", "fou":
		return KindTunnel
	case "bridge", "openvswitch":
		return KindBridge
	case "wwan", "rmnet":
		return KindPhysical
	default:
		return KindUnknown
	}
}

// isTunnelType reports whether interfaces of the hardware type carry bare IP packets.
func isTunnelType(hwType uint16) bool {
	switch hwType {
	case unix.ARPHRD_NONE, unix.ARPHRD_RAWIP, unix.ARPHRD_PPP, unix.ARPHRD_TUNNEL, unix.ARPHRD_TUNNEL6,
		unix.ARPHRD_SIT, unix.ARPHRD_IPGRE, unix.ARPHRD_IP6GRE, unix.ARPHRD_IPDDP:
		return true
	default:
		return false
	}
}
