package ivpn

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
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

// mibListen is the state of listening sockets in Windows' tables (MIB_TCP_STATE_LISTEN in tcpmib.h).
const mibListen = 2

// tableLayout is where a row of GetExtendedTcpTable's tables has what (tcpmib.h): MIB_TCPROW_OWNER_PID and MIB_TCP6ROW_OWNER_PID.
type tableLayout struct{ size, state, addr, addrLen, port, pid int }

//nolint:gochecknoglobals // tables that nobody writes
var (
	tableIPv4 = tableLayout{size: 24, state: 0, addr: 4, addrLen: 4, port: 8, pid: 20}
	tableIPv6 = tableLayout{size: 56, state: 48, addr: 0, addrLen: 16, port: 20, pid: 52}
)

// tableListener is a listening socket, and the process that it belongs to.
type tableListener struct {
	addr netip.Addr
	pid  uint32
}

// listeners reads a table: how many rows there are (u32), and the rows. It returns the sockets that listen at that port.
func (l tableLayout) listeners(table []byte, port uint16) (list []tableListener) {
	if len(table) < 4 {
		return nil
	}
	rows := table[4:]
	for range min(int64(binary.LittleEndian.Uint32(table)), int64(len(rows)/l.size)) {
		row := rows[:l.size]
		rows = rows[l.size:]
		// the upper half of the field with the port means nothing
		if binary.LittleEndian.Uint32(row[l.state:]) != mibListen || binary.BigEndian.Uint16(row[l.port:]) != port {
			continue
		}
		addr, _ := netip.AddrFromSlice(row[l.addr : l.addr+l.addrLen])
		list = append(list, tableListener{addr.Unmap(), binary.LittleEndian.Uint32(row[l.pid:])})
	}
	return list
}

// answering returns the processes of the sockets that get connections to 127.0.0.1, in ascending order. On Windows several may listen at
// one port: the exact address goes before 0.0.0.0, and that before [::], which takes IPv4, too, unless it says otherwise. Several of one
// kind are all returned.
func answering(list []tableListener) (pids []uint32) {
	for _, addr := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		for _, l := range list {
			if l.addr == addr {
				pids = append(pids, l.pid)
			}
		}
		if len(pids) > 0 {
			break
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}
