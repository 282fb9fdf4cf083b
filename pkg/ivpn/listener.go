package ivpn

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// tcpListen is the state of listening sockets in /proc/net/tcp (TCP_LISTEN in
// the kernel's net/tcp_states.h).
const tcpListen = "0A"

// listenerOwner reads a line of /proc/net/tcp or tcp6. ok is false unless it is
// of a socket that takes connections to 127.0.0.1 at that port.
func listenerOwner(line string, port uint16) (uid uint32, ok bool) {
	f := strings.Fields(line)
	if len(f) < 8 || f[3] != tcpListen {
		return 0, false
	}
	addr, p, ok := procAddress(f[1])
	if !ok || p != port || !addr.IsUnspecified() && addr != netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		return 0, false
	}
	u, err := strconv.ParseUint(f[7], 10, 32)
	return uint32(u), err == nil
}

// procAddress reads "0100007F:1F90". The address consists of words in the
// machine's byte order, which is little-endian on all that Go runs this on but a
// few; there, nothing is found and nobody is trusted. Addresses of IPv4 in IPv6
// become IPv4.
func procAddress(text string) (netip.Addr, uint16, bool) {
	host, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(host)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.Addr{}, 0, false
	}
	for i := 0; i < len(b); i += 4 {
		b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.Addr{}, 0, false
	}
	a, _ := netip.AddrFromSlice(b)
	return a.Unmap(), uint16(p), true
}
