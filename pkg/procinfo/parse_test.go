package procinfo

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

const statLine = "4711 (a) S (x) S 17 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 20 18446744073709551615 94000 95000 140000 0 0"

const tcpLine = "   0: 0100007F:1F90 0200007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000000000000000 100 0 0 10 0"

func TestParseStat(t *testing.T) {
	got, err := parseStat([]byte(statLine))
	if want := (stat{parent: 17, start: 987654, code: 94000, stack: 140000}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S", "1 (x) S y 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: got %+v; want an error", bad, got)
		}
	}
	if (stat{}).sameImage(stat{}) || (stat{stack: 1, code: 1}).sameImage(stat{stack: 1, code: 1}) {
		t.Error("got the same image from hidden addresses; want no answer")
	}
}

func TestParseSmallThings(t *testing.T) {
	if got := parseCgroup([]byte("1:name=systemd:/x\n0::/user.slice/a b\n")); got != "/user.slice/a b" {
		t.Errorf("cgroup: got %q", got)
	}
	if got := parseCgroup([]byte("1:cpu:/x\n")); got != "" {
		t.Errorf("cgroup: got %q; want none", got)
	}
	if got := splitArgs([]byte("a\x00\x00c\x00")); !slices.Equal(got, []string{"a", "", "c"}) {
		t.Errorf("args: got %q", got)
	}
	if got := splitArgs(nil); got != nil {
		t.Errorf("args: got %q; want none", got)
	}
	if got := parseLastPID([]byte("0.1 0.2 0.3 1/99 4711\n")); got != 4711 {
		t.Errorf("last pid: got %d", got)
	}
	if got := parseThreadGroup([]byte("Name:\tx Tgid:\t1\nTgid:\t4711\nPid:\t4712\n")); got != 4711 {
		t.Errorf("thread group: got %d", got)
	}
	for link, want := range map[string]uint32{
		"socket:[4711]": 4711, "socket:[]": 0, "pipe:[1]": 0, "socket:[99999999999]": 0, "/dev/null": 0,
	} {
		if got, _ := parseSocketLink([]byte(link)); got != want {
			t.Errorf("%s: got %d; want %d", link, got, want)
		}
	}
}

func TestParseNetLine(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the samples are of a little-endian machine")
	}
	got, ok := parseNetLine([]byte(tcpLine))
	want := sock{local: ap("127.0.0.1:8080"), remote: ap("127.0.0.2:50000"), state: 1, uid: 1000, inode: 4711}
	if !ok || got != want {
		t.Errorf("got %+v, %v; want %+v", got, ok, want)
	}
	six := "  1: 00000000000000000000000001000000:0016 0000000000000000FFFF00000100007F:0000 0A 0:0 0:0 0 0 0 9"
	got, ok = parseNetLine([]byte(six))
	if !ok || got.local != ap("[::1]:22") || got.remote != ap("127.0.0.1:0") || got.inode != 9 {
		t.Errorf("got %+v, %v; want ::1 port 22, peer unmapped", got, ok)
	}
	if _, ok := parseNetLine([]byte("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode")); ok {
		t.Error("got a socket from the titles")
	}
}

func diagReply(kind uint16, body []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(nlmsgHeaderLen+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, 0)
	b = binary.NativeEndian.AppendUint32(b, 7)
	b = binary.NativeEndian.AppendUint32(b, 0)
	return append(b, body...)
}

func diagBody() []byte {
	body := make([]byte, diagReplyLen)
	body[0], body[1] = diagFamilyInet6, stateListen
	binary.BigEndian.PutUint16(body[4:], 80)
	copy(body[8:], netip.MustParseAddr("::ffff:10.0.0.1").AsSlice())
	binary.NativeEndian.PutUint32(body[40:], 3)
	binary.NativeEndian.PutUint32(body[44:], 5)
	binary.NativeEndian.PutUint32(body[64:], 1000)
	binary.NativeEndian.PutUint32(body[68:], 4711)
	body = binary.NativeEndian.AppendUint16(body, 5)
	body = binary.NativeEndian.AppendUint16(body, diagAttrV6Only)
	body = append(body, 1, 0, 0, 0)
	body = binary.NativeEndian.AppendUint16(body, 12)
	body = binary.NativeEndian.AppendUint16(body, diagAttrCgroup)
	return binary.NativeEndian.AppendUint64(body, 99)
}

func TestNextReply(t *testing.T) {
	b := append(diagReply(sockDiagFamily, diagBody()), diagReply(nlmsgDone, []byte{0, 0, 0, 0})...)
	r, rest, ok := nextReply(b)
	want := sock{
		local: ap("10.0.0.1:80"), remote: ap("[::]:0"), state: stateListen, v6: true, v6only: true,
		iface: 3, cookie: 5, uid: 1000, inode: 4711, cgroup: 99,
	}
	if !ok || r.seq != 7 || r.sock != want {
		t.Errorf("got %+v, %v; want %+v", r, ok, want)
	}
	if r, _, ok = nextReply(rest); !ok || r.kind != nlmsgDone {
		t.Errorf("got %+v, %v; want the end", r, ok)
	}
	if r, _, ok = nextReply(diagReply(nlmsgError, binary.NativeEndian.AppendUint32(nil, ^uint32(1)))); !ok || r.errno != 2 {
		t.Errorf("got %+v, %v; want error 2", r, ok)
	}
}

func TestQueryOrder(t *testing.T) {
	var b [diagRequestLen]byte
	q := query{protocol: 6, family: diagFamilyInet, local: ap("10.0.0.1:1"), remote: ap("10.0.0.2:2")}
	q.put(&b, 1)
	if b[25] != 1 || b[27] != 2 || b[31] != 1 {
		t.Errorf("got % x; want local first for TCP", b)
	}
	q.protocol = 17
	q.put(&b, 1)
	if b[25] != 2 || b[27] != 1 || b[31] != 2 {
		t.Errorf("got % x; want remote first for UDP", b)
	}
	q.list = true
	q.put(&b, 1)
	if b[25] != 1 || b[27] != 0 || b[31] != 0 {
		t.Errorf("got % x; want the local port alone in a list", b)
	}
}
