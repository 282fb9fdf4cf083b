package netscope

import (
	"errors"
	"fmt"
	"net/netip"
)

// Scope is how far an address reaches. The numbers are stable and may be stored; their order means nothing. The zero
// value is Unknown, which no helper calls local.
type Scope uint8

// The scopes. The package documentation lists the addresses of each.
const (
	// Unknown is an address that names no destination: the zero netip.Addr, 0.0.0.0 and ::.
	Unknown Scope = 0
	// Host is loopback: the packet never leaves this machine.
	Host Scope = 1
	// Link is link-local unicast: a neighbour on the same link, never routed.
	Link Scope = 2
	// Site is a private network: the home, the company, the provider's shared space, an overlay.
	Site Scope = 3
	// Global is any other unicast address: the Internet.
	Global Scope = 4
	// LocalMulticast is a group whose packets stay on the link, the site or the organisation.
	LocalMulticast Scope = 5
	// GlobalMulticast is a group whose packets may leave the organisation.
	GlobalMulticast Scope = 6
	// Broadcast is the limited broadcast 255.255.255.255: everybody on the link.
	Broadcast Scope = 7

	numScopes = 8
)

// ErrUnknownName is wrapped by [Scope.UnmarshalText] when the text is no scope's name, and by [Scope.MarshalText] when
// the number is no scope.
var ErrUnknownName = errors.New("netscope: no such scope")

// names is read only.
//
//nolint:gochecknoglobals // a table that nobody writes
var names = [numScopes]string{
	Unknown:         "unknown",
	Host:            "host",
	Link:            "link",
	Site:            "site",
	Global:          "global",
	LocalMulticast:  "local-multicast",
	GlobalMulticast: "global-multicast",
	Broadcast:       "broadcast",
}

// Of returns the scope of a. It does not allocate, and it needs neither privileges nor the network.
func Of(a netip.Addr) Scope {
	// Unmap first, so that one address has one answer in both of its spellings.
	a = a.Unmap()
	switch {
	case !a.IsValid() || a.IsUnspecified():
		return Unknown
	case a.Is4():
		return of4(a.As4())
	default:
		return of6(a.As16())
	}
}

func of4(b [4]byte) Scope {
	switch {
	case b[0] == 127:
		return Host
	case b[0] == 169 && b[1] == 254:
		return Link
	case b[0] == 10,
		b[0] == 172 && b[1]&0xf0 == 16,
		b[0] == 192 && b[1] == 168,
		b[0] == 100 && b[1]&0xc0 == 64:
		return Site
	case b[0] == 224 && b[1] == 0 && b[2] == 0, b[0] == 239:
		return LocalMulticast
	case b[0]&0xf0 == 224:
		return GlobalMulticast
	case b == [4]byte{255, 255, 255, 255}:
		return Broadcast
	default:
		return Global
	}
}

// maxLocalGroup is organisation-local, the widest multicast scope that RFC 7346 ends before the Internet. It is the IPv6
// counterpart of 239.0.0.0/8, most of which RFC 2365 gives to organisations.
const maxLocalGroup = 8

func of6(b [16]byte) Scope {
	switch {
	case b == [16]byte{15: 1}:
		return Host
	case b[0] == 0xfe && b[1]&0xc0 == 0x80:
		return Link
	case b[0]&0xfe == 0xfc, b[0] == 0xfe && b[1]&0xc0 == 0xc0:
		return Site
	case b[0] == 0xff && b[1]&0x0f <= maxLocalGroup:
		return LocalMulticast
	case b[0] == 0xff:
		return GlobalMulticast
	default:
		return Global
	}
}

// IsValid reports whether s is one of the constants other than Unknown.
func (s Scope) IsValid() bool { return s > Unknown && s < numScopes }

// IsLocal reports whether what is sent to s stays on this host or on its own network: Host, Link, Site, LocalMulticast
// or Broadcast. Everything else, Unknown included, must be treated as the Internet.
func (s Scope) IsLocal() bool { return s == Host || s.IsLAN() }

// IsLAN reports whether what is sent to s leaves this host but not its own network: Link, Site, LocalMulticast or
// Broadcast.
func (s Scope) IsLAN() bool {
	return s == Link || s == Site || s == LocalMulticast || s == Broadcast
}

// IsGroup reports whether what is sent to s has many receivers: LocalMulticast, GlobalMulticast or Broadcast. Answers
// to such a packet come from addresses it was not sent to.
func (s Scope) IsGroup() bool {
	return s == LocalMulticast || s == GlobalMulticast || s == Broadcast
}

// String returns the name that [Scope.UnmarshalText] reads, or "scope(N)" for a number that is no scope.
func (s Scope) String() string {
	if s >= numScopes {
		return fmt.Sprintf("scope(%d)", uint8(s))
	}
	return names[s]
}

// MarshalText implements encoding.TextMarshaler. Numbers that are no scope are an error that wraps [ErrUnknownName], so
// that no file can hold what cannot be read back.
func (s Scope) MarshalText() ([]byte, error) {
	if s >= numScopes {
		return nil, fmt.Errorf("%w: number %d", ErrUnknownName, uint8(s))
	}
	return []byte(names[s]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler. It accepts the names of [Scope.String], exactly as they are
// written there; anything else is an error that wraps [ErrUnknownName] and leaves s as it was.
func (s *Scope) UnmarshalText(text []byte) error {
	for i, name := range names {
		if name == string(text) {
			*s = Scope(i)
			return nil
		}
	}
	return fmt.Errorf("%w: %q; use one of %q", ErrUnknownName, text, names[Host:])
}
