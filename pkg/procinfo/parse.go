package procinfo

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"strconv"
)

var errFormat = errors.New("procinfo: unexpected format")

// stat is the part of /proc/<pid>/stat that we use.
type stat struct {
	parent int
	start  uint64
	// code and stack are addresses that exec chooses at random and fork
	// copies: two processes with the same ones run the same image.
	code, stack uint64
}

// parseStat reads /proc/<pid>/stat (proc_pid_stat(5)). The program's name is in
// parentheses and may contain any byte, so counting starts after the last one.
func parseStat(b []byte) (stat, error) {
	const (
		fieldParent, fieldStart, fieldCode, fieldStack = 4, 22, 26, 28
		firstField                                     = 3
	)
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return stat{}, errFormat
	}
	var s stat
	rest := b[i+1:]
	for field := firstField; field <= fieldStack; field++ {
		var word []byte
		word, rest = nextWord(rest)
		if len(word) == 0 {
			return stat{}, errFormat
		}
		switch field {
		case fieldParent, fieldStart, fieldCode, fieldStack:
		default:
			continue
		}
		n, ok := decimal(word)
		if !ok {
			return stat{}, errFormat
		}
		switch field {
		case fieldParent:
			s.parent = int(n & (1<<31 - 1))
		case fieldStart:
			s.start = n
		case fieldCode:
			s.code = n
		default:
			s.stack = n
		}
	}
	return s, nil
}

// sameImage reports whether both processes run the same image, one being a fork
// of the other. Where the kernel hides the addresses the answer is no.
func (s stat) sameImage(o stat) bool {
	return s.code == o.code && s.stack == o.stack && s.stack > 1
}

// parseThreadGroup returns the process that a task belongs to, from
// /proc/<pid>/status; 0 if it is not there.
func parseThreadGroup(b []byte) int {
	for line := range bytes.Lines(b) {
		if value, ok := bytes.CutPrefix(line, []byte("Tgid:\t")); ok {
			if n, ok := decimal(bytes.TrimSuffix(value, []byte("\n"))); ok && n < 1<<31 {
				return int(n)
			}
			return 0
		}
	}
	return 0
}

// parseCgroup returns the path in the unified hierarchy from /proc/<pid>/cgroup.
func parseCgroup(b []byte) string {
	for line := range bytes.Lines(b) {
		if path, ok := bytes.CutPrefix(line, []byte("0::")); ok {
			return string(bytes.TrimSuffix(path, []byte("\n")))
		}
	}
	return ""
}

// splitArgs splits the content of /proc/<pid>/cmdline. A program that wrote a
// title over its arguments may have left no zero bytes: one argument then.
func splitArgs(b []byte) []string {
	b = bytes.TrimRight(b, "\x00")
	if len(b) == 0 {
		return nil
	}
	args := make([]string, 0, bytes.Count(b, []byte{0})+1)
	for part := range bytes.SplitSeq(b, []byte{0}) {
		args = append(args, string(part))
	}
	return args
}

// parseLastPID returns the last field of /proc/loadavg: the number that was
// given to the newest task. 0 means that it is not known.
func parseLastPID(b []byte) int {
	b = bytes.TrimRight(b, "\n")
	n, ok := decimal(b[bytes.LastIndexByte(b, ' ')+1:])
	if !ok || n > 1<<31-1 {
		return 0
	}
	return int(n)
}

// parseSocketLink returns the inode from a link such as "socket:[4711]".
func parseSocketLink(b []byte) (inode uint32, ok bool) {
	b, ok = bytes.CutPrefix(b, []byte("socket:["))
	if !ok {
		return 0, false
	}
	b, ok = bytes.CutSuffix(b, []byte("]"))
	if !ok {
		return 0, false
	}
	n, ok := decimal(b)
	if !ok || n > 1<<32-1 {
		return 0, false
	}
	return uint32(n), true
}

// parseNetLine reads a line of /proc/net/tcp, udp, udplite, icmp or raw, or
// their IPv6 twins; all have the same columns. The line with the titles is not
// ok.
func parseNetLine(line []byte) (s sock, ok bool) {
	const fieldLocal, fieldRemote, fieldState, fieldUID, fieldInode = 1, 2, 3, 7, 9
	for field := 0; field <= fieldInode; field++ {
		var word []byte
		word, line = nextWord(line)
		if len(word) == 0 {
			return sock{}, false
		}
		ok = true
		switch field {
		case fieldLocal:
			s.local, ok = parseHexAddr(word)
		case fieldRemote:
			s.remote, ok = parseHexAddr(word)
		case fieldState:
			n, err := strconv.ParseUint(string(word), 16, 8)
			s.state, ok = uint8(n), err == nil
		case fieldUID, fieldInode:
			n, isNumber := decimal(word)
			if field == fieldUID {
				s.uid = uint32(n)
			} else {
				s.inode = uint32(n)
			}
			ok = isNumber && n <= 1<<32-1
		}
		if !ok {
			return sock{}, false
		}
	}
	return s, true
}

// parseHexAddr reads "0100007F:1F90": the address as 32-bit words in the byte
// order of this machine, the port in readable order.
func parseHexAddr(word []byte) (netip.AddrPort, bool) {
	const len4, len6 = 8, 32
	colon := bytes.IndexByte(word, ':')
	if colon != len4 && colon != len6 {
		return netip.AddrPort{}, false
	}
	var raw [16]byte
	n, err := hex.Decode(raw[:], word[:colon])
	if err != nil {
		return netip.AddrPort{}, false
	}
	port, err := strconv.ParseUint(string(word[colon+1:]), 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	for i := 0; i < n; i += 4 {
		swapToNetwork(raw[i : i+4])
	}
	addr, _ := netip.AddrFromSlice(raw[:n])
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), true
}

// nextWord returns the first word of b and what comes after it.
func nextWord(b []byte) (word, rest []byte) {
	b = bytes.TrimLeft(b, " \t\n")
	i := bytes.IndexAny(b, " \t\n")
	if i < 0 {
		return b, nil
	}
	return b[:i], b[i:]
}

// decimal is strconv.ParseUint without the string.
func decimal(b []byte) (n uint64, ok bool) {
	const maxDigits = 19 // fits without a check for overflow
	if len(b) == 0 || len(b) > maxDigits {
		// startcode and the like may be 20 digits long
		v, err := strconv.ParseUint(string(b), 10, 64)
		return v, err == nil
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}
