package nfq

import (
	"net/netip"
	"testing"

	"github.com/weirfw/weir/pkg/packet"
)

func flowsForTest() map[string]flow {
	addr := netip.MustParseAddrPort
	tuple := func(p packet.Protocol, local, remote string) packet.Tuple {
		return packet.Tuple{Local: addr(local), Remote: addr(remote), Protocol: p}
	}
	flows := map[string]flow{
		"tcp out":    flowOf(tuple(packet.TCP, "10.0.0.1:1000", "10.0.0.2:80"), packet.Outbound),
		"udp in":     flowOf(tuple(packet.UDP, "10.0.0.1:53", "10.0.0.2:4000"), packet.Inbound),
		"udp v6":     flowOf(tuple(packet.UDP, "[fd00::1]:53", "[fd00::2]:4000"), packet.Outbound),
		"ping out":   flowOf(tuple(packet.ICMP, "10.0.0.1:77", "10.0.0.2:0"), packet.Outbound),
		"ping in":    flowOf(tuple(packet.ICMP, "10.0.0.1:0", "10.0.0.2:77"), packet.Inbound),
		"ping6 out":  flowOf(tuple(packet.ICMPv6, "[fd00::1]:77", "[fd00::2]:0"), packet.Outbound),
		"no ports":   flowOf(tuple(50, "10.0.0.1:0", "10.0.0.2:0"), packet.Outbound),
		"translated": flowOf(tuple(packet.TCP, "10.0.0.1:1000", "10.0.0.2:80"), packet.Outbound),
	}
	f := flows["translated"]
	f.reply.src, f.mark, f.id, f.zone = addr("127.0.0.17:717"), 1717, 99, 3
	flows["translated"] = f
	return flows
}

// entryMessage is an entry as the kernel tells it, without headers.
func entryMessage(f flow) []byte {
	b := appendFlow(nil, &f)
	if f.replied {
		b = appendUint32(b, ctStatus, ctSeenReply|1<<3)
	}
	if f.midway {
		at := len(b)
		b = appendNest(b, ctProtoInfo)
		inner := len(b)
		b = appendNest(b, ctInfoTCP)
		b = appendAttr(b, ctTCPState, 3)
		b = appendAttr(b, ctTCPFlagsOrig, 0x0a, 0)
		b = appendAttr(b, ctTCPFlagsReply, 0x08, 0)
		closeNest(b, inner)
		closeNest(b, at)
	}
	b = appendUint32(b, ctMark, f.mark)
	b = appendUint32(b, ctID, f.id)
	b = appendAttr(b, ctLabels, f.labels[:]...)
	for typ, n := range map[uint16]uint64{ctCountersOrig: f.sent, ctCountersReply: f.received} {
		at := len(b)
		b = appendNest(b, typ)
		b = appendAttr(b, 1, 0, 0, 0, 0, 0, 0, 0, 1)
		b = appendAttr(b, ctCounterBytes, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
		closeNest(b, at)
	}
	return appendAttr(b, 200, 1, 2, 3) // of a newer kernel
}

func TestFlowRoundTrip(t *testing.T) {
	for name, want := range flowsForTest() {
		t.Run(name, func(t *testing.T) {
			want.sent, want.received = 1<<20, 7
			want.replied, want.midway = name == "udp in", name == "tcp out"
			if want.midway {
				want.state = tcpEstablished
			}
			copy(want.labels[:], labelBytes(judgedLabel))
			b := entryMessage(want)
			var got flow
			if !parseFlow(b, &got) || got != want {
				t.Errorf("got %+v; want %+v", got, want)
			}
			if !got.labelled() {
				t.Error("got no label; want one")
			}
			if n := testing.AllocsPerRun(100, func() { parseFlow(b, &got) }); n != 0 {
				t.Errorf("got %v allocations; want none", n)
			}
		})
	}
}

func TestFlowViews(t *testing.T) {
	f := flowsForTest()["translated"]
	if got, want := f.outbound().String(), "tcp 10.0.0.1:1000 10.0.0.2:80"; got != want {
		t.Errorf("got %s; want %s", got, want)
	}
	if got, want := f.inbound().String(), "tcp 127.0.0.17:717 10.0.0.1:1000"; got != want {
		t.Errorf("got %s; want %s", got, want)
	}
	for _, dir := range []packet.Direction{packet.Outbound, packet.Inbound} {
		want := packet.Tuple{Local: netip.MustParseAddrPort("[fd00::1]:1"), Remote: netip.MustParseAddrPort("[fd00::2]:2"), Protocol: packet.UDP}
		f := flowOf(want, dir)
		got := f.outbound()
		if dir == packet.Inbound {
			got = f.inbound()
		}
		if got != want {
			t.Errorf("%v: got %v; want %v", dir, got, want)
		}
	}
}

func TestParseFlowRefuses(t *testing.T) {
	whole := flowsForTest()["udp v6"]
	mixed := whole
	mixed.orig.dst = netip.MustParseAddrPort("10.0.0.1:1")
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"one direction":   appendFlowTuple(nil, ctTupleOrig, whole.orig),
		"cut":             entryMessage(whole)[:20],
		"length too long": {200, 0, ctMark, 0},
		"length too low":  {1, 0, ctMark, 0, 0, 0, 0, 0},
	} {
		var f flow
		if parseFlow(b, &f) {
			t.Errorf("%s: got %+v; want a refusal", name, f)
		}
	}
}

func FuzzParseFlow(f *testing.F) {
	for _, x := range flowsForTest() {
		f.Add(entryMessage(x))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var got, again flow
		if !parseFlow(b, &got) {
			return
		}
		// What was understood is understood again.
		if !parseFlow(entryMessage(got), &again) {
			t.Fatalf("got %+v, which cannot be read again", got)
		}
		again.sent, again.received = got.sent, got.received // of which the helper writes 32 bits
		if again != got && !got.orig.protocol.IsICMP() {    // whose two directions may contradict each other
			t.Errorf("got %+v, then %+v", got, again)
		}
	})
}
