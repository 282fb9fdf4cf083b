package procinfo

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/packet"
)

// Masks of states, for lists.
const (
	allStates  = ^uint32(0)
	listenOnly = uint32(1) << stateListen
)

// locate puts the sockets that the connection may belong to into sc.socks: at
// least one, or an error.
func (f *Finder) locate(info *packet.Info, dir packet.Direction, sc *scratch) (Method, error) {
	sc.socks, sc.alone, sc.denied, sc.short, sc.cost = sc.socks[:0], 0, false, nil, 0
	if info.Fragment && info.Protocol.HasPorts() {
		return 0, unknown(ReasonNoSocket) // no ports to look for
	}
	method, err := MethodProcNet, error(nil)
	switch {
	case !info.Protocol.HasPorts():
		err = f.locateRaw(info, dir, sc)
	case f.diag == nil || !f.diag.has[info.Protocol]:
		err = f.locateListed(info, dir, sc)
	default:
		method = MethodInetDiag
		sc.query = query{
			protocol: uint8(info.Protocol), family: unix.AF_INET6, local: info.Local, remote: info.Remote,
			iface: info.Interface, states: allStates,
		}
		if info.Is4() {
			sc.query.family = unix.AF_INET
		}
		if info.Protocol == packet.UDP || info.Protocol == packet.UDPLite {
			err = f.locateDatagram(info, dir, sc)
		} else {
			err = f.locateStream(info, dir, sc)
		}
	}
	if err == nil && len(sc.socks) == 0 {
		err = unknown(ReasonNoSocket)
	}
	return method, err
}

// locateStream asks for a TCP socket, or an SCTP association.
func (f *Finder) locateStream(info *packet.Info, dir packet.Direction, sc *scratch) error {
	s, err := f.diag.exact(&sc.query)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	if dir == packet.Inbound && s.unaccepted() {
		// The listening socket is the one found for a peer that nobody is
		// connected to.
		sc.query.remote = netip.AddrPortFrom(unspecified(sc.query.family), 0)
		if s, err = f.diag.exact(&sc.query); errors.Is(err, unix.ENOENT) {
			return unknown(ReasonGone)
		} else if err != nil {
			return err
		}
		sc.query.remote = info.Remote
	}
	if s.state != stateListen {
		sc.socks = append(sc.socks, s)
		return nil
	}
	if dir == packet.Outbound {
		return nil // the socket has gone; who listens there is somebody else
	}
	sc.alone = s.cookie
	if f.socks.alone(s.cookie, receiving, info.Local.Addr()) {
		sc.socks = append(sc.socks, s)
		return nil
	}
	return f.group(&s, listenOnly, sc)
}

// group lists the sockets that share the port with s by SO_REUSEPORT. The kernel
// chooses one of them for each connection, by means that programs can change.
func (f *Finder) group(s *sock, states uint32, sc *scratch) error {
	if sc.quick {
		return errSlow
	}
	sc.query.states = states
	sc.query.family = unix.AF_INET
	if s.v6 {
		sc.query.family = unix.AF_INET6
	}
	var err error
	if sc.socks, err = f.diag.list(&sc.query, sc.socks[:0]); err != nil {
		return err
	}
	kept := sc.socks[:0]
	for _, o := range sc.socks {
		if o.local == s.local && o.iface == s.iface && o.connected() == s.connected() && o.state == s.state {
			kept = append(kept, o)
		}
	}
	sc.socks = kept
	return nil
}

// locateDatagram asks for a UDP socket. What comes in goes to the socket that
// the kernel finds for it; what goes out may be from any socket on the port,
// which are therefore listed, unless this is known to be the only one.
func (f *Finder) locateDatagram(info *packet.Info, dir packet.Direction, sc *scratch) error {
	if dir == packet.Inbound && toMany(info.Local.Addr()) {
		return f.listDatagram(info, dir, sc)
	}
	s, err := f.diag.exact(&sc.query)
	switch {
	case errors.Is(err, unix.ENOENT) && dir == packet.Inbound:
		return nil
	case errors.Is(err, unix.ENOENT):
		// A connected socket may send to others than its peer.
		return f.listDatagram(info, dir, sc)
	case err != nil:
		return err
	}
	sure := s.connected() && s.remote == info.Remote
	if sure && dir == packet.Outbound {
		// Another one may have sent it that shares the port, and has no peer.
		if sure, err = f.unrivalled(sc); err != nil {
			return err
		}
	}
	sure = sure || f.socks.alone(s.cookie, useOf(info, dir), info.Local.Addr())
	if sure && (dir == packet.Inbound || !info.HasUID || info.UID == s.uid) {
		sc.socks = append(sc.socks, s)
		return nil
	}
	sc.alone = s.cookie
	return f.listDatagram(info, dir, sc)
}

// unrivalled reports whether no socket without a peer is on the local port.
func (f *Finder) unrivalled(sc *scratch) (bool, error) {
	q := sc.query
	q.remote = netip.AddrPortFrom(unspecified(q.family), 0)
	_, err := f.diag.exact(&q)
	if errors.Is(err, unix.ENOENT) {
		return true, nil
	}
	return false, err
}

// listDatagram lists the sockets on the local port and keeps the possible ones.
func (f *Finder) listDatagram(info *packet.Info, dir packet.Direction, sc *scratch) error {
	if sc.quick {
		return errSlow
	}
	families := []uint8{unix.AF_INET6, unix.AF_INET}
	if !info.Is4() {
		families = families[:1]
	}
	sc.socks = sc.socks[:0]
	var err error
	for _, sc.query.family = range families {
		if sc.socks, err = f.diag.list(&sc.query, sc.socks); err != nil {
			return err
		}
	}
	if dir == packet.Inbound {
		sc.socks = receivers(sc.socks, &info.Tuple, info.Interface)
	} else {
		sc.socks = senders(sc.socks, info)
	}
	return nil
}

// locateListed is for kernels without inet_diag: the tables in /proc/net.
func (f *Finder) locateListed(info *packet.Info, dir packet.Direction, sc *scratch) error {
	name := info.Protocol.String()
	port := func(s *sock) bool { return s.local.Port() == info.Local.Port() }
	// An IPv6 socket may serve IPv4.
	err := f.listTable(name+"6", sc, port)
	if err == nil && info.Is4() {
		err = f.listTable(name, sc, port)
	}
	if err != nil {
		return err
	}
	switch {
	case info.Protocol == packet.TCP || info.Protocol == packet.SCTP:
		sc.socks = streams(sc.socks, &info.Tuple, info.Interface, dir)
	case dir == packet.Inbound:
		sc.socks = receivers(sc.socks, &info.Tuple, info.Interface)
	default:
		sc.socks = senders(sc.socks, info)
	}
	return nil
}

func (f *Finder) listTable(name string, sc *scratch, keep func(s *sock) bool) (err error) {
	sc.socks, err = f.net.list(name, sc.socks, keep)
	return err
}

// locateRaw finds who sends packets of protocols without ports: ping sockets
// and raw sockets. What comes in is the kernel's, whoever may listen too.
func (f *Finder) locateRaw(info *packet.Info, dir packet.Direction, sc *scratch) error {
	if dir == packet.Inbound || !info.HasUID && !info.IsEcho() {
		// without a user it has no socket that a program holds: the kernel sends
		// IGMP, neighbour discovery and error messages itself
		return unknown(ReasonNoProcess)
	}
	suffix := ""
	if !info.Is4() {
		suffix = "6"
	}
	all := func(*sock) bool { return true }
	if info.IsEcho() {
		if err := f.listTable("icmp"+suffix, sc, all); err != nil {
			return err
		}
		if sc.socks = pings(sc.socks, info); len(sc.socks) > 0 {
			return nil
		}
	}
	if err := f.listTable("raw"+suffix, sc, all); err != nil {
		return err
	}
	sc.socks = raws(sc.socks, info)
	return nil
}

func unspecified(family uint8) netip.Addr {
	if family == unix.AF_INET {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
