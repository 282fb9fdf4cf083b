//go:build amd64 || arm64 || 386

package ebpf

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/weirfw/weir/pkg/packet"
)

// The kernel writes these; a size that differs would shift everything.
func TestSizes(t *testing.T) {
	for _, test := range []struct {
		name      string
		got, want uintptr
	}{
		{"event", unsafe.Sizeof(attrEvent{}), eventSize}, {"task_row", unsafe.Sizeof(attrTaskRow{}), taskRowSize},
		{"owner", unsafe.Sizeof(attrOwner{}), 56}, {"tuple", unsafe.Sizeof(attrTuple{}), 40}, {"image", unsafe.Sizeof(attrImage{}), 2080},
	} {
		if test.got != test.want {
			t.Errorf("%s: got %d bytes; want %d", test.name, test.got, test.want)
		}
	}
}

func TestKeysAndTuples(t *testing.T) {
	for _, c := range []packet.Tuple{
		{Local: netip.MustParseAddrPort("192.0.2.1:40000"), Remote: netip.MustParseAddrPort("198.51.100.2:443"), Protocol: packet.TCP},
		{Local: netip.MustParseAddrPort("[2001:db8::1]:40000"), Remote: netip.MustParseAddrPort("[2001:db8::2]:53"), Protocol: packet.UDP},
	} {
		k := keyOf(c, own)
		if got := tupleOf(&k); got != c {
			t.Errorf("got %v; want %v", got, c)
		}
	}
}

// encode writes an event as the kernel does.
func encode(e *attrEvent) []byte {
	b := make([]byte, eventSize)
	binary.NativeEndian.PutUint32(b, e.Kind)
	binary.NativeEndian.PutUint32(b[4:], e.Pid)
	binary.NativeEndian.PutUint64(b[8:], e.Start)
	binary.NativeEndian.PutUint64(b[16:], e.Ts)
	for i := range e.Tuple.Saddr {
		binary.NativeEndian.PutUint32(b[24+4*i:], e.Tuple.Saddr[i])
		binary.NativeEndian.PutUint32(b[40+4*i:], e.Tuple.Daddr[i])
	}
	binary.NativeEndian.PutUint16(b[56:], e.Tuple.Sport)
	binary.NativeEndian.PutUint16(b[58:], e.Tuple.Dport)
	b[60], b[61], b[62] = e.Tuple.Proto, e.Tuple.Family, e.Tuple.Foreign
	return b
}

func FuzzParseEvent(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		e, ok := parseEvent(b)
		if ok != (len(b) >= eventSize) {
			t.Fatalf("%d bytes: got %t", len(b), ok)
		}
		if !ok {
			return
		}
		again, _ := parseEvent(encode(&e))
		if again != e {
			t.Fatalf("got %+v; want %+v", again, e)
		}
		_ = tupleOf(&e.Tuple)
	})
}

func FuzzPathOf(f *testing.F) {
	f.Fuzz(func(t *testing.T, names []byte, size, flags uint32) {
		path, ok := pathOf(names, size, flags)
		if ok && !strings.HasPrefix(path, "/") {
			t.Fatalf("got %q; want an absolute path", path)
		}
		if ok && int(size) > len(names) {
			t.Fatal("read beyond the end")
		}
	})
}

// What was cut off is no argument: it could be another file's name.
func TestArgsOf(t *testing.T) {
	image := func(args string) *attrImage {
		var i attrImage
		i.ArgsLen = uint32(copy(i.Args[:len(i.Args)-1], args))
		return &i
	}
	long := strings.Repeat("x", 600)
	for args, want := range map[string][]string{
		"":                                 {},
		"python3\x00/srv/a.py\x00":         {"python3", "/srv/a.py"},
		"python3\x00/srv/" + long + "\x00": {"python3"},
		long:                               {},
	} {
		if got := argsOf(image(args)); !slices.Equal(got, want) {
			t.Errorf("%.20q: got %q; want %q", args, got, want)
		}
	}
}

func TestPathOf(t *testing.T) {
	names := func(all ...string) []byte { return []byte(strings.Join(all, "\x00") + "\x00") }
	for _, test := range []struct {
		names []byte
		flags uint32
		want  string
	}{
		{names("curl", "bin", "usr"), 0, "/usr/bin/curl"},
		{nil, 0, "/"},
		{names("tool", "tmp"), imageDeleted, "/tmp/tool (deleted)"},
		{names("memfd:payload"), imagePseudo, "/memfd:payload (deleted)"},
	} {
		if got, ok := pathOf(test.names, uint32(len(test.names)), test.flags); !ok || got != test.want {
			t.Errorf("%q: got %q, %t; want %q", test.names, got, ok, test.want)
		}
	}
	if _, ok := pathOf(bytes.Repeat([]byte{'x'}, 8), pathUnknown, 0); ok {
		t.Error("a path that the kernel could not tell was told")
	}
}
