package firewall

import (
	"context"
	"errors"
	"net/netip"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// connectionOf returns the record of a packet's connection, new if need be.
func (f *Firewall) connectionOf(i *packet.Info) *conn.Conn {
	if c := f.cfg.Store.Get(i.Tuple); c != nil {
		return c
	}
	// the kernel may be asked: not under the store's lock
	first := &conn.Snapshot{
		Direction: f.directionOf(i),
		Scope:     f.reach(i.Remote.Addr()),
		Interface: i.Interface,
		ICMPType:  i.ICMPType,
		ICMPCode:  i.ICMPCode,
		Started:   i.Seen,
	}
	c, _ := f.cfg.Store.GetOrAdd(i.Tuple, func() *conn.Snapshot { return first })
	return c
}

// reach returns the scope of an address. The host knows which addresses are its
// own, and which are the broadcast addresses of its networks.
func (f *Firewall) reach(a netip.Addr) netscope.Scope {
	switch h := f.cfg.Host; {
	case h == nil:
	case h.IsLocalAddr(a):
		return netscope.Host
	case h.IsBroadcast(a):
		return netscope.Broadcast
	}
	return netscope.Of(a)
}

// effort says how hard a process is looked for.
type effort uint8

const (
	// search finds it if that is possible.
	search effort = iota
	// glance gives up with errWouldWait where a search would be needed.
	glance
)

// beforeFilter runs the stages in front of FilterConnection. What it finds out
// it writes to s.
func (f *Firewall) beforeFilter(ctx context.Context, p packet.Packet, s *conn.Snapshot, e effort) (filtered, bool, error) {
	if d, ok := f.fastTrack(p, s); ok {
		return filtered{About: s, Decision: d, Inspect: true}, true, nil
	}
	if d, ok := f.ownBeforeProcess(s); ok {
		return filtered{About: s, Decision: d, Internal: true}, true, nil
	}
	gone, err := f.findProcess(ctx, p.Info(), s, e)
	if err != nil {
		return filtered{}, false, err
	}
	if s.Process == nil && (gone || older(p.Info())) && f.mayBeSplit(s) {
		return filtered{About: s, Decision: decide(verdict.Drop, CodeOlder, textRest)}, true, nil
	}
	if f.toNameserver(s) {
		d := decide(verdict.RerouteToNameserver, CodeNameserver, "a DNS query that our nameserver answers")
		return filtered{About: s, Decision: d, Internal: true}, true, nil
	}
	if d, ok := f.ownProcess(s); ok {
		return filtered{About: s, Decision: d, Internal: true}, true, nil
	}
	r, ok := f.byDestination(ctx, p.Info(), s)
	return r, ok, nil
}

const textRest = "its program is gone: nobody can tell which interface it has to leave by"

// mayBeSplit reports whether a connection of an unknown program may be one that
// has to leave by another interface. What a program that is gone has sent, and
// what the kernel goes on to send for a socket that its program closed, goes
// nowhere then: it could be the rest of a split connection, which the kernel
// forgot with a route or a restart, or the first packet of one that waited for
// too long.
func (f *Firewall) mayBeSplit(s *conn.Snapshot) bool {
	return f.cfg.Processes != nil && s.Direction == packet.Outbound && leaves(s) && f.splits()
}

// toNameserver reports whether our nameserver answers a connection. Its own
// queries are known by their sockets and not by their process: other parts of
// this program use it as everybody does.
func (f *Firewall) toNameserver(s *conn.Snapshot) bool {
	return s.Direction == packet.Outbound && f.cfg.ToNameserver != nil && f.cfg.ToNameserver(s)
}

// findProcess writes the connection's process to s. A process that is not known
// is no error; gone tells that it ended, or closed its socket.
func (f *Firewall) findProcess(ctx context.Context, i *packet.Info, s *conn.Snapshot, e effort) (gone bool, err error) {
	switch {
	case f.cfg.Processes == nil:
		return false, nil
	case e == glance:
		p, ok := f.spot.quick.FindQuick(i, s.Direction)
		if !ok {
			return false, errWouldWait
		}
		s.Process = p
		return false, nil
	}
	p, err := f.cfg.Processes.Find(ctx, i, s.Direction)
	if err != nil {
		f.stats.unknownProcess.Add(1)
		f.cfg.Logger.Debug("process unknown", "connection", i.Tuple, "err", err)
		var why interface{ Gone() bool }
		return errors.As(err, &why) && why.Gone(), nil
	}
	s.Process = p
	return false, nil
}

// byDestination decides what the addresses of a connection decide, and notes the
// name of its destination.
func (f *Firewall) byDestination(ctx context.Context, i *packet.Info, s *conn.Snapshot) (filtered, bool) {
	switch a := s.Tuple.Remote.Addr(); {
	case a == sinkhole4 || a == sinkhole6:
		d := decide(verdict.Block, CodeSinkhole, "the name was answered with a sinkhole address: it is blocked")
		return filtered{About: s, Decision: d}, true
	case f.isNear(s) && f.queries.answers(s, i.Seen):
		d := decide(verdict.Accept, CodeMulticastAnswer, "answers a multicast or broadcast query of this host")
		return filtered{About: s, Decision: d, Inspect: true}, true
	}
	if f.cfg.Names != nil {
		if n, ok := f.cfg.Names.FindName(ctx, s, 0); ok {
			s.Domain, s.CNAMEs = n.Domain, n.CNAMEs
		}
	}
	return filtered{}, false
}

// isNear reports whether the remote address is a neighbour's, who may hear our
// multicast: by its scope, or as the host knows.
func (f *Firewall) isNear(s *conn.Snapshot) bool {
	return s.Scope == netscope.Link || s.Scope == netscope.Site || s.Scope == netscope.Global && f.attached(s)
}

// The addresses that our nameserver answers for blocked names.
var (
	sinkhole4 = netip.AddrFrom4([4]byte{0, 0, 0, 17})
	sinkhole6 = netip.AddrFrom16([16]byte{15: 0x17}) // ::17
)

// fastTrack accepts what needs no further look; ICMP that is not echo does not
// come here, see notAConnection.
func (f *Firewall) fastTrack(p packet.Packet, s *conn.Snapshot) (verdict.Decision, bool) {
	t := s.Tuple
	switch {
	case p.FastTrackedByDriver():
		return decide(verdict.Accept, CodeDriver, "permitted by the driver"), true
	case t.Protocol.HasPorts() && t.Local == t.Remote:
		return decide(verdict.Accept, CodeSelf, "a socket that is connected to itself"), true
	case isDHCP(s):
		return decide(verdict.Accept, CodeDHCP, "DHCP on the local network"), true
	case f.ownService(s):
		return decide(verdict.Accept, CodeOwnService, "between this host and a service of the firewall"), true
	}
	return verdict.Decision{}, false
}

// isDHCP recognises DHCP (RFC 2131: ports 67, 68) and DHCPv6 (RFC 8415: 546,
// 547) with a peer on the local network.
func isDHCP(s *conn.Snapshot) bool {
	if s.Tuple.Protocol != packet.UDP {
		return false
	}
	local, remote := s.Tuple.Local.Port(), s.Tuple.Remote.Port()
	if s.Tuple.Is4() {
		if local != 68 || remote != 67 {
			return false
		}
	} else if local != 546 || remote != 547 {
		return false
	}
	switch s.Scope {
	case netscope.Link, netscope.Site, netscope.LocalMulticast, netscope.Broadcast:
		return true
	case netscope.Unknown, netscope.Host, netscope.Global, netscope.GlobalMulticast:
	}
	return false
}

// ownService reports whether a connection is between this host and one of our
// services.
func (f *Firewall) ownService(s *conn.Snapshot) bool {
	if len(f.cfg.Services) == 0 || !toSelf(s) {
		return false
	}
	for _, svc := range f.cfg.Services {
		if svc.Protocol == s.Tuple.Protocol && (svc.at(s.Tuple.Local) || svc.at(s.Tuple.Remote)) {
			return true
		}
	}
	return false
}

func (s *Service) at(a netip.AddrPort) bool {
	return s.Addr == a || s.Addr.Port() == a.Port() && s.Addr.Addr().IsUnspecified() && s.Addr.Addr().Is4() == a.Addr().Is4()
}
