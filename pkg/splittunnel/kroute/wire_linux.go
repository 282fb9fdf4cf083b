package kroute

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/netif"
)

// errShort is a message or attribute that ends too early.
var errShort = errors.New("message too short")

const (
	sizeofRuleHdr = 12         // struct fib_rule_hdr
	wholeMark     = 0xffffffff // the mask that compares all of a mark
	skipStats     = 1 << 3     // RTEXT_FILTER_SKIP_STATS
	attrNextHopID = 30         // RTA_NH_ID
)

// rule is one of ours: marked packets look into a table, or are refused. It is comparable.
type rule struct {
	family   netif.Family
	priority uint32
	mark     uint32
	table    uint32 // 0: refuse
}

func (r rule) String() string {
	if r.table == 0 {
		return fmt.Sprintf("%v rule %d: fwmark %d unreachable", r.family, r.priority, r.mark)
	}
	return fmt.Sprintf("%v rule %d: fwmark %d lookup %d", r.family, r.priority, r.mark, r.table)
}

// route is one of ours. It is comparable.
type route struct {
	routeKey
	reject  bool // unreachable; then all below is zero
	index   int  // of the interface
	gateway netip.Addr
	onlink  bool // the gateway is a neighbour although no network says so
}

// routeKey is what the kernel tells routes apart by.
type routeKey struct {
	table  uint32
	dst    netip.Prefix
	metric uint32
}

func (k routeKey) family() netif.Family { return wireFamily(k.dst.Addr()) }

func (r route) String() string {
	s := r.dst.String()
	if r.reject {
		s = "unreachable " + s
	}
	if r.gateway.IsValid() {
		s += " via " + r.gateway.String()
	}
	if r.index != 0 {
		s += fmt.Sprintf(" dev #%d", r.index)
	}
	return fmt.Sprintf("%s table %d metric %d", s, r.table, r.metric)
}

// wireFamily is the family whose messages carry the address. That of ::ffff:1.2.3.4 is IPv6.
func wireFamily(a netip.Addr) netif.Family {
	if a.Is4() {
		return netif.IPv4
	}
	return netif.IPv6
}

func addressFamily(f netif.Family) uint8 {
	if f == netif.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// familyOf returns 0 for other families.
func familyOf(af uint8) netif.Family {
	switch af {
	case unix.AF_INET:
		return netif.IPv4
	case unix.AF_INET6:
		return netif.IPv6
	default:
		return 0
	}
}

// message joins a header and attributes.
func message(header []byte, attrs func(*netlink.AttributeEncoder)) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	attrs(ae)
	b, err := ae.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode attributes: %w", err)
	}
	return append(header, b...), nil
}

// encode makes a struct fib_rule_hdr with its attributes.
func (r rule) encode(protocol uint8) ([]byte, error) {
	h := make([]byte, sizeofRuleHdr)
	h[0] = addressFamily(r.family)
	h[7] = unix.FR_ACT_UNREACHABLE
	if r.table != 0 {
		h[7] = unix.FR_ACT_TO_TBL
	}
	return message(h, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.FRA_PRIORITY, r.priority)
		ae.Uint32(unix.FRA_FWMARK, r.mark)
		ae.Uint32(unix.FRA_FWMASK, wholeMark)
		ae.Uint8(unix.FRA_PROTOCOL, protocol)
		if r.table != 0 {
			ae.Uint32(unix.FRA_TABLE, r.table)
		}
	})
}

// seenRule is what an RTM_NEWRULE message says.
type seenRule struct {
	rule
	protocol uint8
	plain    bool   // it is all that rule can say
	mask     uint32 // of the mark
	inverted bool   // it is for packets that do not match
}

// decodeRule reads a struct fib_rule_hdr and its attributes.
func decodeRule(b []byte) (seenRule, error) {
	if len(b) < sizeofRuleHdr {
		return seenRule{}, fmt.Errorf("rule: %w", errShort)
	}
	s := seenRule{rule: rule{family: familyOf(b[0]), table: uint32(b[4])}}
	action, odd := b[7], false
	ad, err := netlink.NewAttributeDecoder(b[sizeofRuleHdr:])
	if err != nil {
		return seenRule{}, fmt.Errorf("rule: %w", err)
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.FRA_PRIORITY:
			s.priority = ad.Uint32()
		case unix.FRA_FWMARK:
			s.mark = ad.Uint32()
		case unix.FRA_FWMASK:
			s.mask = ad.Uint32()
		case unix.FRA_TABLE:
			s.table = ad.Uint32()
		case unix.FRA_PROTOCOL:
			s.protocol = ad.Uint8()
		case unix.FRA_SUPPRESS_PREFIXLEN, unix.FRA_SUPPRESS_IFGROUP:
			odd = odd || ad.Uint32() != wholeMark // all ones are none
		case unix.FRA_IIFNAME, unix.FRA_OIFNAME, unix.FRA_UID_RANGE, unix.FRA_IP_PROTO, unix.FRA_SPORT_RANGE,
			unix.FRA_DPORT_RANGE, unix.FRA_L3MDEV, unix.FRA_TUN_ID, unix.FRA_GOTO, unix.FRA_SRC, unix.FRA_DST:
			odd = true
		}
	}
	if err := ad.Err(); err != nil {
		return seenRule{}, fmt.Errorf("rule: %w", err)
	}
	refuses := action == unix.FR_ACT_UNREACHABLE && s.table == 0
	looksUp := action == unix.FR_ACT_TO_TBL && s.table != 0
	s.inverted = binary.NativeEndian.Uint32(b[8:])&unix.FIB_RULE_INVERT != 0
	s.plain = s.family != 0 && s.mask == wholeMark && (refuses || looksUp) && !odd && !s.inverted && b[1] == 0 && b[2] == 0 && b[3] == 0
	return s, nil
}

// header makes the struct rtmsg of a route.
func (r route) header(protocol, scope uint8) []byte {
	h := make([]byte, unix.SizeofRtMsg)
	h[0] = addressFamily(r.family())
	h[1] = uint8(r.dst.Bits())
	h[5] = protocol
	h[6] = scope
	h[7] = unix.RTN_UNICAST
	if r.reject {
		h[7] = unix.RTN_UNREACHABLE
	}
	if r.onlink {
		binary.NativeEndian.PutUint32(h[8:], unix.RTNH_F_ONLINK)
	}
	return h
}

// scope is how far away what the route leads to may be.
func (r route) scope() uint8 {
	if r.reject || r.gateway.IsValid() || r.family() == netif.IPv6 {
		return unix.RT_SCOPE_UNIVERSE
	}
	return unix.RT_SCOPE_LINK
}

// encode makes a struct rtmsg with its attributes.
func (r route) encode(protocol, scope uint8) ([]byte, error) {
	return message(r.header(protocol, scope), func(ae *netlink.AttributeEncoder) {
		if r.dst.Bits() > 0 {
			ae.Bytes(unix.RTA_DST, r.dst.Addr().AsSlice())
		}
		ae.Uint32(unix.RTA_TABLE, r.table)
		ae.Uint32(unix.RTA_PRIORITY, r.metric)
		if r.index != 0 {
			ae.Uint32(unix.RTA_OIF, uint32(int32(r.index)))
		}
		switch {
		case !r.gateway.IsValid():
		case wireFamily(r.gateway) == r.family():
			ae.Bytes(unix.RTA_GATEWAY, r.gateway.AsSlice())
		default: // struct rtvia
			via := binary.NativeEndian.AppendUint16(nil, uint16(addressFamily(wireFamily(r.gateway))))
			ae.Bytes(unix.RTA_VIA, append(via, r.gateway.AsSlice()...))
		}
	})
}

// seenRoute is what an RTM_NEWROUTE message says.
type seenRoute struct {
	route
	protocol uint8
	plain    bool // it is all that route can say
	cloned   bool // it is no route but a cached answer
}

// decodeRoute reads a struct rtmsg and its attributes.
func decodeRoute(b []byte) (seenRoute, error) {
	if len(b) < unix.SizeofRtMsg {
		return seenRoute{}, fmt.Errorf("route: %w", errShort)
	}
	f, flags := familyOf(b[0]), binary.NativeEndian.Uint32(b[8:])
	if f == 0 {
		return seenRoute{cloned: true}, nil // multicast routing and others
	}
	s := seenRoute{protocol: b[5], cloned: flags&unix.RTM_F_CLONED != 0}
	s.table, s.reject, s.onlink = uint32(b[4]), b[7] == unix.RTN_UNREACHABLE, flags&unix.RTNH_F_ONLINK != 0
	s.plain = (s.reject || b[7] == unix.RTN_UNICAST) && b[2] == 0 && b[3] == 0
	dst := netip.IPv4Unspecified()
	if f == netif.IPv6 {
		dst = netip.IPv6Unspecified()
	}
	ad, err := netlink.NewAttributeDecoder(b[unix.SizeofRtMsg:])
	if err != nil {
		return seenRoute{}, fmt.Errorf("route: %w", err)
	}
	for ad.Next() {
		s.decodeAttribute(ad, b[0], &dst)
	}
	if err := ad.Err(); err != nil {
		return seenRoute{}, fmt.Errorf("route: %w", err)
	}
	if s.dst = netip.PrefixFrom(dst, int(b[1])).Masked(); !s.dst.IsValid() {
		return seenRoute{}, fmt.Errorf("route: %v/%d is no network", dst, b[1])
	}
	if s.reject {
		s.index, s.gateway, s.onlink = 0, netip.Addr{}, false // in IPv6 the kernel says "dev lo"
	}
	return s, nil
}

func (s *seenRoute) decodeAttribute(ad *netlink.AttributeDecoder, af uint8, dst *netip.Addr) {
	switch ad.Type() {
	case unix.RTA_DST:
		ad.Do(decodeIP(af, dst))
	case unix.RTA_TABLE:
		s.table = ad.Uint32()
	case unix.RTA_PRIORITY:
		s.metric = ad.Uint32()
	case unix.RTA_OIF:
		s.index = int(int32(ad.Uint32()))
	case unix.RTA_GATEWAY:
		ad.Do(decodeIP(af, &s.gateway))
	case unix.RTA_VIA: // struct rtvia: the gateway of another family
		ad.Do(func(b []byte) error {
			if len(b) < 2 {
				return errShort
			}
			return decodeIP(uint8(binary.NativeEndian.Uint16(b)), &s.gateway)(b[2:])
		})
	case unix.RTA_MULTIPATH, attrNextHopID, unix.RTA_ENCAP, unix.RTA_PREFSRC, unix.RTA_SRC:
		s.plain = false
	}
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
