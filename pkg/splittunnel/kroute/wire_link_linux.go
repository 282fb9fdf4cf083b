package kroute

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// link is what an RTM_NEWLINK message says.
type link struct {
	index int
	name  string
	flags uint32
}

// ready reports whether the link is up and connected.
func (l link) ready() bool { return l.flags&unix.IFF_UP != 0 && l.flags&unix.IFF_RUNNING != 0 }

// linkRequest asks for one link, without its statistics.
func linkRequest(index int) []byte {
	b := make([]byte, unix.SizeofIfInfomsg, unix.SizeofIfInfomsg+8)
	binary.NativeEndian.PutUint32(b[4:], uint32(int32(index)))
	b = binary.NativeEndian.AppendUint16(b, 8)
	b = binary.NativeEndian.AppendUint16(b, unix.IFLA_EXT_MASK)
	return binary.NativeEndian.AppendUint32(b, skipStats)
}

// addrRequest asks for the addresses of one link, of both families. Sockets that are not strict get those of all links.
func addrRequest(index int) []byte {
	b := make([]byte, unix.SizeofIfAddrmsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(int32(index)))
	return b
}

// decodeLink reads a struct ifinfomsg and its attributes.
func decodeLink(b []byte) (link, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return link{}, fmt.Errorf("link: %w", errShort)
	}
	l := link{index: int(int32(binary.NativeEndian.Uint32(b[4:]))), flags: binary.NativeEndian.Uint32(b[8:])}
	ad, err := netlink.NewAttributeDecoder(b[unix.SizeofIfInfomsg:])
	if err != nil {
		return link{}, fmt.Errorf("link %d: %w", l.index, err)
	}
	for ad.Next() {
		if ad.Type() == unix.IFLA_IFNAME {
			l.name = ad.String()
		}
	}
	if err := ad.Err(); err != nil {
		return link{}, fmt.Errorf("link %d: %w", l.index, err)
	}
	return l, nil
}

// decodeAddr reads a struct ifaddrmsg and its attributes. The address is the zero value for other families.
func decodeAddr(b []byte) (index int, a netip.Addr, err error) {
	if len(b) < unix.SizeofIfAddrmsg {
		return 0, netip.Addr{}, fmt.Errorf("address: %w", errShort)
	}
	index = int(int32(binary.NativeEndian.Uint32(b[4:])))
	if familyOf(b[0]) == 0 {
		return index, netip.Addr{}, nil
	}
	ad, err := netlink.NewAttributeDecoder(b[unix.SizeofIfAddrmsg:])
	if err != nil {
		return 0, netip.Addr{}, fmt.Errorf("address of link %d: %w", index, err)
	}
	var local, address netip.Addr
	for ad.Next() {
		switch ad.Type() {
		case unix.IFA_LOCAL:
			ad.Do(decodeIP(b[0], &local))
		case unix.IFA_ADDRESS: // the peer, where IFA_LOCAL is another one
			ad.Do(decodeIP(b[0], &address))
		}
	}
	if err := ad.Err(); err != nil {
		return 0, netip.Addr{}, fmt.Errorf("address of link %d: %w", index, err)
	}
	if !local.IsValid() {
		local = address
	}
	return index, local, nil
}
