package nfq

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	nfqueue "github.com/florianl/go-nfqueue/v2"

	"github.com/weirfw/weir/pkg/packet"
)

// remember checks that a refused first packet is the last that is asked about.
func (c conntrackTest) remember(t *testing.T) {
	m := DefaultMarks()
	eachFamily(t, func(t *testing.T, f family) {
		for _, mark := range []uint32{m.DropAlways, m.BlockAlways} {
			for _, dir := range []packet.Direction{packet.Outbound, packet.Inbound} {
				c.rd.set(func(_ uint16, i packet.Info) decision {
					if err := c.h.remember(i.Tuple, i.Direction, mark, i.TCPFlags); err != nil {
						t.Error(err)
					}
					return repeat(mark)
				})
				x := c.udp(t, dir, f)
				c.rd.count(0, 0)
				for range 3 {
					if got := exchange(x, shortly); got == answered {
						t.Errorf("%s: got an answer; want mark %d to hold", dir, mark)
					}
				}
				if got := c.rd.count(packet.UDP, udpTuple(x).Local.Port()); len(got) != 1 {
					t.Errorf("%s: got %v queued; want one for mark %d", dir, got, mark)
				}
				if _, err := c.other.find(tupleOf(x, dir)); err != nil {
					t.Errorf("%s: got %v; want an entry", dir, err)
				}
			}
		}
	})
	// TCP sends the same packet again by itself: two in this time.
	c.rd.set(func(_ uint16, i packet.Info) decision {
		if err := c.h.remember(i.Tuple, i.Direction, m.DropAlways, i.TCPFlags); err != nil {
			t.Error(err)
		}
		return decision{nf: nfqueue.NfDrop}
	})
	c.rd.count(0, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 1300*time.Millisecond)
	defer cancel()
	var dials sync.WaitGroup
	for _, f := range []family{family4, family6} {
		dials.Go(func() {
			if x, err := (&net.Dialer{}).DialContext(ctx, "tcp", netip.AddrPortFrom(serverAddr(f), 7).String()); err == nil {
				x.Close()
				t.Error("got a connection; want none")
			}
		})
	}
	dials.Wait()
	if got := c.rd.count(packet.TCP, 7); len(got) != 2 {
		t.Errorf("got %v queued; want one a family", got)
	}
}

// natAfterRefusal checks that a connection that is allowed after its first packets were refused goes where the host's rules for
// address translation send it.
func (c conntrackTest) natAfterRefusal(t *testing.T) {
	m := DefaultMarks()
	const nobody = 2007 // of the peer
	eachFamily(t, func(t *testing.T, f family) {
		c.rules(f, fmt.Sprintf("*nat\n-A OUTPUT -p udp -m udp --dport %d -j DNAT --to-destination :7\nCOMMIT\n", nobody))
		for _, refusal := range []uint32{m.DropAlways, m.BlockAlways} {
			for _, change := range []func(packet.Tuple) error{
				func(x packet.Tuple) error { return c.h.update(x, m.AcceptAlways) },
				func(x packet.Tuple) error { return c.h.update(x, m.AcceptFinal) },
				func(packet.Tuple) error { return c.h.forgetAll() },
			} {
				c.rd.set(func(_ uint16, i packet.Info) decision {
					if err := c.h.remember(i.Tuple, i.Direction, refusal, i.TCPFlags); err != nil {
						t.Error(err)
					}
					return repeat(refusal)
				})
				x, err := (&net.Dialer{}).DialContext(t.Context(), "udp", netip.AddrPortFrom(serverAddr(f), nobody).String())
				if err != nil {
					t.Fatal(err)
				}
				defer x.Close()
				if got := exchange(x, shortly); got == answered {
					t.Error("got an answer; want a refusal")
				}
				c.rd.set(all(repeat(m.AcceptAlways)))
				if err := change(udpTuple(x)); err != nil {
					t.Fatal(err)
				}
				_ = exchange(x, shortly) // reads the error that the refusal left
				mustExchange(t, x)
			}
		}
	})
}
