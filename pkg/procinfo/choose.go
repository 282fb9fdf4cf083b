package procinfo

import (
	"net/netip"

	"github.com/weirfw/weir/pkg/packet"
)

// TCP states (include/net/tcp_states.h). Datagram sockets are "established" if
// connected and "closed" else.
const (
	stateEstablished uint8 = 1
	stateSynSent     uint8 = 2
	stateSynRecv     uint8 = 3
	stateCloseWait   uint8 = 8
	stateListen      uint8 = 10
	stateNewSynRecv  uint8 = 12
)

// sock is a socket as the kernel lists it. Addresses are unmapped.
type sock struct {
	local, remote netip.AddrPort
	// cookie names a socket for good; 0 where the kernel does not tell.
	cookie uint64
	// cgroup is the id of the control group it was made in, 0 if not known.
	cgroup uint64
	inode  uint32
	uid    uint32
	// iface is the index of the interface it is bound to, 0 for none.
	iface  uint32
	state  uint8
	v6     bool
	v6only bool
}

// connected reports whether the socket has one peer.
func (s *sock) connected() bool { return s.remote.Port() != 0 || !s.remote.Addr().IsUnspecified() }

// unaccepted reports that the socket is a connection for which the program has
// not yet called accept, so that only the listening socket has an owner.
func (s *sock) unaccepted() bool {
	if s.inode != 0 {
		return false
	}
	switch s.state {
	case stateEstablished, stateSynRecv, stateCloseWait, stateNewSynRecv:
		return true
	}
	return false
}

// covers reports whether the socket is bound to addr, or to all addresses of a
// kind that addr is one of.
func (s *sock) covers(addr netip.Addr) bool {
	bound := s.local.Addr()
	if !bound.IsUnspecified() {
		return bound == addr
	}
	if bound.Is4() {
		return addr.Is4()
	}
	return addr.Is6() || !s.v6only
}

// on reports whether the socket may use the interface; 0 is one not known.
func (s *sock) on(iface uint32) bool { return s.iface == 0 || iface == 0 || s.iface == iface }

// score rates the socket for a packet that comes in, the way the kernel does
// (compute_score in net/ipv4/udp.c and inet_hashtables.c): -1 does not fit, and
// the highest gets it.
func (s *sock) score(t *packet.Tuple, iface uint32) int {
	if s.local.Port() != t.Local.Port() || !s.covers(t.Local.Addr()) || !s.on(iface) {
		return -1
	}
	score := 1
	if !s.v6 {
		score = 2
	}
	if !s.local.Addr().IsUnspecified() {
		score += 4
	}
	if s.connected() {
		if s.remote != t.Remote {
			return -1
		}
		score += 8
	}
	if s.iface != 0 {
		score += 4
	}
	return score
}

// toMany reports whether every socket that fits gets what is sent to the
// address. Broadcast addresses of networks are not known here: there the best
// fit alone counts.
func toMany(a netip.Addr) bool {
	return a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// receivers keeps the sockets that may get a packet of the tuple: those with
// the highest score, or all that fit if it is for several. It works in place.
func receivers(socks []sock, t *packet.Tuple, iface uint32) []sock {
	best, out := 0, socks[:0]
	all := toMany(t.Local.Addr())
	for _, s := range socks {
		score := s.score(t, iface)
		switch {
		case score < 0:
			continue
		case all, score == best:
			out = append(out, s)
		case score > best:
			best, out = score, append(out[:0], s)
		}
	}
	return out
}

// senders keeps the datagram sockets that may have sent a packet of the tuple:
// all on the port, for a connected socket may send elsewhere too. Where the
// packet tells its user, other users' sockets are out.
func senders(socks []sock, info *packet.Info) []sock {
	out := socks[:0]
	for _, s := range socks {
		if s.local.Port() != info.Local.Port() || !s.covers(info.Local.Addr()) || !s.on(info.Interface) {
			continue
		}
		if info.HasUID && s.uid != info.UID {
			continue
		}
		out = append(out, s)
	}
	return out
}

// streams keeps the connected socket of the tuple, or else the listening ones
// that the connection is for if it came in. For lists that are not exact.
func streams(socks []sock, t *packet.Tuple, iface uint32, dir packet.Direction) []sock {
	for _, s := range socks {
		if s.state != stateListen && s.local == t.Local && s.remote == t.Remote && s.on(iface) {
			if dir == packet.Inbound && s.unaccepted() {
				break
			}
			return append(socks[:0], s)
		}
	}
	if dir == packet.Outbound {
		return socks[:0]
	}
	listening := socks[:0]
	for _, s := range socks {
		if s.state == stateListen {
			listening = append(listening, s)
		}
	}
	return receivers(listening, t, iface)
}

// pings keeps the ping sockets that a tuple of ICMP echo belongs to: the kernel
// gives each an identifier of its own, which stands for the port.
func pings(socks []sock, info *packet.Info) []sock {
	out := socks[:0]
	for _, s := range socks {
		if s.local.Port() == info.Local.Port() && s.covers(info.Local.Addr()) && !(info.HasUID && s.uid != info.UID) {
			out = append(out, s)
		}
	}
	return out
}

// raws keeps the raw sockets that may have sent a packet: lists of those show
// the protocol in place of the port. IPPROTO_RAW sends any protocol.
func raws(socks []sock, info *packet.Info) []sock {
	const anyProtocol = 255
	out := socks[:0]
	for _, s := range socks {
		number := s.local.Port()
		if number != uint16(info.Protocol) && number != anyProtocol || info.HasUID && s.uid != info.UID {
			continue
		}
		if number != anyProtocol && !s.covers(info.Local.Addr()) {
			continue
		}
		if remote := s.remote.Addr(); !remote.IsUnspecified() && remote != info.Remote.Addr() {
			continue
		}
		out = append(out, s)
	}
	return out
}
