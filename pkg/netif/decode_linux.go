package netif

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// errShort is a message or attribute that ends too early.
var errShort = errors.New("message too short")

// skipStats is RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h, which x/sys does not have.
const skipStats = 1 << 3

// linkRequest is a struct ifinfomsg and the wish to leave out the statistics, which are most of the answer.
func linkRequest() []byte {
	b := make([]byte, unix.SizeofIfInfomsg, unix.SizeofIfInfomsg+8)
	b = binary.NativeEndian.AppendUint16(b, 8)
	b = binary.NativeEndian.AppendUint16(b, unix.IFLA_EXT_MASK)
	return binary.NativeEndian.AppendUint32(b, skipStats)
}

// addrRequest is a struct ifaddrmsg for all families.
func addrRequest() []byte { return make([]byte, unix.SizeofIfAddrmsg) }

// routeRequest is a struct rtmsg for the main table, which only strict sockets take notice of.
func routeRequest(family uint8) []byte {
	b := make([]byte, unix.SizeofRtMsg)
	b[0] = family
	b[4] = unix.RT_TABLE_MAIN
	return b
}

// link is what an RTM_NEWLINK message says.
type link struct {
	index     int
	flags     uint32
	hwType    uint16 // ARPHRD_*
	name      string
	driver    string
	mac       net.HardwareAddr
	mtu       uint32
	hasParent bool // sits on a bus: a real or emulated device
}

// decodeLink reads a struct ifinfomsg and its attributes.
func decodeLink(b []byte) (link, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return link{}, fmt.Errorf("link: %w", errShort)
	}
	l := link{
		hwType: binary.NativeEndian.Uint16(b[2:]),
		index:  int(int32(binary.NativeEndian.Uint32(b[4:]))),
		flags:  binary.NativeEndian.Uint32(b[8:]),
	}
	ad, err := netlink.NewAttributeDecoder(b[unix.SizeofIfInfomsg:])
	if err != nil {
		return link{}, fmt.Errorf("link %d: %w", l.index, err)
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.IFLA_IFNAME:
			l.name = ad.String()
		case unix.IFLA_ADDRESS:
			l.mac = ad.Bytes()
		case unix.IFLA_MTU:
			l.mtu = ad.Uint32()
		case unix.IFLA_PARENT_DEV_NAME:
			l.hasParent = true
		case unix.IFLA_LINKINFO:
			ad.Nested(l.decodeInfo)
		}
	}
	if err := ad.Err(); err != nil {
		return link{}, fmt.Errorf("link %d: %w", l.index, err)
	}
	return l, nil
}

func (l *link) decodeInfo(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		if ad.Type() == unix.IFLA_INFO_KIND {
			l.driver = ad.String()
		}
	}
	return nil // Nested looks at ad.Err itself
}

// decodeAddr reads a struct ifaddrmsg and its attributes, and returns the interface's index with the address.
func decodeAddr(b []byte) (index int, a Address, err error) {
	if len(b) < unix.SizeofIfAddrmsg {
		return 0, Address{}, fmt.Errorf("address: %w", errShort)
	}
	family, bits := b[0], int(b[1])
	flags := uint32(b[2])
	index = int(int32(binary.NativeEndian.Uint32(b[4:])))
	ad, err := netlink.NewAttributeDecoder(b[unix.SizeofIfAddrmsg:])
	if err != nil {
		return 0, Address{}, fmt.Errorf("address of link %d: %w", index, err)
	}
	var local, address, broadcast netip.Addr
	for ad.Next() {
		switch ad.Type() {
		case unix.IFA_LOCAL:
			ad.Do(decodeIP(family, &local))
		case unix.IFA_ADDRESS:
			ad.Do(decodeIP(family, &address))
		case unix.IFA_BROADCAST:
			ad.Do(decodeIP(family, &broadcast))
		case unix.IFA_FLAGS:
			flags = ad.Uint32() // the eight bits of the header are no longer enough
		}
	}
	if err := ad.Err(); err != nil {
		return 0, Address{}, fmt.Errorf("address of link %d: %w", index, err)
	}
	// IFA_ADDRESS is the peer where IFA_LOCAL is another one, and the address itself where that is equal or missing.
	if !local.IsValid() {
		local = address
	}
	a = Address{Prefix: netip.PrefixFrom(local, bits), Broadcast: broadcast, Flags: addrFlags(family, flags)}
	if address.IsValid() && address != local {
		a.Peer = address
	}
	if !a.Prefix.IsValid() {
		return 0, Address{}, fmt.Errorf("address of link %d: %v is no address", index, a.Prefix)
	}
	return index, a, nil
}

func addrFlags(family uint8, flags uint32) (f AddrFlags) {
	// One bit has two meanings.
	switch {
	case flags&unix.IFA_F_SECONDARY == 0:
	case family == unix.AF_INET6:
		f |= AddrTemporary
	default:
		f |= AddrSecondary
	}
	// An optimistic address is tentative, but may be used (RFC 4429).
	if flags&unix.IFA_F_TENTATIVE != 0 && flags&unix.IFA_F_OPTIMISTIC == 0 {
		f |= AddrTentative
	}
	if flags&unix.IFA_F_DADFAILED != 0 {
		f |= AddrDuplicate
	}
	if flags&unix.IFA_F_DEPRECATED != 0 {
		f |= AddrDeprecated
	}
	return f
}

// route is what an RTM_NEWROUTE message says.
type route struct {
	family   uint8
	table    uint32
	typ      uint8
	flags    uint32
	srcBits  uint8
	tos      uint8
	dst      netip.Prefix
	metric   uint32
	source   netip.Addr
	hops     []hop
	oneHop   hop // hops of one, so that only multipath routes allocate
	hasMulti bool
}

// hop is one way of a route.
type hop struct {
	index   int
	flags   uint32
	gateway netip.Addr
}

// skip reports whether no part of a snapshot comes from the route.
func (r *route) skip() bool {
	return r.table != unix.RT_TABLE_MAIN || r.typ != unix.RTN_UNICAST ||
		r.flags&unix.RTM_F_CLONED != 0 || r.srcBits != 0 || r.tos != 0
}

// decodeRoute reads a struct rtmsg and its attributes.
func decodeRoute(b []byte) (*route, error) {
	if len(b) < unix.SizeofRtMsg {
		return nil, fmt.Errorf("route: %w", errShort)
	}
	r := &route{
		family: b[0], srcBits: b[2], tos: b[3], table: uint32(b[4]), typ: b[7],
		flags: binary.NativeEndian.Uint32(b[8:]),
	}
	if r.family != unix.AF_INET && r.family != unix.AF_INET6 {
		r.typ = unix.RTN_UNSPEC // multicast routing and others: skip will say so
		return r, nil
	}
	dst := unspecified(r.family)
	ad, err := netlink.NewAttributeDecoder(b[unix.SizeofRtMsg:])
	if err != nil {
		return nil, fmt.Errorf("route: %w", err)
	}
	r.oneHop.flags = r.flags
	for ad.Next() {
		switch ad.Type() {
		case unix.RTA_DST:
			ad.Do(decodeIP(r.family, &dst))
		case unix.RTA_TABLE:
			r.table = ad.Uint32()
		case unix.RTA_PRIORITY:
			r.metric = ad.Uint32()
		case unix.RTA_PREFSRC:
			ad.Do(decodeIP(r.family, &r.source))
		case unix.RTA_MULTIPATH:
			r.hasMulti = true
			ad.Do(r.decodeHops)
		default:
			r.oneHop.decode(ad, r.family)
		}
	}
	if err := ad.Err(); err != nil {
		return nil, fmt.Errorf("route: %w", err)
	}
	if r.dst = netip.PrefixFrom(dst, int(b[1])); !r.dst.IsValid() {
		return nil, fmt.Errorf("route: %v/%d is no network", dst, b[1])
	}
	if !r.hasMulti && r.oneHop.index != 0 {
		r.hops = append(r.hops, r.oneHop)
	}
	return r, nil
}

// decode reads the attribute at ad if it describes a hop.
func (h *hop) decode(ad *netlink.AttributeDecoder, family uint8) {
	switch ad.Type() {
	case unix.RTA_OIF:
		h.index = int(int32(ad.Uint32()))
	case unix.RTA_GATEWAY:
		ad.Do(decodeIP(family, &h.gateway))
	case unix.RTA_VIA: // struct rtvia: the gateway of another family
		ad.Do(func(b []byte) error {
			if len(b) < 2 {
				return errShort
			}
			return decodeIP(uint8(binary.NativeEndian.Uint16(b)), &h.gateway)(b[2:])
		})
	}
}

// decodeHops reads a sequence of struct rtnexthop, each followed by its attributes.
func (r *route) decodeHops(b []byte) error {
	for len(b) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtNexthop || size > len(b) {
			return errShort
		}
		h := hop{flags: uint32(b[2]), index: int(int32(binary.NativeEndian.Uint32(b[4:])))}
		ad, err := netlink.NewAttributeDecoder(b[unix.SizeofRtNexthop:size])
		if err != nil {
			return fmt.Errorf("next hop: %w", err)
		}
		for ad.Next() {
			h.decode(ad, r.family)
		}
		if err := ad.Err(); err != nil {
			return fmt.Errorf("next hop: %w", err)
		}
		r.hops = append(r.hops, h)
		b = b[min(len(b), (size+3)&^3):] // the kernel aligns to four bytes
	}
	return nil
}

func unspecified(family uint8) netip.Addr {
	if family == unix.AF_INET6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// decodeIP reads an address of the family.
func decodeIP(family uint8, to *netip.Addr) func([]byte) error {
	return func(b []byte) error {
		a, ok := netip.AddrFromSlice(b)
		if !ok || a.Is6() != (family == unix.AF_INET6) || a.Is4() != (family == unix.AF_INET) {
			return fmt.Errorf("%d bytes are no address of family %d", len(b), family)
		}
		*to = a
		return nil
	}
}
