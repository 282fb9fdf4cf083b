package nfq

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/weirfw/weir/pkg/packet"
)

func TestIntegrationConntrackNFT(t *testing.T)    { isolated(t, VariantNFT, testConntrack) }
func TestIntegrationConntrackLegacy(t *testing.T) { isolated(t, VariantLegacy, testConntrack) }

// udpTuple is what this host calls the connection of a UDP socket of its own.
func udpTuple(c net.Conn) packet.Tuple {
	return packet.Tuple{
		Local:    netip.MustParseAddrPort(c.LocalAddr().String()),
		Remote:   netip.MustParseAddrPort(c.RemoteAddr().String()),
		Protocol: packet.UDP,
	}
}

// udp opens a connected UDP socket to the echo server of the other side.
func (r *rig) udp(t *testing.T, dir packet.Direction, f family) net.Conn {
	t.Helper()
	var c net.Conn
	var err error
	if dir == packet.Outbound {
		c, err = (&net.Dialer{}).DialContext(t.Context(), "udp", netip.AddrPortFrom(serverAddr(f), 7).String())
	} else {
		c, err = r.peer.Dial(t.Context(), "udp", netip.AddrPortFrom(clientAddr(f), 7).String())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// tupleOf is the connection as this host sees it.
func tupleOf(c net.Conn, dir packet.Direction) packet.Tuple {
	if dir == packet.Inbound {
		return udpTuple(c).Reverse()
	}
	return udpTuple(c)
}

func mustExchange(t *testing.T, c net.Conn) {
	t.Helper()
	if got := exchange(c, patience); got != answered {
		t.Fatalf("got %s; want an answer", got)
	}
}

func testConntrack(r *rig) {
	t := r.t
	writeFile(t, "/proc/sys/net/netfilter/nf_conntrack_acct", "1")
	log := newTrafficLog()
	r.traffic = log
	r.echoServers()
	h := r.start()
	_, stop := r.watch(h)
	rd := r.read(all(repeat(DefaultMarks().Accept)))
	other, err := openTracker(DefaultMarks()) // somebody else who deletes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.close() }) // ends with the process
	c := conntrackTest{r, h, rd, log, other}
	t.Run("ends", c.ends)
	t.Run("origin", c.origin)
	t.Run("midway", c.midway)
	t.Run("forget one", c.forgetOne)
	t.Run("forget all", c.forgetAll)
	t.Run("redirect", c.redirect)
	t.Run("remember", c.remember)
	t.Run("nat after a refusal", c.natAfterRefusal)
	t.Run("cut", c.cut)
	t.Run("overflow", c.overflow)
	stop()
	if err := h.down(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, ok := h.origin(packet.Tuple{}); ok {
		t.Error("origin answers after down")
	}
}

type conntrackTest struct {
	*rig
	h     *host
	rd    *reader
	log   *trafficLog
	other *tracker
}

func writeFile(t *testing.T, path, value string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (c conntrackTest) origin(t *testing.T) {
	c.rd.set(all(repeat(DefaultMarks().Accept)))
	eachFamily(t, func(t *testing.T, f family) {
		for _, dir := range []packet.Direction{packet.Outbound, packet.Inbound} {
			x := c.udp(t, dir, f)
			tuple := tupleOf(x, dir)
			if d, ok := c.h.origin(tuple); ok {
				t.Errorf("got %v for a connection before its first packet; want unknown", d)
			}
			mustExchange(t, x)
			if d, ok := c.h.origin(tuple); d != dir || !ok {
				t.Errorf("got %v, %v; want %v", d, ok, dir)
			}
		}
		lo := "127.0.0.1:7"
		if f == family6 {
			lo = "[::1]:7"
		}
		x, err := (&net.Dialer{}).DialContext(t.Context(), "udp", lo)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		mustExchange(t, x)
		for _, dir := range []packet.Direction{packet.Outbound, packet.Inbound} {
			if d, ok := c.h.origin(tupleOf(x, dir)); d != dir || !ok {
				t.Errorf("loopback: got %v, %v; want %v", d, ok, dir)
			}
		}
	})
}

// midway checks that an entry that began in the middle of a connection does not claim to know who opened it.
func (c conntrackTest) midway(t *testing.T) {
	c.rd.set(all(repeat(DefaultMarks().AcceptAlways)))
	eachFamily(t, func(t *testing.T, f family) {
		x, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", netip.AddrPortFrom(serverAddr(f), 7).String())
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		mustExchange(t, x)
		tuple := udpTuple(x)
		tuple.Protocol = packet.TCP
		if d, ok := c.h.origin(tuple); d != packet.Outbound || !ok {
			t.Errorf("got %v, %v; want outbound", d, ok)
		}
		entry, err := c.other.find(tuple)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.other.delete(&entry); err != nil {
			t.Fatal(err)
		}
		c.log.next(t) // somebody else deleted it
		mustExchange(t, x)
		if again, err := c.other.find(tuple); err != nil {
			t.Fatalf("got %+v, %v; want a new entry", again, err)
		}
		if d, ok := c.h.origin(tuple); ok {
			t.Errorf("got %v; want unknown", d)
		}
	})
}

// redirect checks that an established connection whose way changes is asked about again.
func (c conntrackTest) redirect(t *testing.T) {
	m := DefaultMarks()
	eachFamily(t, func(t *testing.T, f family) {
		c.rd.set(all(repeat(m.AcceptAlways)))
		x := c.udp(t, packet.Outbound, f)
		mustExchange(t, x)
		if err := c.h.update(udpTuple(x), m.Tunnel); err != nil {
			t.Fatal(err)
		}
		c.rd.count(0, 0)
		mustExchange(t, x)
		if got := c.rd.count(packet.UDP, udpTuple(x).Local.Port()); len(got) != 1 {
			t.Errorf("got %v queued; want one packet to be asked about", got)
		}
	})
}
