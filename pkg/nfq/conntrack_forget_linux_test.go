package nfq

import (
	"net/netip"
	"testing"

	"github.com/weirfw/weir/pkg/packet"
)

// forgetOne checks that the kernel asks again, that this is no end, and that what others keep in entries stays.
func (c conntrackTest) forgetOne(t *testing.T) {
	m := DefaultMarks()
	eachFamily(t, func(t *testing.T, f family) {
		x := c.udp(t, packet.Outbound, f)
		tuple := udpTuple(x)
		for _, mark := range []uint32{m.AcceptAlways, m.AcceptFinal} {
			c.rd.set(all(repeat(mark)))
			mustExchange(t, x)
			c.rd.count(0, 0)
			mustExchange(t, x)
			if got := c.rd.count(packet.UDP, tuple.Local.Port()); len(got) != 0 {
				t.Errorf("got %v queued; want none once mark %d holds", got, mark)
			}
			if err := c.h.forget(tuple); err != nil {
				t.Fatal(err)
			}
			mustExchange(t, x)
			if got := c.rd.count(packet.UDP, tuple.Local.Port()); len(got) != 1 {
				t.Errorf("got %v queued after forget; want one", got)
			}
		}
		if err := c.h.forget(tuple); err != nil {
			t.Fatal(err)
		}
		c.rd.set(all(repeat(m.Accept)))
		mustExchange(t, x)
		entry, err := c.other.find(tuple)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.h.forget(tuple); err != nil {
			t.Fatal(err)
		}
		if again, err := c.other.find(tuple); err != nil || again.id != entry.id {
			t.Errorf("got %+v, %v; want the entry without a verdict to stay", again, err)
		}
		// Reports keep their order: the first end is one that comes after all that.
		marker := packet.Tuple{
			Local: netip.AddrPortFrom(clientAddr(f), 998), Remote: netip.AddrPortFrom(serverAddr(f), 998), Protocol: packet.UDP,
		}
		if err := c.h.remember(marker, packet.Outbound, m.DropAlways, 0); err != nil {
			t.Fatal(err)
		}
		last, err := c.other.find(marker)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.other.delete(&last); err != nil {
			t.Fatal(err)
		}
		if got := c.log.next(t); got != marker {
			t.Errorf("got the end of %v; want none when we forget", got)
		}
		if used := c.log.used(tuple); used.SentBytes == 0 {
			t.Error("what a forgotten entry counted was not told")
		}
	})
}

// forgetAll checks that every verdict goes, 1709, labels and refusals included, and nothing else: who opened a connection is known
// afterwards as it was before. What was translated or never began goes altogether.
func (c conntrackTest) forgetAll(t *testing.T) {
	m := DefaultMarks()
	var cleared, gone, foreign []flow
	note := func(to *[]flow, x packet.Tuple) {
		t.Helper()
		f, err := c.other.find(x)
		if err != nil {
			t.Fatal(err)
		}
		*to = append(*to, f)
	}
	for _, f := range []family{family4, family6} {
		for _, dir := range []packet.Direction{packet.Outbound, packet.Inbound} {
			for _, mark := range []uint32{m.AcceptAlways, m.AcceptFinal, m.DropAlways, m.Tunnel} {
				c.rd.set(all(repeat(m.AcceptAlways)))
				x := c.udp(t, dir, f)
				mustExchange(t, x)
				note(&cleared, tupleOf(x, dir))
				last := &cleared[len(cleared)-1]
				if err := c.other.setMark(last, mark); err != nil {
					t.Fatal(err)
				}
				if mark == m.Tunnel {
					cleared, gone = cleared[:len(cleared)-1], append(gone, *last)
				}
			}
			c.rd.set(all(repeat(m.Accept)))
			x := c.udp(t, dir, f)
			mustExchange(t, x)
			if err := c.h.setLabel(tupleOf(x, dir)); err != nil {
				t.Fatal(err)
			}
			note(&cleared, tupleOf(x, dir))
		}
		refused := packet.Tuple{
			Local: netip.AddrPortFrom(clientAddr(f), 999), Remote: netip.AddrPortFrom(serverAddr(f), 999), Protocol: packet.TCP,
		}
		if err := c.h.remember(refused, packet.Outbound, m.BlockAlways, packet.TCPSyn); err != nil {
			t.Fatal(err)
		}
		note(&gone, refused)
		others := refused
		others.Protocol = packet.UDP
		if err := c.h.remember(others, packet.Inbound, 0xca6c, 0); err != nil {
			t.Fatal(err)
		}
		note(&foreign, others)
	}
	if err := c.h.forgetAll(); err != nil {
		t.Fatal(err)
	}
	for _, was := range gone {
		if f, err := c.other.find(was.outbound()); err == nil {
			t.Errorf("got %+v; want it gone", f)
		}
	}
	for i, was := range append(cleared, foreign...) {
		want := uint32(0)
		if i >= len(cleared) {
			want = 0xca6c
		}
		f, err := c.other.find(was.outbound())
		if err != nil || f.id != was.id || f.orig != was.orig || f.mark != want || f.labelled() {
			t.Errorf("got %+v, %v; want entry %d to stay, with mark %#x and no label", f, err, was.id, want)
		}
	}
}
