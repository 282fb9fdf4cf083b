package stream_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/weirfw/weir/internal/kextwire"
	"github.com/weirfw/weir/internal/kextwire/stream"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/packet"
)

func TestInfoVectors(t *testing.T) {
	for _, v := range infoVectors {
		t.Run(v.name, func(t *testing.T) {
			b := testutil.Hex(t, v.vector)
			var d stream.Decoder
			var i stream.Info
			d.Feed(b)
			if ok, err := d.Next(&i); !ok || err != nil {
				t.Fatalf("got %v, %v; want an info", ok, err)
			}
			v.check(t, &i)
			if ok, err := d.Next(&i); ok || err != nil {
				t.Errorf("got %v, %v behind the info; want nothing", ok, err)
			}
			if got := v.encode(); !bytes.Equal(got, b) {
				t.Errorf("the driver's side:\n got % x\nwant % x", got, b)
			}
		})
	}
}

func TestCommandVectors(t *testing.T) {
	for _, v := range commandVectors {
		t.Run(v.name, func(t *testing.T) {
			b := testutil.Hex(t, v.vector)
			if got := stream.AppendCommand(nil, &v.command); !bytes.Equal(got, b) {
				t.Errorf("got % x; want % x", got, b)
			}
			var c stream.Command
			if err := stream.DecodeCommand(b, &c); err != nil || c != v.command {
				t.Errorf("the driver's side: got %+v, %v; want %+v", c, err, v.command)
			}
			if len(b) > stream.MaxCommand {
				t.Errorf("%d bytes; want at most MaxCommand", len(b))
			}
			for n := range b {
				if err := stream.DecodeCommand(b[:n], &c); !errors.Is(err, kextwire.ErrSize) {
					t.Errorf("cut to %d bytes: got %v; want ErrSize", n, err)
				}
			}
			if err := stream.DecodeCommand(append(b, 0), &c); !errors.Is(err, kextwire.ErrSize) {
				t.Errorf("a byte more: got %v; want ErrSize", err)
			}
		})
	}
	var c stream.Command
	for id := 9; id < 256; id++ {
		if err := stream.DecodeCommand([]byte{byte(id)}, &c); !errors.Is(err, kextwire.ErrUnknown) {
			t.Errorf("command %d: got %v; want ErrUnknown", id, err)
		}
	}
}

// AppendUpdate takes the command from the addresses.
func TestAppendUpdate(t *testing.T) {
	for _, v := range commandVectors {
		if v.command.ID != stream.CommandUpdate4 && v.command.ID != stream.CommandUpdate6 {
			continue
		}
		got, err := stream.AppendUpdate(nil, &v.command.Tuple, v.command.Verdict)
		if want := testutil.Hex(t, v.vector); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got % x, %v; want % x", v.name, got, err, want)
		}
	}
	mixed := tuple(packet.TCP, "10.0.0.1:1", "[fd00::1]:2")
	for _, tu := range []packet.Tuple{{}, mixed, mixed.Reverse()} {
		if got, err := stream.AppendUpdate([]byte{1}, &tu, 3); !errors.Is(err, kextwire.ErrAddress) || len(got) != 1 {
			t.Errorf("%v: got % x, %v; want ErrAddress and nothing appended", tu, got, err)
		}
	}
}

// all returns all vectors of infos as one stream.
func all(t testing.TB) []byte {
	var b []byte
	for _, v := range infoVectors {
		b = append(b, testutil.Hex(t, v.vector)...)
	}
	return b
}

// drain takes what the decoder has and renders it by the driver's side: payloads live until the next call only.
func drain(t testing.TB, d *stream.Decoder, out []byte) (grown []byte, bad int) {
	t.Helper()
	var i stream.Info
	for {
		ok, err := d.Next(&i)
		switch {
		case err != nil:
			if !errors.Is(err, kextwire.ErrSize) {
				t.Fatalf("got %v; want ErrSize", err)
			}
			bad++
		case !ok:
			return out, bad
		default:
			out = render(out, &i)
		}
	}
}

// render is the info as the driver sends it.
func render(b []byte, i *stream.Info) []byte {
	switch i.Kind {
	case stream.KindLog:
		return stream.AppendLog(b, i.Log)
	case stream.KindConnection4, stream.KindConnection6:
		return stream.AppendConnection(b, i.Kind, &i.Connection)
	case stream.KindEnd4, stream.KindEnd6:
		return stream.AppendEnd(b, i.Kind, &i.End)
	case stream.KindBandwidth4, stream.KindBandwidth6:
		var usage []stream.Usage
		for n := range i.Bandwidth.Len() {
			usage = append(usage, i.Bandwidth.At(n))
		}
		var p packet.Protocol
		if len(usage) > 0 {
			p = usage[0].Tuple.Protocol
		}
		return stream.AppendBandwidth(b, i.Kind, p, usage)
	}
	return b
}

// withoutProtocol is the stream with the protocol of empty bandwidth reports cleared, which render cannot know.
func withoutProtocol(b []byte) []byte {
	return bytes.ReplaceAll(b, []byte{5, 5, 0, 0, 0, 6, 0, 0, 0, 0}, []byte{5, 5, 0, 0, 0, 0, 0, 0, 0, 0})
}

// An info may span reads: the stream is split at every byte, and into parts of every size.
func TestSplitAnywhere(t *testing.T) {
	whole := all(t)
	want := withoutProtocol(whole)
	for at := range len(whole) + 1 {
		var d stream.Decoder
		var got []byte
		for _, part := range [][]byte{whole[:at], whole[at:]} {
			d.Feed(bytes.Clone(part))
			got, _ = drain(t, &d, got)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("split at %d:\n got % x\nwant % x", at, got, want)
		}
	}
	for size := 1; size <= len(whole); size++ {
		var d stream.Decoder
		var got []byte
		part := make([]byte, size) // one buffer for all reads, as in a backend
		for rest := whole; len(rest) > 0; {
			n := copy(part, rest)
			d.Feed(part[:n])
			got, _ = drain(t, &d, got)
			rest = rest[n:]
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("parts of %d:\n got % x\nwant % x", size, got, want)
		}
	}
}

// badInfos are infos that make no sense; each is skipped by its length.
var badInfos = []struct{ name, vector string }{
	{"connection v4 a byte short", `01 22000000 0100000000000000 0000000000000000 0111 0a000001 0a000002 3500 3412 00 000000`},
	{"connection v4 with less payload than it says", `01 24000000 0100000000000000 0000000000000000 0111 0a000001 0a000002 3500 3412 04 02000000 aa`},
	{"connection v4 with more payload than it says", `01 25000000 0100000000000000 0000000000000000 0111 0a000001 0a000002 3500 3412 04 01000000 aabb`},
	{"connection v4 with 4 GiB of payload", `01 23000000 0100000000000000 0000000000000000 0111 0a000001 0a000002 3500 3412 04 ffffffff`},
	{"connection v6 of the size of v4", `02 23000000 0100000000000000 0000000000000000 0111 0a000001 0a000002 3500 3412 00 00000000`},
	{"end v4 a byte short", `03 15000000 6712000000000000 0006 c0a80164 5db8d822 50c3 bb`},
	{"end v4 a byte long", `03 17000000 6712000000000000 0006 c0a80164 5db8d822 50c3 bb01 00`},
	{"end v6 without a body", `04 00000000`},
	{"log without a severity", `00 00000000`},
	{"bandwidth without a count", `05 04000000 06 000000`},
	{"bandwidth with one connection too few", `05 05000000 06 01000000`},
	{"bandwidth with 4 G connections", `06 05000000 11 ffffffff`},
	// 0x24924925 entries of 28 bytes are 16 GiB and 12 bytes: 32 bits would take it for 12.
	{"bandwidth with a count that overflows", `05 11000000 06 25499224 000000000000000000000000`},
	{"bandwidth with half a connection more", `05 13000000 06 00000000 0000000000000000000000000000`},
}

func TestBadInfosAreSkipped(t *testing.T) {
	good := testutil.Hex(t, infoVectors[2].vector)
	for _, v := range badInfos {
		t.Run(v.name, func(t *testing.T) {
			b := testutil.Hex(t, v.vector)
			if n := binary.LittleEndian.Uint32(b[1:]); int(n) != len(b)-5 {
				t.Fatalf("the vector says %d bytes and has %d", n, len(b)-5)
			}
			for size := 1; size <= len(b)+len(good); size++ {
				var d stream.Decoder
				var got []byte
				bad := 0
				for part := range bytesIn(append(bytes.Clone(b), good...), size) {
					var n int
					d.Feed(part)
					got, n = drain(t, &d, got)
					bad += n
				}
				if bad != 1 || !bytes.Equal(got, good) {
					t.Fatalf("parts of %d: got %d errors, then % x; want 1, then % x", size, bad, got, good)
				}
			}
		})
	}
}

// bytesIn cuts b into parts.
func bytesIn(b []byte, size int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			n := min(size, len(b))
			if !yield(b[:n:n]) {
				return
			}
			b = b[n:]
		}
	}
}

// Types of a later driver are no error.
func TestUnknownInfosAreSkipped(t *testing.T) {
	good := testutil.Hex(t, infoVectors[0].vector)
	for kind := 7; kind < 256; kind++ {
		b := append([]byte{byte(kind), 3, 0, 0, 0, 1, 2, 3}, good...)
		var d stream.Decoder
		d.Feed(b)
		if got, bad := drain(t, &d, nil); bad != 0 || !bytes.Equal(got, good) {
			t.Errorf("kind %d: got %d errors, then % x; want 0, then % x", kind, bad, got, good)
		}
	}
}

// A body that is too long is skipped as it comes, and takes no memory.
func TestLongBodiesAreNotKept(t *testing.T) {
	const length = stream.MaxBody + 1
	good := testutil.Hex(t, infoVectors[2].vector)
	for name, kind := range map[string]byte{"known": 1, "unknown": 99} {
		t.Run(name, func(t *testing.T) {
			var d stream.Decoder
			head := binary.LittleEndian.AppendUint32([]byte{kind}, length)
			part := make([]byte, 64<<10)
			run := func() (got []byte, bad int) {
				d.Feed(head)
				got, bad = drain(t, &d, nil)
				for sent := 0; sent < length; sent += len(part) {
					d.Feed(part[:min(len(part), length-sent)])
					more, n := drain(t, &d, nil)
					got, bad = append(got, more...), bad+n
				}
				return got, bad
			}
			if got, bad := run(); len(got) != 0 || bad != map[string]int{"known": 1, "unknown": 0}[name] {
				t.Errorf("got % x and %d errors", got, bad)
			}
			d.Feed(good)
			if got, bad := drain(t, &d, nil); bad != 0 || !bytes.Equal(got, good) {
				t.Errorf("behind it got % x, %d errors; want % x", got, bad, good)
			}
			allocs := testing.AllocsPerRun(3, func() { run() })
			if allocs > 20 { // of errors, and none of the size of a body: see FuzzDecoder
				t.Errorf("got %v allocations", allocs)
			}
		})
	}
}

func TestLongestBody(t *testing.T) {
	text := make([]byte, stream.MaxBody-1)
	text[len(text)-1] = 'x'
	b := stream.AppendLog(nil, stream.Log{Severity: 1, Text: text})
	var d stream.Decoder
	var i stream.Info
	seen := 0
	for part := range bytesIn(b, 100_000) {
		d.Feed(part)
		ok, err := d.Next(&i)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			seen++
		}
	}
	if seen != 1 || !bytes.Equal(i.Log.Text, text) {
		t.Errorf("got %d infos, the text is the same: %v; want 1, true", seen, bytes.Equal(i.Log.Text, text))
	}
}

// What a packet costs on its way: nothing but time.
func TestNoAllocations(t *testing.T) {
	b := append(testutil.Hex(t, infoVectors[3].vector), testutil.Hex(t, infoVectors[4].vector)...)
	var d stream.Decoder
	var i stream.Info
	if n := testing.AllocsPerRun(1000, func() {
		d.Feed(b)
		for ok := true; ok; {
			ok, _ = d.Next(&i)
		}
	}); n != 0 {
		t.Errorf("decoding connections: got %v allocations; want 0", n)
	}
	out := make([]byte, 0, stream.MaxCommand)
	tu := conn6.Tuple
	if n := testing.AllocsPerRun(1000, func() {
		out = stream.AppendVerdict(out[:0], 7, stream.VerdictAccept)
		out, _ = stream.AppendUpdate(out[:0], &tu, stream.VerdictAccept)
	}); n != 0 {
		t.Errorf("encoding a verdict and an update: got %v allocations; want 0", n)
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, bench := range []struct {
		name string
		info []byte
	}{
		{"connection v4", testutil.Hex(b, infoVectors[3].vector)},
		{"connection v6", stream.AppendConnection(nil, stream.KindConnection6, &stream.Connection{Tuple: conn6.Tuple})},
		{"connection v4 with 60 bytes", stream.AppendConnection(nil, stream.KindConnection4,
			&stream.Connection{Tuple: conn4.Tuple, Layer: stream.LayerNetwork, Payload: make([]byte, 60)})},
	} {
		b.Run(bench.name, func(b *testing.B) {
			const burst = 100
			in := bytes.Repeat(bench.info, burst)
			var d stream.Decoder
			var i stream.Info
			b.ReportAllocs()
			seen := 0
			for b.Loop() {
				d.Feed(in)
				for {
					ok, err := d.Next(&i)
					if err != nil {
						b.Fatal(err)
					}
					if !ok {
						break
					}
					seen++
				}
			}
			b.ReportMetric(float64(seen)/b.Elapsed().Seconds(), "infos/s")
		})
	}
}

func BenchmarkAppendVerdict(b *testing.B) {
	out := make([]byte, 0, stream.MaxCommand)
	b.ReportAllocs()
	for id := uint64(0); b.Loop(); id++ {
		out = stream.AppendVerdict(out[:0], id, stream.VerdictPermanentAccept)
	}
}
