package nfq

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/weirfw/weir/pkg/packet"
)

// queued builds the message of a queued packet as the kernel does.
type queued struct {
	id   uint32
	hook uint8
	mark uint32
	// attrs come between the header and the payload.
	attrs   []byte
	payload []byte
}

func (q queued) message() []byte {
	b := appendHeader(nil, 0, subsysQueue<<8|msgPacket, 0, 17040)
	hdr := binary.BigEndian.AppendUint32(nil, q.id)
	b = appendAttr(b, attrPacketHdr, append(hdr, 8, 0, q.hook)...)
	if q.mark != 0 {
		b = appendAttr(b, attrMark, be32(q.mark)...)
	}
	b = append(b, q.attrs...)
	if q.payload != nil {
		b = appendAttr(b, attrPayload, q.payload...)
	}
	return sized(b)
}

// sized returns the single message b with its length in the header.
func sized(b []byte) []byte {
	b = bytes.Clone(b)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func join(bs ...[]byte) []byte { return bytes.Join(bs, nil) }

func TestParse(t *testing.T) {
	whole := queued{id: 7, hook: hookLocalOut, mark: 5, payload: []byte("packet!!")}.message()
	rich := queued{
		id: 9, hook: 1,
		attrs: join(
			appendAttr(nil, attrIfIn, be32(2)...), appendAttr(nil, attrIfOut, be32(3)...),
			appendAttr(nil, attrUID, be32(1000)...), appendAttr(nil, attrCapLen, be32(70000)...),
			appendAttr(nil, 99, 1, 2, 3), // from a newer kernel
			appendAttr(nil, 0x8000|19, appendAttr(nil, 1, 8, 0)...),
		),
		payload: []byte{1, 2, 3},
	}.message()
	refusal := append(appendNoop(nil), 0, 0, 0, 0)
	binary.NativeEndian.PutUint16(refusal[4:], nlmsgError)
	enoentCode := -2
	binary.NativeEndian.PutUint32(refusal[16:], uint32(enoentCode))
	refusal = sized(refusal)
	noop := appendNoop(nil)

	for _, test := range []struct {
		name string
		in   []byte
		kind messageKind
		want message
		rest int
	}{
		{"packet", whole, messagePacket, message{id: 7, hook: hookLocalOut, mark: 5, payload: []byte("packet!!")}, 0},
		{"all attributes", rich, messagePacket,
			message{id: 9, hook: 1, in: 2, out: 3, uid: 1000, hasUID: true, length: 70000, payload: []byte{1, 2, 3}}, 0},
		{"two messages", join(whole, noop), messagePacket,
			message{id: 7, hook: hookLocalOut, mark: 5, payload: []byte("packet!!")}, len(noop)},
		{"error", refusal, messageError, message{errno: 2}, 0},
		{"answer to wake", sized(append(refusal[:16:16], 0, 0, 0, 0)), messageError, message{}, 0},
		{"something else", noop, messageOther, message{}, 0},
		{"cut in the payload", whole[:len(whole)-4], messageCut, message{id: 7, hook: hookLocalOut, mark: 5}, 0},
		{"cut in the id", whole[:24], messageBad, message{}, 0},
		{"cut in the header", whole[:15], messageBad, message{}, 0},
		{"header of nothing", sized(whole[:queueHeader:queueHeader]), messageBad, message{}, 0},
		{"empty", nil, messageBad, message{}, 0},
		{"length below the header", binary.NativeEndian.AppendUint32(nil, 3), messageBad, message{}, 0},
		{"short attribute", queued{id: 7, attrs: []byte{3, 0, 3, 0}}.message(), messageCut, message{id: 7}, 0},
		{"short mark", queued{id: 7, attrs: appendAttr(nil, attrMark, 1, 2)}.message(), messageCut, message{id: 7}, 0},
		{"long attribute", queued{id: 7, attrs: []byte{9, 0, 3, 0, 0, 0, 0, 0}}.message(), messageCut, message{id: 7}, 0},
		{"bytes left over", queued{id: 7, attrs: []byte{0, 0}}.message(), messageCut, message{id: 7}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got message
			kind, rest := parse(test.in, &got)
			if kind != test.kind || len(rest) != test.rest {
				t.Fatalf("got kind %d, %d bytes left; want %d, %d", kind, len(rest), test.kind, test.rest)
			}
			if !bytes.Equal(got.payload, test.want.payload) {
				t.Errorf("got payload %q; want %q", got.payload, test.want.payload)
			}
			got.payload, test.want.payload = nil, nil
			if kind != messageBad && !equal(got, test.want) {
				t.Errorf("got %+v; want %+v", got, test.want)
			}
		})
	}
}

// equal compares messages without payload.
func equal(a, b message) bool {
	return a.id == b.id && a.hook == b.hook && a.mark == b.mark && a.in == b.in && a.out == b.out &&
		a.uid == b.uid && a.hasUID == b.hasUID && a.length == b.length && a.errno == b.errno
}

func TestMessageFill(t *testing.T) {
	for _, test := range []struct {
		hook  uint8
		dir   packet.Direction
		iface uint32
	}{{0, packet.Inbound, 2}, {1, packet.Inbound, 2}, {2, packet.Inbound, 2}, {3, packet.Outbound, 3}, {4, packet.Outbound, 3}} {
		m := message{hook: test.hook, in: 2, out: 3, mark: 4, uid: 5, hasUID: true}
		i := packet.Info{PID: 77}
		m.fill(&i)
		if m.direction() != test.dir || i.Interface != test.iface || i.Mark != 4 || i.UID != 5 || !i.HasUID || i.PID != 0 {
			t.Errorf("hook %d: got %v, %+v; want %v, interface %d", test.hook, m.direction(), i, test.dir, test.iface)
		}
	}
}

// TestAppendVerdict compares with bytes written down from nfnetlink_queue.h.
func TestAppendVerdict(t *testing.T) {
	header := func(size byte, typ byte) []byte {
		return []byte{size, 0, 0, 0, typ, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x42, 0x90, 12, 0, 2, 0}
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes are those of a little-endian machine")
	}
	for _, test := range []struct {
		name     string
		typ      uint16
		id       uint32
		nf, mark uint32
		want     []byte
	}{
		{"no mark", msgVerdict, 258, nfAccept, 0, join(header(32, 1), []byte{0, 0, 0, 1, 0, 0, 1, 2})},
		{"mark", msgVerdict, 258, nfRepeat, 1710, join(header(40, 1), []byte{0, 0, 0, 4, 0, 0, 1, 2, 8, 0, 3, 0, 0, 0, 6, 0xae})},
		{"batch", msgVerdictBatch, 1 << 31, nfDrop, 0, join(header(32, 3), []byte{0, 0, 0, 0, 0x80, 0, 0, 0})},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := appendVerdict(nil, test.typ, 17040, test.id, test.nf, test.mark); !bytes.Equal(got, test.want) {
				t.Errorf("got  %v\nwant %v", got, test.want)
			}
		})
	}
}

func TestAppendConfig(t *testing.T) {
	b := appendConfig(nil, queueParams{queue: 5, copyRange: 128, maxLen: 1000, flags: flagGSO})
	if n := binary.NativeEndian.Uint32(b); int(n) != len(b) || n%4 != 0 {
		t.Errorf("got length %d of %d bytes; want all, padded", n, len(b))
	}
	got := map[uint16][]byte{}
	for a := b[queueHeader:]; len(a) > 0; {
		size := binary.NativeEndian.Uint16(a)
		got[binary.NativeEndian.Uint16(a[2:])] = a[attrHeader:size]
		a = a[align4(int(size)):]
	}
	for typ, want := range map[uint16][]byte{
		cfgCmd: {cmdBind, 0, 0, 0}, cfgParams: {0, 0, 0, 128, copyPacket}, cfgMaxLen: be32(1000),
		cfgFlags: be32(4), cfgMask: be32(4),
	} {
		if !bytes.Equal(got[typ], want) {
			t.Errorf("attribute %d: got %v; want %v", typ, got[typ], want)
		}
	}
}

// FuzzMessage feeds the parser: no input may make it panic, read outside its
// input, or not come to an end.
func FuzzMessage(f *testing.F) {
	f.Add(queued{id: 7, hook: 3, mark: 5, payload: []byte("packet!!")}.message())
	f.Add(join(queued{id: 1}.message(), queued{id: 2, attrs: []byte{3, 0, 3, 0}}.message(), appendNoop(nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			var m, again message
			kind, rest := parse(b, &m)
			if len(rest) >= len(b) {
				t.Fatalf("got %d bytes left of %d; want fewer", len(rest), len(b))
			}
			if len(m.payload) > len(b) {
				t.Fatalf("got a payload of %d bytes from %d", len(m.payload), len(b))
			}
			if kind == messagePacket {
				// What is built from what was read reads the same.
				built := queued{id: m.id, hook: m.hook, mark: m.mark, payload: m.payload}.message()
				if k, _ := parse(built, &again); k != kind || again.id != m.id || again.mark != m.mark || !bytes.Equal(again.payload, m.payload) {
					t.Fatalf("got %+v after another round; want %+v", again, m)
				}
			}
			b = rest
		}
	})
}
