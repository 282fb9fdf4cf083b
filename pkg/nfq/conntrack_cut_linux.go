package nfq

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/packet"
)

// Numbers of the kernel's sock_diag.h and inet_diag.h.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21

	diagRequestSize = 56 // struct inet_diag_req_v2
	diagStatesAt    = 4
	diagIDAt        = 8 // of struct inet_diag_sockid in the request
	diagAnswerIDAt  = 4 // and in the answer, struct inet_diag_msg
	diagIDSize      = 48
	diagIfaceAt     = 36 // in the id
	diagCookieAt    = 40

	tcpTimeWait = 6
	tcpClosed   = 7
	tcpListen   = 10
)

// States of sockets, as masks, that belong to one connection: those of TCP are numbered from 1 to 12, and a UDP socket is
// established if it has a peer.
const (
	tcpConnected = 0x1ffe &^ (1<<tcpTimeWait | 1<<tcpClosed | 1<<tcpListen)
	udpConnected = 1 << 1
)

// diagCutter is a socket to the kernel's list of sockets, of the network namespace that it was opened in.
type diagCutter struct{ *nlSocket }

// openCutter opens one in the namespace of the calling thread.
func openCutter() (cutter, error) {
	s, err := openNetlink(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	return diagCutter{s}, nil
}

// cut ends the local socket of a connection with ECONNABORTED. It returns nil if there is none. A socket that serves other
// connections as well, such as a listener, stays.
func (s diagCutter) cut(t packet.Tuple) error {
	if t.Protocol != packet.TCP && t.Protocol != packet.UDP {
		return nil
	}
	id, found, err := s.find(t)
	switch {
	case err != nil:
		return err
	case found:
		return s.destroy(t, id)
	}
	bound, err := s.list(t)
	errs := []error{err}
	for _, id := range bound {
		errs = append(errs, s.destroy(t, id))
	}
	return errors.Join(errs...)
}

// destroy ends a socket. With the cookie in id it is this very socket, or none: not another one that took its place meanwhile.
func (s diagCutter) destroy(t packet.Tuple, id [diagIDSize]byte) error {
	err := s.request(func(b []byte) []byte { return appendDiag(b, sockDestroy, t, id) }, nil)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("close the socket of %v: %w", t, err)
	}
	return nil
}

// find returns the identity of the connection's own socket, in the kernel's form. It does not see sockets that are bound to an
// interface, by an option, by a VRF or by a link-local address.
func (s diagCutter) find(t packet.Tuple) (id [diagIDSize]byte, found bool, err error) {
	ask := socketID(t.Local, t.Remote)
	if t.Protocol == packet.UDP {
		// Here the kernel wants the packet's view. When closing it does not.
		ask = socketID(t.Remote, t.Local)
	}
	err = s.request(func(b []byte) []byte { return appendDiag(b, sockDiagByFamily, t, ask) }, func(b []byte) {
		if len(b) < diagAnswerIDAt+diagIDSize || found {
			return
		}
		state := b[1]
		copy(id[:], b[diagAnswerIDAt:])
		// The kernel falls back to listeners and to sockets that talk to everybody.
		connected := binary.BigEndian.Uint16(id[2:]) == t.Remote.Port()
		found = connected && (state != tcpListen || t.Protocol != packet.TCP)
	})
	if errors.Is(err, unix.ENOENT) {
		return id, false, nil
	}
	if err != nil {
		return id, false, fmt.Errorf("find the socket of %v: %w", t, err)
	}
	return destroyID(t, id), found, nil
}

// list returns the identities of the connection's sockets whatever interface they are bound to. The kernel looks at all sockets
// of the protocol, and tells of those with the two ports.
func (s diagCutter) list(t packet.Tuple) (ids [][diagIDSize]byte, err error) {
	families := []byte{unix.AF_INET6}
	if t.Is4() {
		families = append(families, unix.AF_INET) // an IPv6 socket may serve IPv4
	}
	for _, f := range families {
		err := s.request(func(b []byte) []byte { return appendDiagList(b, f, t) }, func(b []byte) {
			if len(b) < diagAnswerIDAt+diagIDSize {
				return
			}
			id := [diagIDSize]byte(b[diagAnswerIDAt:])
			if local, remote := socketEnds(b[0], id); local == t.Local && remote == t.Remote {
				ids = append(ids, destroyID(t, id))
			}
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return ids, fmt.Errorf("list the sockets of %v: %w", t, err)
		}
	}
	return ids, nil
}

// destroyID is a socket of t for the kernel to end: found is what it was found by, with its interface and its cookie.
func destroyID(t packet.Tuple, found [diagIDSize]byte) [diagIDSize]byte {
	id := socketID(t.Local, t.Remote)
	copy(id[diagIfaceAt:], found[diagIfaceAt:])
	return id
}

// socketEnds reads the addresses of struct inet_diag_sockid.
func socketEnds(family byte, id [diagIDSize]byte) (local, remote netip.AddrPort) {
	size := 16
	if family == unix.AF_INET {
		size = 4
	}
	end := func(port, addr []byte) netip.AddrPort {
		a, _ := netip.AddrFromSlice(addr)
		return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port))
	}
	return end(id[0:], id[4:4+size]), end(id[2:], id[20:20+size])
}

// socketID is struct inet_diag_sockid without an interface and with the cookie that means any.
func socketID(src, dst netip.AddrPort) (id [diagIDSize]byte) {
	binary.BigEndian.PutUint16(id[0:], src.Port())
	binary.BigEndian.PutUint16(id[2:], dst.Port())
	copy(id[4:], src.Addr().AsSlice())
	copy(id[20:], dst.Addr().AsSlice())
	for i := diagCookieAt; i < diagIDSize; i++ {
		id[i] = 0xff
	}
	return id
}

// appendDiag appends a request about one socket.
func appendDiag(b []byte, typ uint16, t packet.Tuple, id [diagIDSize]byte) []byte {
	family := byte(unix.AF_INET6)
	if t.Is4() {
		family = unix.AF_INET
	}
	return appendDiagRequest(b, typ, nlmFlagAck, family, t.Protocol, ^uint32(0), id)
}

// appendDiagList appends a request for the sockets of one family that are connected from and to the ports of t.
func appendDiagList(b []byte, family byte, t packet.Tuple) []byte {
	states := uint32(tcpConnected)
	if t.Protocol == packet.UDP {
		states = udpConnected
	}
	return appendDiagRequest(b, sockDiagByFamily, nlmFlagDump, family, t.Protocol, states, socketID(t.Local, t.Remote))
}

func appendDiagRequest(b []byte, typ, flags uint16, family byte, p packet.Protocol, states uint32, id [diagIDSize]byte) []byte {
	at := len(b) + nlmsgHeader
	b = append(b, make([]byte, nlmsgHeader+diagRequestSize)...)
	binary.NativeEndian.PutUint16(b[at-nlmsgHeader+4:], typ)
	binary.NativeEndian.PutUint16(b[at-nlmsgHeader+6:], nlmFlagRequest|flags)
	b[at], b[at+1] = family, byte(p)
	binary.NativeEndian.PutUint32(b[at+diagStatesAt:], states)
	copy(b[at+diagIDAt:], id[:])
	return b
}
