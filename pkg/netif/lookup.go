package netif

import (
	"net/netip"
	"strconv"
)

// Owner returns the index of the interface that has the address, and whether one has it: whether a packet to it ends
// on this machine. Loopback addresses always do, with index 0 if there is no loopback interface. It does not allocate.
//
// An address belongs to the machine, not to the interface: it is ours on an interface that is down, too, and when a
// packet to it arrives by another interface. If several have the address, as is usual for link-local ones, an IPv6 zone
// decides, and without a zone the lowest index is returned.
func (s *Snapshot) Owner(a netip.Addr) (index int, ok bool) {
	zone := a.Zone()
	a = plain(a)
	if zone != "" {
		return s.ownerInZone(a, zone)
	}
	if index, ok = s.own[a]; ok {
		return index, true
	}
	for _, n := range s.ownNets {
		if n.prefix.Contains(a) {
			return n.index, true
		}
	}
	return 0, a.IsLoopback()
}

func (s *Snapshot) ownerInZone(a netip.Addr, zone string) (int, bool) {
	i, ok := s.zone(zone)
	if !ok {
		return 0, false
	}
	for _, own := range i.Addrs {
		if own.Addr() == a && own.Flags&AddrDuplicate == 0 {
			return i.Index, true
		}
	}
	return 0, false
}

// zone returns the interface of an IPv6 zone, which is a name or an index.
func (s *Snapshot) zone(zone string) (Interface, bool) {
	if i, ok := s.ByName(zone); ok {
		return i, true
	}
	// Not strconv.Atoi alone: its error for a name would be the only allocation in this file.
	for _, c := range []byte(zone) {
		if c < '0' || c > '9' {
			return Interface{}, false
		}
	}
	index, err := strconv.Atoi(zone)
	if err != nil {
		return Interface{}, false
	}
	return s.ByIndex(index)
}

// Attached returns the index of the interface with the longest attached network that contains the address, and whether
// there is one: whether the address is a neighbour, reached without a gateway. See [Interface.Networks] for which
// networks count. Our own addresses in such a network are attached too, loopback is not. It does not allocate.
//
// For equal networks on several interfaces the lowest index is returned, except that the zone of an IPv6 address names
// the interface.
func (s *Snapshot) Attached(a netip.Addr) (index int, ok bool) {
	zone := a.Zone()
	a = plain(a)
	if zone != "" {
		return s.attachedInZone(a, zone)
	}
	for _, bits := range s.lengths[FamilyOf(a)] {
		// The error would be a length that does not fit the family, which the map's key rules out.
		p, err := a.Prefix(bits)
		if err != nil {
			continue
		}
		if index, ok = s.networks[p]; ok {
			return index, true
		}
	}
	return 0, false
}

func (s *Snapshot) attachedInZone(a netip.Addr, zone string) (int, bool) {
	i, ok := s.zone(zone)
	if !ok {
		return 0, false
	}
	for _, n := range i.Networks {
		if n.Contains(a) {
			return i.Index, true
		}
	}
	return 0, false
}

// IsBroadcast reports whether the address is a broadcast address here: 255.255.255.255, or the last or the configured
// broadcast address of a network on an interface that is up. The first address of a network is not: kernels of today
// treat it as a host's. It does not allocate.
func (s *Snapshot) IsBroadcast(a netip.Addr) bool {
	a = a.Unmap()
	if a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return true
	}
	_, ok := s.broadcast[a]
	return ok
}
