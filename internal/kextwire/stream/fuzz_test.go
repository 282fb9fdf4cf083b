package stream

import (
	"bytes"
	"errors"
	"testing"

	"github.com/weirfw/weir/internal/kextwire"
	"github.com/weirfw/weir/pkg/packet"
)

// FuzzDecoder feeds a stream in parts of the given size and whole: the results must be the same, whatever the bytes are, and
// no memory is taken beyond the length of the info at hand.
func FuzzDecoder(f *testing.F) {
	t := packet.Tuple{Protocol: packet.TCP}
	seed := AppendLog(nil, Log{Severity: SeverityInfo, Text: []byte("x")})
	seed = AppendConnection(seed, KindConnection6, &Connection{ID: 1, Tuple: t, Layer: LayerNetwork, Payload: []byte{1, 2}})
	seed = AppendEnd(seed, KindEnd4, &End{Tuple: t})
	seed = append(seed, 99, 2, 0, 0, 0, 1, 2)
	seed = AppendBandwidth(seed, KindBandwidth4, packet.UDP, []Usage{{Transmitted: 1, Received: 2}})
	f.Add(seed, 7)
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 1, 2, 3}, 1)
	f.Add([]byte{5, 17, 0, 0, 0, 6, 0x25, 0x49, 0x92, 0x24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 3)
	f.Add([]byte{5, 0, 0, 0, 1}, 2)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		if size < 1 {
			size = 1
		}
		var whole, parts Decoder
		whole.Feed(in)
		want := summary(t, &whole, nil)
		var got []byte
		for rest := in; len(rest) > 0; {
			n := min(size, len(rest))
			parts.Feed(bytes.Clone(rest[:n]))
			got = summary(t, &parts, got)
			rest = rest[n:]
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("parts of %d:\n got % x\nwant % x", size, got, want)
		}
	})
}

// summary encodes what the decoder finds, with a byte for each error, and checks the decoder's memory at each step.
func summary(t *testing.T, d *Decoder, out []byte) []byte {
	var i Info
	for {
		ok, err := d.Next(&i)
		if limit := headSize + MaxBody; cap(d.carry) > limit {
			t.Fatalf("got %d bytes of memory; want at most %d", cap(d.carry), limit)
		}
		if n := len(d.carry); n >= headSize {
			if claimed := headSize + int(uint32(d.carry[1])|uint32(d.carry[2])<<8|uint32(d.carry[3])<<16|uint32(d.carry[4])<<24); cap(d.carry) > claimed+maxCarry {
				t.Fatalf("got %d bytes of memory for an info of %d; want at most 64 KiB more", cap(d.carry), claimed)
			}
		}
		switch {
		case err != nil:
			if !errors.Is(err, kextwire.ErrSize) {
				t.Fatalf("got %v; want ErrSize", err)
			}
			out = append(out, 0xee)
		case !ok:
			return out
		default:
			out = again(t, out, &i)
		}
	}
}

// again encodes the info and checks that decoding that gives the same bytes.
func again(t *testing.T, out []byte, i *Info) []byte {
	b := encode(i)
	var d Decoder
	var second Info
	d.Feed(b)
	if ok, err := d.Next(&second); !ok || err != nil {
		t.Fatalf("kind %d: got %v, %v for its own encoding % x", i.Kind, ok, err, b)
	}
	if other := encode(&second); !bytes.Equal(b, other) {
		t.Fatalf("kind %d: got % x, then % x", i.Kind, b, other)
	}
	return append(out, b...)
}

func encode(i *Info) []byte {
	switch i.Kind {
	case KindLog:
		return AppendLog(nil, i.Log)
	case KindConnection4, KindConnection6:
		return AppendConnection(nil, i.Kind, &i.Connection)
	case KindEnd4, KindEnd6:
		return AppendEnd(nil, i.Kind, &i.End)
	case KindBandwidth4, KindBandwidth6:
		var usage []Usage
		for n := range i.Bandwidth.Len() {
			usage = append(usage, i.Bandwidth.At(n))
		}
		return AppendBandwidth(nil, i.Kind, i.Bandwidth.protocol, usage)
	}
	return nil
}

// FuzzCommand is the driver's side of what a client writes.
func FuzzCommand(f *testing.F) {
	f.Add([]byte{0})
	f.Add(AppendVerdict(nil, 7, VerdictRerouteToSplitTun))
	f.Add(AppendCommand(nil, &Command{ID: CommandUpdate4, Verdict: VerdictFailed}))
	f.Add(AppendCommand(nil, &Command{ID: CommandUpdate6, Verdict: VerdictBlock}))
	f.Add([]byte{9})
	f.Fuzz(func(t *testing.T, in []byte) {
		var c, second Command
		if err := DecodeCommand(in, &c); err != nil {
			if !errors.Is(err, kextwire.ErrSize) && !errors.Is(err, kextwire.ErrUnknown) {
				t.Fatalf("got %v; want ErrSize or ErrUnknown", err)
			}
			return
		}
		b := AppendCommand(nil, &c)
		if err := DecodeCommand(b, &second); err != nil || second != c || len(b) != len(in) {
			t.Fatalf("% x: got %+v, which is % x and %+v, %v", in, c, b, second, err)
		}
	})
}
