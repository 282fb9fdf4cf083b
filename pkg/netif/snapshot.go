package netif

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
)

// ErrBadSnapshot is wrapped by [NewSnapshot] when the parts contradict each other.
var ErrBadSnapshot = errors.New("netif: inconsistent interfaces")

// Snapshot is the state of all interfaces at one moment. It never changes, so any number of goroutines may use it. The
// zero value is a machine without interfaces.
type Snapshot struct {
	ifaces   []Interface // by index
	defaults []DefaultRoute

	byIndex map[int]int // position in ifaces
	byName  map[string]int

	own       map[netip.Addr]int // interface index; addresses without zone
	ownNets   []ownNet
	networks  map[netip.Prefix]int // interface index
	lengths   map[Family][]int     // prefix lengths in networks, longest first
	broadcast map[netip.Addr]int   // interface index
}

// ownNet is a network of which each address is ours, as 127.0.0.0/8 is.
type ownNet struct {
	prefix netip.Prefix
	index  int
}

// NewSnapshot builds a snapshot from its parts, which it copies. It is for those who know the interfaces from elsewhere:
// another system, another machine, a test. Indexes and names must be unique, positive and not empty, and default routes
// must belong to an interface and have a family; otherwise the error wraps [ErrBadSnapshot].
func NewSnapshot(ifaces []Interface, defaults []DefaultRoute) (*Snapshot, error) {
	s := &Snapshot{
		ifaces:   make([]Interface, 0, len(ifaces)),
		defaults: slices.Clone(defaults),
		byIndex:  make(map[int]int, len(ifaces)),
		byName:   make(map[string]int, len(ifaces)),
	}
	for _, i := range ifaces {
		s.ifaces = append(s.ifaces, normal(i))
	}
	slices.SortStableFunc(s.ifaces, func(a, b Interface) int { return cmp.Compare(a.Index, b.Index) })
	if err := s.indexInterfaces(); err != nil {
		return nil, err
	}
	for _, d := range s.defaults {
		if _, ok := s.byIndex[d.Index]; !ok || (d.Family != IPv4 && d.Family != IPv6) {
			return nil, fmt.Errorf("%w: %v default route by interface %d", ErrBadSnapshot, d.Family, d.Index)
		}
	}
	slices.SortFunc(s.defaults, compareDefaults)
	s.defaults = slices.Compact(s.defaults) // multipath and single routes may say the same
	s.indexAddrs()
	s.indexNetworks()
	return s, nil
}

// normal copies i and gives it the order that [Interface] promises. Equal states must look equal, or each poll would
// announce a change.
func normal(i Interface) Interface {
	i = i.clone()
	slices.SortStableFunc(i.Addrs, func(a, b Address) int {
		return cmp.Compare(FamilyOf(a.Addr()), FamilyOf(b.Addr()))
	})
	slices.SortFunc(i.Networks, netip.Prefix.Compare)
	i.Networks = slices.Compact(i.Networks)
	return i
}

// compareDefaults is the order of [Snapshot.Defaults].
func compareDefaults(a, b DefaultRoute) int {
	return cmp.Or(
		cmp.Compare(a.Family, b.Family),
		cmp.Compare(a.Metric, b.Metric),
		cmp.Compare(a.Index, b.Index),
		a.Gateway.Compare(b.Gateway),
		a.Source.Compare(b.Source),
	)
}

func (s *Snapshot) indexInterfaces() error {
	for pos, i := range s.ifaces {
		_, sameIndex := s.byIndex[i.Index]
		_, sameName := s.byName[i.Name]
		if i.Index <= 0 || i.Name == "" || sameIndex || sameName {
			return fmt.Errorf("%w: interface %q with index %d", ErrBadSnapshot, i.Name, i.Index)
		}
		s.byIndex[i.Index] = pos
		s.byName[i.Name] = pos
	}
	return nil
}

func (s *Snapshot) indexAddrs() {
	s.own = make(map[netip.Addr]int)
	s.broadcast = make(map[netip.Addr]int)
	for _, i := range s.ifaces {
		for _, a := range i.Addrs {
			// A duplicate belongs to another host.
			if a.Flags&AddrDuplicate == 0 {
				putFirst(s.own, plain(a.Addr()), i.Index)
			}
			// The kernel takes the whole network of an IPv4 address on loopback as local.
			if i.Flags&net.FlagLoopback != 0 && a.Addr().Is4() {
				s.ownNets = append(s.ownNets, ownNet{a.Prefix.Masked(), i.Index})
			}
			if i.Flags&net.FlagUp == 0 || !a.Addr().Is4() {
				continue
			}
			if b := lastAddr(a.Network()); b.IsValid() {
				putFirst(s.broadcast, b, i.Index)
			}
			if a.Broadcast.Is4() && !a.Broadcast.IsUnspecified() {
				putFirst(s.broadcast, a.Broadcast, i.Index)
			}
		}
	}
}

func (s *Snapshot) indexNetworks() {
	s.networks = make(map[netip.Prefix]int)
	s.lengths = make(map[Family][]int)
	for _, i := range s.ifaces {
		for _, n := range i.Networks {
			if !n.IsValid() {
				continue
			}
			putFirst(s.networks, n.Masked(), i.Index)
			f := FamilyOf(n.Addr())
			if !slices.Contains(s.lengths[f], n.Bits()) {
				s.lengths[f] = append(s.lengths[f], n.Bits())
			}
		}
	}
	for _, l := range s.lengths {
		slices.SortFunc(l, func(a, b int) int { return b - a })
	}
}

// putFirst keeps what is there. Interfaces come in the order of their indexes, so the lowest index wins.
func putFirst[K comparable](m map[K]int, k K, index int) {
	if _, ok := m[k]; !ok {
		m[k] = index
	}
}

// plain returns the form in which addresses are looked up.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// lastAddr returns the broadcast address of an IPv4 network; the zero Addr if it has none: RFC 3021 took it from /31,
// and a /32 never had one.
func lastAddr(n netip.Prefix) netip.Addr {
	if !n.IsValid() || !n.Addr().Is4() || n.Bits() > 30 {
		return netip.Addr{}
	}
	b := n.Masked().Addr().As4()
	for bit := n.Bits(); bit < 32; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(b)
}

// All yields the interfaces by ascending index.
func (s *Snapshot) All() iter.Seq[Interface] { return slices.Values(s.ifaces) }

// ByIndex returns the interface with the index, and whether there is one.
func (s *Snapshot) ByIndex(index int) (Interface, bool) {
	pos, ok := s.byIndex[index]
	if !ok {
		return Interface{}, false
	}
	return s.ifaces[pos], true
}

// ByName returns the interface with the name, and whether there is one.
func (s *Snapshot) ByName(name string) (Interface, bool) {
	pos, ok := s.byName[name]
	if !ok {
		return Interface{}, false
	}
	return s.ifaces[pos], true
}

// Defaults yields the default routes of the family, tunnels' included, best first: by metric, then interface index, then
// gateway. [Snapshot.Pick] with an empty selector chooses among them.
func (s *Snapshot) Defaults(f Family) iter.Seq[DefaultRoute] {
	return func(yield func(DefaultRoute) bool) {
		for _, d := range s.defaults {
			if d.Family == f && !yield(d) {
				return
			}
		}
	}
}

// Equal reports whether both say the same.
func (s *Snapshot) Equal(o *Snapshot) bool {
	return s == o || (slices.EqualFunc(s.ifaces, o.ifaces, Interface.equal) && slices.Equal(s.defaults, o.defaults))
}
