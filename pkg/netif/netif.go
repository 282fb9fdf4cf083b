package netif

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Family is a version of the Internet Protocol. The zero value is neither, and is refused where a family is needed.
type Family uint8

// The families; the numbers are the protocol's own.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the family that packets to a have on the wire: IPv4 for an IPv4-mapped IPv6 address, and 0 for the
// zero Addr.
func FamilyOf(a netip.Addr) Family {
	switch a = a.Unmap(); {
	case a.Is4():
		return IPv4
	case a.Is6():
		return IPv6
	default:
		return 0
	}
}

// String returns "IPv4", "IPv6" or "family(N)".
func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	default:
		return "family(" + strconv.Itoa(int(f)) + ")"
	}
}

// Kind says what an interface is made of. The order of the numbers means nothing.
type Kind uint8

// The kinds.
const (
	// KindUnknown is what the system does not tell.
	KindUnknown Kind = 0
	// KindPhysical is a device: Ethernet, Wi-Fi, a mobile modem, a virtual machine's card.
	KindPhysical Kind = 1
	// KindLoopback is the loopback interface.
	KindLoopback Kind = 2
	// KindTunnel puts packets into other packets or hands them to a program: tun, tap, WireGuard, PPP, IPsec, GRE, VXLAN.
	KindTunnel Kind = 3
	// KindBridge is a software switch.
	KindBridge Kind = 4
	// KindVirtual is made of software and no tunnel: veth, VLAN, bond, macvlan, dummy.
	KindVirtual Kind = 5

	numKinds = 6
)

// kindNames is read only.
//
//nolint:gochecknoglobals // a table that nobody writes
var kindNames = [numKinds]string{
	KindUnknown:  "unknown",
	KindPhysical: "physical",
	KindLoopback: "loopback",
	KindTunnel:   "tunnel",
	KindBridge:   "bridge",
	KindVirtual:  "virtual",
}

// String returns the kind in one word, or "kind(N)" for a number that is no kind.
func (k Kind) String() string {
	if k >= numKinds {
		return "kind(" + strconv.Itoa(int(k)) + ")"
	}
	return kindNames[k]
}

// AddrFlags is a set of properties of an [Address].
type AddrFlags uint8

// The address flags.
const (
	// AddrTemporary is an IPv6 privacy address (RFC 8981): it changes, and is preferred as a source.
	AddrTemporary AddrFlags = 1 << iota
	// AddrTentative is an IPv6 address whose uniqueness is being checked: it cannot be used yet.
	AddrTentative
	// AddrDuplicate is an IPv6 address that another host has: it cannot be used, and it is not ours.
	AddrDuplicate
	// AddrDeprecated is still valid, but should not be the source of new connections.
	AddrDeprecated
	// AddrSecondary is an IPv4 address in the network of an earlier one on the same interface.
	AddrSecondary
)

// String lists the flags, joined by "|"; "" for none.
func (f AddrFlags) String() string {
	var s []string
	for i, name := range [...]string{"temporary", "tentative", "duplicate", "deprecated", "secondary"} {
		if f&(1<<i) != 0 {
			s = append(s, name)
		}
	}
	return strings.Join(s, "|")
}

// Address is one address of an interface. It is comparable.
type Address struct {
	// Prefix is the local address with the length of its network's prefix.
	Prefix netip.Prefix
	// Peer is the address at the other end, on point-to-point interfaces that have one. Then the length of the prefix
	// belongs to the peer.
	Peer netip.Addr
	// Broadcast is the configured IPv4 broadcast address; often there is none although the network has one, see
	// [Snapshot.IsBroadcast].
	Broadcast netip.Addr
	// Flags are the properties of the address.
	Flags AddrFlags
}

// Addr returns the local address.
func (a Address) Addr() netip.Addr { return a.Prefix.Addr() }

// Network returns the network that the address is configured for: the peer's if there is one.
func (a Address) Network() netip.Prefix {
	if a.Peer.IsValid() {
		return netip.PrefixFrom(a.Peer, a.Prefix.Bits()).Masked()
	}
	return a.Prefix.Masked()
}

// Usable reports whether packets can be sent from the address now.
func (a Address) Usable() bool { return a.Flags&(AddrTentative|AddrDuplicate) == 0 }

// Interface describes one interface. The slices of an Interface that came from a [Snapshot] are shared: read them only.
type Interface struct {
	// Index is the system's number of the interface, positive and unique while the interface exists.
	Index int
	// Name is unique too, but may change.
	Name string
	// Kind says what the interface is made of, and Driver what the system calls that ("wireguard", "veth"); Driver is
	// empty for most devices.
	Kind   Kind
	Driver string
	// MAC is the hardware address; nil if there is none, as on most tunnels.
	MAC net.HardwareAddr
	// MTU is the largest packet in bytes; 0 if unknown.
	MTU int
	// Flags has FlagUp if the user switched the interface on, and FlagRunning if it is also connected.
	Flags net.Flags
	// Addrs are its addresses of both families, IPv4 first, otherwise in the system's order.
	Addrs []Address
	// Networks are the networks reached through the interface without a gateway, sorted. They come from the main routing
	// table and include those of the addresses. Of a tunnel's routes only those to its addresses' networks count: what
	// else is routed into a tunnel is not attached.
	Networks []netip.Prefix
}

// Usable reports whether the interface is up and connected.
func (i Interface) Usable() bool { return i.Flags&net.FlagUp != 0 && i.Flags&net.FlagRunning != 0 }

// Addr returns the address that new connections of the family should come from, and whether there is one. The address
// is usable and neither loopback nor link-local. Among several: those that are not deprecated, then global before
// private ones (IPv6 only), then temporary before stable ones, then primary before secondary ones, then the system's order.
func (i Interface) Addr(f Family) (netip.Addr, bool) {
	best, rank := netip.Addr{}, -1
	for _, a := range i.Addrs {
		if FamilyOf(a.Addr()) == f && a.Usable() && a.Addr().IsGlobalUnicast() && a.rank() > rank {
			best, rank = a.Addr(), a.rank()
		}
	}
	return best, rank >= 0
}

// rank orders usable addresses of one family; higher is better. Temporary ones win because whoever switched them on does
// not want the stable one to be seen.
func (a Address) rank() int {
	rank := 0
	if a.Flags&AddrDeprecated == 0 {
		rank += 8
	}
	if a.Addr().Is6() && !a.Addr().IsPrivate() {
		rank += 4
	}
	if a.Flags&AddrTemporary != 0 {
		rank += 2
	}
	if a.Flags&AddrSecondary == 0 {
		rank++
	}
	return rank
}

func (i Interface) clone() Interface {
	i.MAC = slices.Clone(i.MAC)
	i.Addrs = slices.Clone(i.Addrs)
	i.Networks = slices.Clone(i.Networks)
	return i
}

func (i Interface) equal(o Interface) bool {
	return i.Index == o.Index && i.Name == o.Name && i.Kind == o.Kind && i.Driver == o.Driver &&
		i.MTU == o.MTU && i.Flags == o.Flags && bytes.Equal(i.MAC, o.MAC) &&
		slices.Equal(i.Addrs, o.Addrs) && slices.Equal(i.Networks, o.Networks)
}

// DefaultRoute is a route to everywhere in the main routing table. It is comparable; the zero value is no route.
type DefaultRoute struct {
	// Family is the family of the packets that take the route.
	Family Family
	// Index is the interface's; 0 in the zero value.
	Index int
	// Gateway is the next router; the zero Addr if the route has none. IPv4 may have an IPv6 gateway (RFC 5549).
	Gateway netip.Addr
	// Metric is the route's cost: the lowest is taken.
	Metric uint32
	// Source is the address that the route prefers for new connections; the zero Addr if it says nothing.
	Source netip.Addr
}
