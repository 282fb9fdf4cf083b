package procinfo

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// encodeDiag is the inverse of parseDiag.
func encodeDiag(s *sock) []byte {
	b := make([]byte, diagReplyLen)
	b[0], b[1] = diagFamilyInet, s.state
	if s.v6 {
		b[0] = diagFamilyInet6
	}
	put := func(addr, port []byte, a netip.AddrPort) {
		binary.BigEndian.PutUint16(port, a.Port())
		if v := a.Addr().As16(); s.v6 {
			copy(addr, v[:])
		} else {
			copy(addr, v[12:])
		}
	}
	put(b[8:24], b[4:6], s.local)
	put(b[24:40], b[6:8], s.remote)
	binary.NativeEndian.PutUint32(b[40:], s.iface)
	binary.NativeEndian.PutUint32(b[44:], uint32(s.cookie))
	binary.NativeEndian.PutUint32(b[48:], uint32(s.cookie>>32))
	binary.NativeEndian.PutUint32(b[64:], s.uid)
	binary.NativeEndian.PutUint32(b[68:], s.inode)
	if s.v6only {
		b = append(binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(b, 5), diagAttrV6Only), 1, 0, 0, 0)
	}
	b = binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(b, 12), diagAttrCgroup)
	return binary.NativeEndian.AppendUint64(b, s.cgroup)
}

func FuzzDiag(f *testing.F) {
	f.Add(diagReply(sockDiagFamily, diagBody()))
	f.Add(diagReply(nlmsgError, []byte{1, 2, 3, 4}))
	f.Add(diagReply(nlmsgDone, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		for {
			r, rest, ok := nextReply(b)
			if !ok {
				return
			}
			if len(rest) >= len(b) {
				t.Fatalf("got %d bytes after %d; want progress", len(rest), len(b))
			}
			b = rest
			if r.kind != sockDiagFamily {
				continue
			}
			if r.sock.local.Addr().Is4In6() || r.sock.remote.Addr().Is4In6() {
				t.Fatalf("got %+v; want unmapped addresses", r.sock)
			}
			if again, ok := parseDiag(encodeDiag(&r.sock)); !ok || again != r.sock {
				t.Fatalf("got %+v; want %+v as before", again, r.sock)
			}
		}
	})
}

// encodeNetLine is the inverse of parseNetLine.
func encodeNetLine(s *sock) string {
	address := func(a netip.AddrPort) string {
		raw := a.Addr().AsSlice()
		text := ""
		for ; len(raw) > 0; raw = raw[4:] {
			text += fmt.Sprintf("%08X", binary.NativeEndian.Uint32(raw))
		}
		return fmt.Sprintf("%s:%04X", text, a.Port())
	}
	return fmt.Sprintf("  0: %s %s %02X 0:0 0:0 0 %d 0 %d 1 0\n", address(s.local), address(s.remote), s.state, s.uid, s.inode)
}

func FuzzNetLine(f *testing.F) {
	f.Add([]byte(tcpLine))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := parseNetLine(b)
		if !ok {
			return
		}
		if s.local.Addr().Is4In6() || s.remote.Addr().Is4In6() {
			t.Fatalf("got %+v; want unmapped addresses", s)
		}
		if again, ok := parseNetLine([]byte(encodeNetLine(&s))); !ok || again != s {
			t.Fatalf("got %+v; want %+v as before", again, s)
		}
	})
}

// slowStat is parseStat as one would write it without a thought for speed.
func slowStat(text string) (s stat, ok bool) {
	fields := strings.FieldsFunc(text[strings.LastIndexByte(text, ')')+1:], func(r rune) bool {
		return r == ' ' || r == '\t' || r == '\n'
	})
	if !strings.Contains(text, ")") || len(fields) < 26 {
		return stat{}, false
	}
	for _, v := range []struct {
		field int
		set   func(n uint64)
	}{
		{4, func(n uint64) { s.parent = int(n & (1<<31 - 1)) }},
		{22, func(n uint64) { s.start = n }},
		{26, func(n uint64) { s.code = n }},
		{28, func(n uint64) { s.stack = n }},
	} {
		n, err := strconv.ParseUint(fields[v.field-3], 10, 64)
		if err != nil {
			return stat{}, false
		}
		v.set(n)
	}
	return s, true
}

func FuzzStat(f *testing.F) {
	f.Add([]byte(statLine))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseStat(b)
		want, ok := slowStat(string(b))
		if (err == nil) != ok || ok && got != want {
			t.Fatalf("got %+v, %v; want %+v, %v", got, err, want, ok)
		}
	})
}

func FuzzCmdline(f *testing.F) {
	f.Add([]byte("python3\x00-u\x00a b.py\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		args := splitArgs(b)
		if got, want := strings.Join(args, "\x00"), strings.TrimRight(string(b), "\x00"); got != want {
			t.Fatalf("got %q; want %q", got, want)
		}
	})
}

func FuzzCgroup(f *testing.F) {
	f.Add([]byte("12:pids:/x\n0::/user.slice/a b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		want := ""
		for _, line := range strings.Split(string(b), "\n") {
			if p, ok := strings.CutPrefix(line, "0::"); ok {
				want = p
				break
			}
		}
		if got := parseCgroup(b); got != want {
			t.Fatalf("got %q; want %q", got, want)
		}
	})
}

// FuzzScript reads a command line as every interpreter would: the script is one
// of its words, and absolute in the end or not known.
func FuzzScript(f *testing.F) {
	f.Add([]byte("python3\x00-uW\x00ignore\x00a.py"))
	f.Add([]byte("bash\x00+O\x00extglob\x00--\x00x.sh"))
	f.Add([]byte("java\x00-cp\x00a:b\x00-jar\x00x.jar"))
	f.Fuzz(func(t *testing.T, b []byte) {
		args := splitArgs(b)
		for i := range interpreters {
			script := scriptOf("/usr/bin/"+interpreters[i].names[0], args)
			if script != "" && !slices.Contains(args[1:], script) {
				t.Fatalf("%s: got %q of %q; want one of the words", interpreters[i].names[0], script, args)
			}
			if full := absolute(script, "/a"); full != "" && (!path.IsAbs(full) || path.Clean(full) != full) {
				t.Fatalf("got %q; want an absolute path", full)
			}
		}
		if len(args) > 0 {
			scriptOf(args[0], args)
		}
	})
}

// FuzzWords is what is read from links and from loadavg.
func FuzzWords(f *testing.F) {
	f.Add([]byte("socket:[4711]"))
	f.Add([]byte("0.1 0.2 0.3 1/99 4711\n"))
	f.Add([]byte("18446744073709551616"))
	f.Add([]byte("Name:\ta\\nTgid:\t1\nTgid:\t4711\nPid:\t4712\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if inode, ok := parseSocketLink(b); ok {
			if text, _ := strings.CutPrefix(string(b), "socket:["); strings.TrimLeft(text, "0") != strings.TrimLeft(fmt.Sprintf("%d]", inode), "0") {
				t.Fatalf("got %d of %q", inode, b)
			}
		}
		if n, m := parseLastPID(b), parseThreadGroup(b); n < 0 || m < 0 {
			t.Fatalf("got %d and %d; want no negative number", n, m)
		}
		got, ok := decimal(b)
		want, err := strconv.ParseUint(string(b), 10, 64)
		if ok != (err == nil) || ok && got != want {
			t.Fatalf("got %d, %v; want %d, %v", got, ok, want, err)
		}
	})
}
