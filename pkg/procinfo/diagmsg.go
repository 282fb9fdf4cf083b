package procinfo

import (
	"encoding/binary"
	"net/netip"
)

// The messages of NETLINK_SOCK_DIAG (sock_diag(7)), as bytes: they can be
// tested everywhere.
const (
	nlmsgHeaderLen  = 16
	nlmsgError      = 2
	nlmsgDone       = 3
	nlmFlagRequest  = 0x1
	nlmFlagDump     = 0x300
	sockDiagFamily  = 20 // SOCK_DIAG_BY_FAMILY
	diagRequestLen  = nlmsgHeaderLen + 56
	diagReplyLen    = 72 // struct inet_diag_msg
	diagAttrV6Only  = 11 // INET_DIAG_SKV6ONLY
	diagAttrCgroup  = 21 // INET_DIAG_CGROUP_ID
	diagFamilyInet  = 2  // AF_INET on Linux
	diagFamilyInet6 = 10 // AF_INET6 on Linux
)

// query is what is asked of inet_diag.
type query struct {
	protocol      uint8
	family        uint8
	local, remote netip.AddrPort
	iface         uint32
	// states is a bit mask of TCP states, for lists.
	states uint32
	// list asks for all sockets with the local port.
	list bool
}

// swapToNetwork turns a word in the byte order of this machine round to that
// of the network, or back.
func swapToNetwork(b []byte) {
	binary.BigEndian.PutUint32(b, binary.NativeEndian.Uint32(b))
}

// put encodes the request: struct nlmsghdr and struct inet_diag_req_v2.
func (q *query) put(b *[diagRequestLen]byte, seq uint32) {
	clear(b[:])
	flags := uint16(nlmFlagRequest)
	if q.list {
		flags |= nlmFlagDump
	}
	binary.NativeEndian.PutUint32(b[0:], diagRequestLen)
	binary.NativeEndian.PutUint16(b[4:], sockDiagFamily)
	binary.NativeEndian.PutUint16(b[6:], flags)
	binary.NativeEndian.PutUint32(b[8:], seq)
	b[16], b[17] = q.family, q.protocol
	binary.NativeEndian.PutUint32(b[20:], q.states)
	source, destination := q.local, q.remote
	if q.list {
		// lists filter by port here, and by address elsewhere
		source, destination = netip.AddrPortFrom(netip.Addr{}, q.local.Port()), netip.AddrPort{}
	} else if q.protocol == 17 || q.protocol == 136 {
		// the kernel looks datagram sockets up as if a packet came in, and calls
		// its sender source: the other way round than for TCP
		source, destination = destination, source
	}
	binary.BigEndian.PutUint16(b[24:], source.Port())
	binary.BigEndian.PutUint16(b[26:], destination.Port())
	putAddr(b[28:44], source.Addr())
	putAddr(b[44:60], destination.Addr())
	binary.NativeEndian.PutUint32(b[60:], q.iface)
	// INET_DIAG_NOCOOKIE: any socket will do
	binary.NativeEndian.PutUint64(b[64:], ^uint64(0))
}

func putAddr(b []byte, a netip.Addr) {
	switch {
	case a.Is4():
		v := a.As4()
		copy(b, v[:])
	case a.Is6():
		v := a.As16()
		copy(b, v[:])
	}
}

// reply is one message of an answer.
type reply struct {
	sock sock
	seq  uint32
	// kind is nlmsgError, nlmsgDone or sockDiagFamily.
	kind uint16
	// errno is that of nlmsgError and nlmsgDone, positive.
	errno int32
}

// nextReply decodes the first message of b. ok is false at the end and where
// nothing sensible comes any more.
func nextReply(b []byte) (r reply, rest []byte, ok bool) {
	if len(b) < nlmsgHeaderLen {
		return reply{}, nil, false
	}
	length := binary.NativeEndian.Uint32(b)
	if length < nlmsgHeaderLen || uint64(length) > uint64(len(b)) {
		return reply{}, nil, false
	}
	r.kind = binary.NativeEndian.Uint16(b[4:])
	r.seq = binary.NativeEndian.Uint32(b[8:])
	body := b[nlmsgHeaderLen:length]
	rest = b[min(len(b), align4(int(length))):]
	switch r.kind {
	case nlmsgError, nlmsgDone:
		if len(body) >= 4 {
			r.errno = -int32(binary.NativeEndian.Uint32(body))
		} else if r.kind == nlmsgError {
			return reply{}, nil, false
		}
	case sockDiagFamily:
		if r.sock, ok = parseDiag(body); !ok {
			return reply{}, nil, false
		}
	}
	return r, rest, true
}

func align4(n int) int { return (n + 3) &^ 3 }

// parseDiag decodes struct inet_diag_msg and the attributes that we know.
func parseDiag(b []byte) (s sock, ok bool) {
	if len(b) < diagReplyLen {
		return sock{}, false
	}
	s.state = b[1]
	if s.local, ok = diagAddr(b[0], b[8:24], b[4:6]); !ok {
		return sock{}, false
	}
	if s.remote, ok = diagAddr(b[0], b[24:40], b[6:8]); !ok {
		return sock{}, false
	}
	s.v6 = b[0] == diagFamilyInet6
	s.iface = binary.NativeEndian.Uint32(b[40:])
	// the cookie is two words, the lower one first, whatever the byte order
	s.cookie = uint64(binary.NativeEndian.Uint32(b[44:])) | uint64(binary.NativeEndian.Uint32(b[48:]))<<32
	s.uid = binary.NativeEndian.Uint32(b[64:])
	s.inode = binary.NativeEndian.Uint32(b[68:])
	for attrs := b[diagReplyLen:]; len(attrs) >= 4; {
		length, kind := int(binary.NativeEndian.Uint16(attrs)), binary.NativeEndian.Uint16(attrs[2:])
		if length < 4 || length > len(attrs) {
			break
		}
		switch {
		case kind == diagAttrV6Only && length > 4:
			s.v6only = attrs[4] != 0
		case kind == diagAttrCgroup && length >= 12:
			s.cgroup = binary.NativeEndian.Uint64(attrs[4:])
		}
		attrs = attrs[min(len(attrs), align4(length)):]
	}
	return s, true
}

func diagAddr(family uint8, addr, port []byte) (netip.AddrPort, bool) {
	p := binary.BigEndian.Uint16(port)
	switch family {
	case diagFamilyInet:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(addr[:4])), p), true
	case diagFamilyInet6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(addr)).Unmap(), p), true
	}
	return netip.AddrPort{}, false
}
