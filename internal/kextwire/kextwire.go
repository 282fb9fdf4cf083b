package kextwire

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/weirfw/weir/pkg/packet"
)

// ErrSize is wrapped when a message is shorter or longer than its kind is.
var ErrSize = errors.New("kextwire: wrong size")

// ErrUnknown is wrapped when a message is of a kind that does not exist.
var ErrUnknown = errors.New("kextwire: unknown kind")

// ErrAddress is wrapped when a connection cannot be told to a driver: an address is missing, or the two are of different
// versions of IP.
var ErrAddress = errors.New("kextwire: no pair of addresses")

// Parts of a control code (CTL_CODE of the Windows driver kit).
const (
	deviceType = 40000
	readWrite  = 3 // FILE_READ_DATA | FILE_WRITE_DATA
	buffered   = 0 // METHOD_BUFFERED

	versionFunction = 0x800
)

// CodeVersion asks any driver for its version. Nothing goes in, VersionSize bytes come out.
const CodeVersion uint32 = deviceType<<16 | readWrite<<14 | versionFunction<<2 | buffered

// CodeStep is between the control codes of two functions that follow each other.
const CodeStep uint32 = 1 << 2

// VersionSize is the size of a version.
const VersionSize = 4

// Version is a driver's.
type Version struct{ Major, Minor, Revision, Build uint8 }

// DecodeVersion reads the answer to CodeVersion. The error wraps ErrSize.
func DecodeVersion(b []byte) (Version, error) {
	if len(b) != VersionSize {
		return Version{}, fmt.Errorf("%w: version of %d bytes, not %d", ErrSize, len(b), VersionSize)
	}
	return Version{Major: b[0], Minor: b[1], Revision: b[2], Build: b[3]}, nil
}

// AppendVersion is what a driver answers to CodeVersion.
func AppendVersion(b []byte, v Version) []byte {
	return append(b, v.Major, v.Minor, v.Revision, v.Build)
}

// String returns the version with all four parts, such as "2.1.0.5".
func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d.%d", v.Major, v.Minor, v.Revision, v.Build)
}

// AtLeast reports whether v is this version or a later one.
func (v Version) AtLeast(major, minor, revision uint8) bool {
	switch {
	case v.Major != major:
		return v.Major > major
	case v.Minor != minor:
		return v.Minor > minor
	}
	return v.Revision >= revision
}

// Streams reports whether the driver speaks the protocol of package stream, else it is that of package ioctl.
func (v Version) Streams() bool { return v.Major >= 2 }

// SplitTunnelPort is the port of the split tunnel's proxies, which the driver redirects to.
const SplitTunnelPort = 719

// ForProxy reports whether a packet belongs to a connection that the driver has redirected to our split tunnel's proxy: its
// addresses are the same and its local port is 719. A driver lets these pass by itself since version 2.1.1.
func ForProxy(t *packet.Tuple) bool {
	return t.Local.Port() == SplitTunnelPort && t.Protocol.HasPorts() && t.Local.Addr() == t.Remote.Addr()
}

// IPVersion returns 4 or 6, the version of IP of both addresses. The error wraps ErrAddress.
func IPVersion(t *packet.Tuple) (uint8, error) {
	local, remote := t.Local.Addr(), t.Remote.Addr()
	switch {
	case local.Is4() && remote.Is4():
		return 4, nil
	case local.Is6() && remote.Is6():
		return 6, nil
	}
	return 0, fmt.Errorf("%w: %v", ErrAddress, *t)
}

// Addr returns the address of 4 or 16 bytes in network byte order, unmapped as in any packet.Tuple.
func Addr(b []byte) netip.Addr {
	if len(b) == 4 {
		return netip.AddrFrom4([4]byte(b))
	}
	return netip.AddrFrom16([16]byte(b)).Unmap()
}

// AppendAddr appends the address as 4 bytes or, for version 6, as 16 in network byte order. An IPv4 address is mapped for
// version 6; of an IPv6 address version 4 takes the end, which no caller wants: see IPVersion.
func AppendAddr(b []byte, a netip.Addr, version uint8) []byte {
	all := a.As16()
	if version == 6 {
		return append(b, all[:]...)
	}
	return append(b, all[12:]...)
}
