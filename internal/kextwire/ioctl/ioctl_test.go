package ioctl_test

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/weirfw/weir/internal/kextwire"
	"github.com/weirfw/weir/internal/kextwire/ioctl"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/packet"
)

// The vectors of this file were typed by hand from the tables of the protocol. None of them came out of an encoder, and none
// may.

func tuple(p packet.Protocol, local, remote string) packet.Tuple {
	return packet.Tuple{Protocol: p, Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote)}
}

var (
	tuple4 = tuple(packet.TCP, "1.2.3.4:50000", "93.184.216.34:443")
	tuple6 = tuple(packet.UDP, "[2001:db8::1]:443", "[fe80::1234:5678:9abc:def0]:1")
)

const (
	// words4 and words6 are the two addresses of tuple4 and tuple6, and then their ports.
	words4 = `04030201 00000000 00000000 00000000 # 1.2.3.4
		22d8b85d 00000000 00000000 00000000       # 93.184.216.34
		50c3 bb01                                 # 50000, 443
		`
	words6 = `b80d0120 00000000 00000000 01000000 # 2001:0db8 0000:0000 0000:0000 0000:0001
		000080fe 00000000 78563412 f0debc9a       # fe80:0000 0000:0000 1234:5678 9abc:def0
		bb01 0100                                 # 443, 1
		`
)

func TestCodes(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uint32
	}{
		{"version", kextwire.CodeVersion, 0x9c40e000},
		{"shutdown", ioctl.CodeShutdown, 0x9c40e004},
		{"receive", ioctl.CodeReceive, 0x9c40e008},
		{"set verdict", ioctl.CodeSetVerdict, 0x9c40e00c},
		{"get payload", ioctl.CodeGetPayload, 0x9c40e010},
		{"clear cache", ioctl.CodeClearCache, 0x9c40e014},
		{"update verdict", ioctl.CodeUpdateVerdict, 0x9c40e018},
		{"get stats", ioctl.CodeGetStats, 0x9c40e01c},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %#x; want %#x", c.name, c.got, c.want)
		}
	}
}

var requests = []struct {
	name, vector string
	want         ioctl.Request
}{
	{
		"v4", `efbeadde 00000000        # id, padding
		6712000000000000         # pid 4711
		00 00 06 05              # outbound, IPv4, TCP, fast-tracked and expects socket auth
		` + words4 + `
		01000000 0c000000 02000000 3c000000 # compartment, interface, sub-interface, size`,
		ioctl.Request{
			ID: 0xdeadbeef, PID: 4711, Direction: packet.Outbound, Version: 4, Flags: 5, Tuple: tuple4,
			Compartment: 1, Interface: 12, SubInterface: 2, PacketSize: 60,
		},
	},
	{
		"v6", `00000000 00000000
		0100000001000000
		01 01 11 02              # inbound, IPv6, UDP, socket auth
		` + words6 + `
		00000000 00000000 00000000 dc050000`,
		ioctl.Request{
			PID: 0x1_0000_0001, Direction: packet.Inbound, Version: 6, Flags: 2, Tuple: tuple6, PacketSize: 1500,
		},
	},
}

func TestRequest(t *testing.T) {
	for _, v := range requests {
		t.Run(v.name, func(t *testing.T) {
			// The ports of a request lie behind both addresses, as words4 and words6 have them.
			b := testutil.Hex(t, v.vector)
			if len(b) != 72 {
				t.Fatalf("the vector has %d bytes; want 72", len(b))
			}
			var got ioctl.Request
			if err := ioctl.DecodeRequest(b, &got); err != nil || got != v.want {
				t.Errorf("got %+v, %v; want %+v", got, err, v.want)
			}
			if again := ioctl.AppendRequest(nil, &v.want); !bytes.Equal(again, b) {
				t.Errorf("the driver's side:\n got % x\nwant % x", again, b)
			}
			for _, wrong := range [][]byte{nil, b[:71], append(bytes.Clone(b), 0)} {
				if err := ioctl.DecodeRequest(wrong, &got); !errors.Is(err, kextwire.ErrSize) {
					t.Errorf("%d bytes: got %v; want ErrSize", len(wrong), err)
				}
			}
		})
	}
	// Every byte above 0 is inbound and IPv6; what lies in the padding and behind an IPv4 address does not matter.
	b := testutil.Hex(t, requests[0].vector)
	b[16], b[4], b[7], b[24], b[51] = 0x80, 0xff, 0xff, 0xff, 0xff
	var got ioctl.Request
	want := requests[0].want
	want.Direction = packet.Inbound
	if err := ioctl.DecodeRequest(b, &got); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestVerdictSet(t *testing.T) {
	for _, v := range []struct {
		vector string
		want   ioctl.VerdictSet
	}{
		{`efbeadde fe 000000`, ioctl.VerdictSet{ID: 0xdeadbeef, Verdict: -2}},
		{`01000000 08 000000`, ioctl.VerdictSet{ID: 1, Verdict: 8}},
	} {
		b := testutil.Hex(t, v.vector)
		if got := ioctl.AppendVerdictSet(nil, v.want); !bytes.Equal(got, b) {
			t.Errorf("got % x; want % x", got, b)
		}
		if got, err := ioctl.DecodeVerdictSet(b); err != nil || got != v.want {
			t.Errorf("the driver's side: got %+v, %v; want %+v", got, err, v.want)
		}
		if _, err := ioctl.DecodeVerdictSet(b[:5]); !errors.Is(err, kextwire.ErrSize) {
			t.Errorf("5 bytes: got %v; want ErrSize", err)
		}
	}
}

func TestPayloadGet(t *testing.T) {
	b, want := testutil.Hex(t, `efbeadde dc050000`), ioctl.PayloadGet{ID: 0xdeadbeef, Length: 1500}
	if got := ioctl.AppendPayloadGet(nil, want); !bytes.Equal(got, b) {
		t.Errorf("got % x; want % x", got, b)
	}
	if got, err := ioctl.DecodePayloadGet(b); err != nil || got != want {
		t.Errorf("the driver's side: got %+v, %v; want %+v", got, err, want)
	}
	if _, err := ioctl.DecodePayloadGet(b[:7]); !errors.Is(err, kextwire.ErrSize) {
		t.Errorf("7 bytes: got %v; want ErrSize", err)
	}
}

func TestUpdate(t *testing.T) {
	for _, v := range []struct {
		name, vector string
		want         ioctl.Update
	}{
		{"v4", words4 + `00 06 03 00 # IPv4, TCP, block`, ioctl.Update{Tuple: tuple4, Version: 4, Verdict: 3}},
		{"v6", words6 + `01 11 08 00 # IPv6, UDP, reroute to split tunnel`, ioctl.Update{Tuple: tuple6, Version: 6, Verdict: 8}},
	} {
		t.Run(v.name, func(t *testing.T) {
			b := testutil.Hex(t, v.vector)
			if len(b) != 40 {
				t.Fatalf("the vector has %d bytes; want 40", len(b))
			}
			if got, err := ioctl.AppendUpdate(nil, &v.want.Tuple, v.want.Verdict); err != nil || !bytes.Equal(got, b) {
				t.Errorf("got % x, %v; want % x", got, err, b)
			}
			if got, err := ioctl.DecodeUpdate(b); err != nil || got != v.want {
				t.Errorf("the driver's side: got %+v, %v; want %+v", got, err, v.want)
			}
			if _, err := ioctl.DecodeUpdate(b[:39]); !errors.Is(err, kextwire.ErrSize) {
				t.Errorf("39 bytes: got %v; want ErrSize", err)
			}
		})
	}
	mixed := packet.Tuple{Local: tuple4.Local, Remote: tuple6.Remote}
	for _, tu := range []packet.Tuple{{}, mixed, mixed.Reverse()} {
		if got, err := ioctl.AppendUpdate([]byte{1}, &tu, 3); !errors.Is(err, kextwire.ErrAddress) || len(got) != 1 {
			t.Errorf("%v: got % x, %v; want ErrAddress and nothing appended", tu, got, err)
		}
	}
}

func TestStats(t *testing.T) {
	if got, want := ioctl.AppendStatsGet(nil, 1024), testutil.Hex(t, `0004000000000000`); !bytes.Equal(got, want) {
		t.Errorf("got % x; want % x", got, want)
	}
	if n, err := ioctl.DecodeStatsGet(testutil.Hex(t, `0004000000000000`)); err != nil || n != 1024 {
		t.Errorf("the driver's side: got %d, %v; want 1024", n, err)
	}
	if _, err := ioctl.DecodeStatsGet(nil); !errors.Is(err, kextwire.ErrSize) {
		t.Errorf("no bytes: got %v; want ErrSize", err)
	}
	const received, transmitted = `0504030201000000 `, `e803000000000000 `
	b := testutil.Hex(t, words4+`00000000 # padding
		`+received+transmitted+`00 06 000000000000 # IPv4, TCP, padding
		`+words6+`00000000
		`+received+transmitted+`01 11 000000000000 # IPv6, UDP`)
	if len(b) != 2*64 {
		t.Fatalf("the vector has %d bytes; want 128", len(b))
	}
	want := []ioctl.Stat{
		{Tuple: tuple4, Version: 4, Received: 0x0102030405, Transmitted: 1000},
		{Tuple: tuple6, Version: 6, Received: 0x0102030405, Transmitted: 1000},
	}
	n, err := ioctl.CountStats(b)
	if err != nil || n != len(want) {
		t.Fatalf("got %d, %v; want %d", n, err, len(want))
	}
	var again []byte
	for n, w := range want {
		if got := ioctl.StatAt(b, n); got != w {
			t.Errorf("entry %d: got %+v; want %+v", n, got, w)
		}
		again = ioctl.AppendStat(again, &w)
	}
	if !bytes.Equal(again, b) {
		t.Errorf("the driver's side:\n got % x\nwant % x", again, b)
	}
	for _, size := range []int{1, 63, 65, 127} {
		if _, err := ioctl.CountStats(b[:size]); !errors.Is(err, kextwire.ErrSize) {
			t.Errorf("%d bytes: got %v; want ErrSize", size, err)
		}
	}
	if n, err := ioctl.CountStats(nil); err != nil || n != 0 {
		t.Errorf("no bytes: got %d, %v; want 0", n, err)
	}
}

func TestNoAllocations(t *testing.T) {
	b := testutil.Hex(t, requests[1].vector)
	var r ioctl.Request
	out := make([]byte, 0, ioctl.UpdateSize)
	if n := testing.AllocsPerRun(1000, func() {
		_ = ioctl.DecodeRequest(b, &r)
		out = ioctl.AppendVerdictSet(out[:0], ioctl.VerdictSet{ID: r.ID, Verdict: -2})
		out, _ = ioctl.AppendUpdate(out[:0], &r.Tuple, 2)
	}); n != 0 {
		t.Errorf("got %v allocations; want 0", n)
	}
}

// FuzzRequest: what was decoded, encoded and decoded again is the same.
func FuzzRequest(f *testing.F) {
	for _, v := range requests {
		f.Add(testutil.Hex(f, v.vector))
	}
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, second ioctl.Request
		if err := ioctl.DecodeRequest(b, &r); err != nil {
			if !errors.Is(err, kextwire.ErrSize) || len(b) == ioctl.RequestSize {
				t.Fatalf("%d bytes: got %v", len(b), err)
			}
			return
		}
		if err := ioctl.DecodeRequest(ioctl.AppendRequest(nil, &r), &second); err != nil || second != r {
			t.Fatalf("% x: got %+v, then %+v, %v", b, r, second, err)
		}
	})
}

// FuzzStats takes any answer to the question for statistics.
func FuzzStats(f *testing.F) {
	f.Add(ioctl.AppendStat(nil, &ioctl.Stat{Tuple: tuple4, Version: 4, Received: 1}))
	f.Add(ioctl.AppendStat(nil, &ioctl.Stat{Tuple: tuple6, Version: 6, Transmitted: 1}))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ioctl.CountStats(b)
		if (err != nil) != (len(b)%64 != 0) {
			t.Fatalf("%d bytes: got %d, %v", len(b), n, err)
		}
		if err != nil {
			return
		}
		for i := range n {
			s := ioctl.StatAt(b, i)
			if again := ioctl.StatAt(ioctl.AppendStat(nil, &s), 0); again != s {
				t.Fatalf("got %+v, then %+v", s, again)
			}
		}
	})
}

// FuzzCalls takes what a client sends, on the driver's side.
func FuzzCalls(f *testing.F) {
	f.Add(ioctl.AppendVerdictSet(nil, ioctl.VerdictSet{ID: 7, Verdict: -8}))
	f.Add(testutil.Hex(f, words6+`01 11 08 00`))
	f.Add([]byte{0, 4, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := ioctl.DecodeVerdictSet(b); err == nil {
			if again, err := ioctl.DecodeVerdictSet(ioctl.AppendVerdictSet(nil, v)); err != nil || again != v {
				t.Fatalf("got %+v, then %+v, %v", v, again, err)
			}
		}
		if p, err := ioctl.DecodePayloadGet(b); err == nil && !bytes.Equal(ioctl.AppendPayloadGet(nil, p), b) {
			t.Fatalf("got %+v for % x", p, b)
		}
		if n, err := ioctl.DecodeStatsGet(b); err == nil && !bytes.Equal(ioctl.AppendStatsGet(nil, n), b) {
			t.Fatalf("got %d for % x", n, b)
		}
		u, err := ioctl.DecodeUpdate(b)
		if err != nil {
			return
		}
		again, err := ioctl.AppendUpdate(nil, &u.Tuple, u.Verdict)
		if err != nil {
			return // a mapped and another address
		}
		if second, err := ioctl.DecodeUpdate(again); err != nil || second.Tuple != u.Tuple || second.Verdict != u.Verdict {
			t.Fatalf("got %+v, then %+v, %v", u, second, err)
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	in := testutil.Hex(b, requests[0].vector)
	out := make([]byte, 0, ioctl.VerdictSetSize)
	var r ioctl.Request
	b.ReportAllocs()
	for b.Loop() {
		if err := ioctl.DecodeRequest(in, &r); err != nil {
			b.Fatal(err)
		}
		out = ioctl.AppendVerdictSet(out[:0], ioctl.VerdictSet{ID: r.ID, Verdict: 2})
	}
}
