package netif

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// The reasons for which an interface cannot be selected. They arrive wrapped in a [SelectError].
var (
	// ErrBadSelector: the text cannot be the name, address, hardware address or index of any interface.
	ErrBadSelector = errors.New("netif: bad interface selector")
	// ErrNotFound: no interface matches now.
	ErrNotFound = errors.New("netif: no such interface")
	// ErrDown: the interface exists, but is down or not connected.
	ErrDown = errors.New("netif: interface is down")
	// ErrNoAddress: the interface works, but has no usable address of the family beyond link-local ones.
	ErrNoAddress = errors.New("netif: interface has no address of this family")
)

// SelectError says which selector failed, why, and what can be done.
type SelectError struct {
	// Selector is the text as the user wrote it.
	Selector string
	// Family is the family that was asked for; 0 if none was.
	Family Family
	// Err is, or wraps, one of [ErrBadSelector], [ErrNotFound], [ErrDown] and [ErrNoAddress].
	Err error
	// Remedy is a sentence for the user, without a full stop.
	Remedy string
}

// Error returns all of it in one line.
func (e *SelectError) Error() string {
	family := ""
	if e.Family != 0 {
		family = " for " + e.Family.String()
	}
	return fmt.Sprintf("select interface %q%s: %v; %s", e.Selector, family, e.Err, e.Remedy)
}

// Unwrap returns Err.
func (e *SelectError) Unwrap() error { return e.Err }

type selectBy uint8

const (
	byDefault selectBy = iota
	byName
	byAddr
	byMAC
	byIndex
)

// Selector names an interface as the user does. It is comparable; the zero value selects the best physical default.
type Selector struct {
	by   selectBy
	text string
	// key is the canonical form of what by says.
	key   string
	addr  netip.Addr
	index int
}

// ParseSelector reads a selector without looking at any interface, so that a configuration can be checked before, or
// without, its interface. The form decides what is meant, in this order: an IP address, a hardware address, a decimal
// index, a name; the empty text is the best physical default. Errors are a [*SelectError] that wraps [ErrBadSelector]:
// for white space around the text (a text of nothing else included), addresses that no interface can have, an index out
// of range, and names that the system does not allow.
func ParseSelector(text string) (Selector, error) {
	switch {
	case text == "":
		return Selector{}, nil
	case strings.TrimSpace(text) != text:
		return bad(text, "remove the white space, or leave the selector empty for the best physical default")
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return addrSelector(text, a)
	}
	if mac, err := net.ParseMAC(text); err == nil {
		if strings.Trim(string(mac), "\x00") == "" {
			return bad(text, "many interfaces have this hardware address; use a name")
		}
		return Selector{by: byMAC, text: text, key: string(mac)}, nil
	}
	if strings.Trim(text, "0123456789") == "" {
		index, err := strconv.ParseInt(text, 10, 32)
		if err != nil || index == 0 {
			return bad(text, "use an index between 1 and 2147483647")
		}
		return Selector{by: byIndex, text: text, index: int(index)}, nil
	}
	if why := badName(text); why != "" {
		return bad(text, why)
	}
	return Selector{by: byName, text: text, key: text}, nil
}

func addrSelector(text string, a netip.Addr) (Selector, error) {
	a = a.Unmap()
	if a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return bad(text, "no interface can have this address; use one that belongs to an interface")
	}
	return Selector{by: byAddr, text: text, addr: a}, nil
}

func bad(text, remedy string) (Selector, error) {
	return Selector{}, &SelectError{Selector: text, Err: ErrBadSelector, Remedy: remedy}
}

// IsDefault reports whether s selects the best physical default.
func (s Selector) IsDefault() bool { return s.by == byDefault }

// String returns the text that was parsed.
func (s Selector) String() string { return s.text }

// MarshalText implements encoding.TextMarshaler.
func (s Selector) MarshalText() ([]byte, error) { return []byte(s.text), nil }

// UnmarshalText implements encoding.TextUnmarshaler with [ParseSelector]; on an error s keeps its value.
func (s *Selector) UnmarshalText(text []byte) error {
	sel, err := ParseSelector(string(text))
	if err != nil {
		return err
	}
	*s = sel
	return nil
}

// matches reports whether i is one of those that the selector means. It is not for byDefault.
func (s Selector) matches(i Interface) bool {
	switch s.by {
	case byName:
		return i.Name == s.key
	case byMAC:
		return string(i.MAC) == s.key
	case byIndex:
		return i.Index == s.index
	case byAddr:
		return s.matchesAddr(i)
	case byDefault:
		return false
	default:
		return false
	}
}

func (s Selector) matchesAddr(i Interface) bool {
	if z := s.addr.Zone(); z != "" && z != i.Name && z != strconv.Itoa(i.Index) {
		return false
	}
	want := plain(s.addr)
	for _, a := range i.Addrs {
		if plain(a.Addr()) == want {
			return true
		}
	}
	return false
}
