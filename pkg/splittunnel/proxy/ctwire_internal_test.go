package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/weirfw/weir/pkg/packet"
)

// exchangesSeen are questions and what Linux 6.18 on amd64 answered, for the second connection of a client's port.
var exchangesSeen = []struct {
	name          string
	reply         ctTuple
	orig          ctTuple
	ask, answered string
}{
	{
		"IPv4",
		ctTuple{packet.UDP, netip.MustParseAddrPort("127.0.0.17:719"), netip.MustParseAddrPort("10.9.0.1:14024")},
		ctTuple{packet.UDP, netip.MustParseAddrPort("10.9.0.1:5000"), netip.MustParseAddrPort("203.0.113.2:54")},
		"48000000010101000700000000000000020000003400028014000180080001007f000011080002000a0900011c00028005000100110000000600020" +
			"002cf00000600030036c80000",
		"a400000000010200070000009c540000020000003400018014000180080001000a09000108000200cb0071021c000280050001001100000006000" +
			"2001388000006000300003600003400028014000180080001007f000011080002000a0900011c00028005000100110000000600020002cf" +
			"00000600030036c8000008000300000001b8080008000000000008000c0038e7cdd308000b0000000002080007000000001e",
	},
	{
		"IPv6",
		ctTuple{packet.UDP, netip.MustParseAddrPort("[::1]:719"), netip.MustParseAddrPort("[fd99::1]:58638")},
		ctTuple{packet.UDP, netip.MustParseAddrPort("[fd99::1]:5000"), netip.MustParseAddrPort("[2001:db8::2]:54")},
		"600000000101010007000000000000000a0000004c0002802c000180140003000000000000000000000000000000000114000400fd990000000" +
			"0000000000000000000011c00028005000100110000000600020002cf000006000300e50e0000",
		"d400000000010200070000009c5400000a0000004c0001802c00018014000300fd9900000000000000000000000000011400040020010db80000" +
			"000000000000000000021c0002800500010011000000060002001388000006000300003600004c0002802c0001801400030000000000000" +
			"00000000000000000000114000400fd9900000000000000000000000000011c00028005000100110000000600020002cf000006000300e5" +
			"0e000008000300000001b8080008000000000008000c0080301d2308000b0000000002080007000000001e",
	},
}

func littleEndian(t testing.TB) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes were recorded on a little-endian machine")
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConntrackWire(t *testing.T) {
	littleEndian(t)
	for _, c := range exchangesSeen {
		t.Run(c.name, func(t *testing.T) {
			if got := appendCtAsk(nil, 7, c.reply); hex.EncodeToString(got) != c.ask {
				t.Errorf("got question\n%x; want\n%s", got, c.ask)
			}
			orig, reply, known, err := decodeCtAnswer(unhex(t, c.answered), 7)
			if orig != c.orig || reply != c.reply || !known || err != nil {
				t.Errorf("got %v, %v, %v, %v; want %v, %v", orig, reply, known, err, c.orig, c.reply)
			}
			if _, _, known, err = decodeCtAnswer(unhex(t, c.answered), 8); known || err != nil {
				t.Errorf("another question's answer: got %v, %v; want false", known, err)
			}
			// No part of the answer is mistaken for the whole.
			whole := unhex(t, c.answered)
			for n := range len(whole) {
				cut := slices.Clone(whole[:n])
				if _, _, _, err := decodeCtAnswer(cut, 7); !errors.Is(err, errCtMessage) {
					t.Fatalf("%d bytes: got error %v; want %v", n, err, errCtMessage)
				}
			}
			ask := make([]byte, 0, 256)
			if n := testing.AllocsPerRun(100, func() { ask = appendCtAsk(ask[:0], 7, c.reply) }); n != 0 {
				t.Errorf("question: got %v allocations; want 0", n)
			}
			if n := testing.AllocsPerRun(100, func() { _, _, _, _ = decodeCtAnswer(whole, 7) }); n != 0 {
				t.Errorf("answer: got %v allocations; want 0", n)
			}
		})
	}
}

func TestConntrackErrors(t *testing.T) {
	message := func(typ uint16, body ...byte) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
		b = binary.NativeEndian.AppendUint16(b, typ)
		b = append(b, 0, 0)
		b = binary.NativeEndian.AppendUint32(b, 7)
		return append(append(b, 0, 0, 0, 0), body...)
	}
	number := func(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"ENOENT", message(nlErrorType, number(-2)...), syscall.ENOENT},
		{"EPERM", message(nlErrorType, number(-1)...), syscall.Errno(1)}, // Linux' number, whatever system this is
		{"acknowledgement", message(nlErrorType, number(0)...), errCtMessage},
		{"smallest number", message(nlErrorType, number(-1<<31)...), errCtMessage},
		{"error without number", message(nlErrorType), errCtMessage},
		{"another type", message(3, 0, 0, 0, 0), errCtMessage},
		{"no attributes", message(ctMsgNew, 2, 0, 0, 0), errCtMessage},
		{"bad attribute", message(ctMsgNew, 2, 0, 0, 0, 3, 0, 1, 0), errCtMessage},
	} {
		if _, _, _, err := decodeCtAnswer(c.b, 7); !errors.Is(err, c.want) {
			t.Errorf("%s: got error %v; want %v", c.name, err, c.want)
		}
	}
}

func FuzzDecodeCtAnswer(f *testing.F) {
	for _, c := range exchangesSeen {
		f.Add(unhex(f, c.answered))
		f.Add(unhex(f, c.ask))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		orig, reply, known, err := decodeCtAnswer(b, 7)
		if err != nil || !known {
			if orig != (ctTuple{}) || reply != (ctTuple{}) {
				t.Errorf("got %v, %v with error %v; want nothing", orig, reply, err)
			}
			return
		}
		for _, tuple := range []ctTuple{orig, reply} {
			if !tuple.src.IsValid() || !tuple.dst.IsValid() || tuple.src.Addr().Is4() != tuple.dst.Addr().Is4() {
				t.Errorf("got %v", tuple)
			}
			// What we would ask about it is read as the same.
			ask := appendCtAsk(nil, 1, tuple)
			if _, value, _, err := nextAttr(ask[nlHeaderLen+nfHeaderLen:]); err != nil {
				t.Errorf("got %v", err)
			} else if again, err := decodeCtTuple(value); again != tuple || err != nil {
				t.Errorf("got %v, %v; want %v", again, err, tuple)
			}
		}
	})
}
