package nfq

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	nfqueue "github.com/florianl/go-nfqueue/v2"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
)

func TestIntegrationConntrackNFT(t *testing.T)    { isolated(t, VariantNFT, testConntrack) }
func TestIntegrationConntrackLegacy(t *testing.T) { isolated(t, VariantLegacy, testConntrack) }

// trafficLog is an intercept.Traffic.
type trafficLog struct {
	ends chan intercept.End

	mu    sync.Mutex // guards usage
	usage map[packet.Tuple]intercept.Usage
}

func newTrafficLog() *trafficLog {
	return &trafficLog{ends: make(chan intercept.End, 1<<16), usage: map[packet.Tuple]intercept.Usage{}}
}

func (l *trafficLog) ReportEnd(e intercept.End) { l.ends <- e }

func (l *trafficLog) ReportUsage(us []intercept.Usage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, u := range us {
		l.usage[u.Tuple] = u
	}
}

func (l *trafficLog) used(t packet.Tuple) intercept.Usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usage[t]
}

// next is the tuple of the next report.
func (l *trafficLog) next(t *testing.T) packet.Tuple {
	t.Helper()
	select {
	case e := <-l.ends:
		if age := time.Since(e.At); age < 0 || age > time.Minute {
			t.Errorf("got an end %v ago; want now", age)
		}
		return e.Tuple
	case <-time.After(10 * time.Second):
		t.Fatal("no end was reported")
	}
	return packet.Tuple{}
}

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

// ends checks the reports about connections of both directions, and that there are none about connections without a verdict.
func (c conntrackTest) ends(t *testing.T) {
	m := DefaultMarks()
	eachFamily(t, func(t *testing.T, f family) {
		for _, dir := range []packet.Direction{packet.Outbound, packet.Inbound} {
			c.rd.set(all(repeat(m.Accept)))
			silent := c.udp(t, dir, f)
			mustExchange(t, silent)
			c.rd.set(all(repeat(m.AcceptAlways)))
			told := c.udp(t, dir, f)
			mustExchange(t, told)
			for _, x := range []net.Conn{silent, told} {
				entry, err := c.other.find(tupleOf(x, dir))
				if err != nil {
					t.Fatal(err)
				}
				if err := c.other.delete(&entry); err != nil {
					t.Fatal(err)
				}
			}
			want := tupleOf(told, dir)
			if got := c.log.next(t); got != want {
				t.Fatalf("got the end of %v; want %v", got, want)
			}
			header := uint64(20 + 8)
			if f == family6 {
				header = 40 + 8
			}
			bytes := header + uint64(len("hello"))
			if got := c.log.used(want); got.SentBytes != bytes || got.ReceivedBytes != bytes {
				t.Errorf("got %+v; want %d bytes both ways", got, bytes)
			}
		}
	})
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

// cut ends the socket of a connection in this namespace.
func cut(t packet.Tuple) error {
	c, err := openCutter()
	if err != nil {
		return err
	}
	return errors.Join(c.cut(t), c.close())
}

// cut checks that the socket of a UDP connection ends, and one that talks to everybody does not.
func (c conntrackTest) cut(t *testing.T) {
	c.rd.set(all(repeat(DefaultMarks().Accept)))
	sockets, err := openCutter()
	if err != nil {
		t.Fatal(err)
	}
	eachFamily(t, func(t *testing.T, f family) {
		x := c.udp(t, packet.Outbound, f)
		mustExchange(t, x)
		if err := sockets.cut(udpTuple(x)); err != nil {
			t.Fatal(err)
		}
		if _, err := x.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("got %v after cut; want ECONNABORTED", err)
		}
		if err := sockets.cut(udpTuple(x)); err != nil {
			t.Errorf("got %v when there is none any more; want nil", err)
		}
		in := c.udp(t, packet.Inbound, f)
		mustExchange(t, in)
		if err := sockets.cut(tupleOf(in, packet.Inbound)); err != nil {
			t.Fatal(err)
		}
		mustExchange(t, in)
	})
	if err := errors.Join(sockets.close(), sockets.close()); err != nil {
		t.Error(err)
	}
	if err := sockets.cut(packet.Tuple{Protocol: packet.UDP}); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v after close; want ErrClosed", err)
	}
}

// overflow checks that lost events are counted and that those after them come.
func (c conntrackTest) overflow(t *testing.T) {
	m := DefaultMarks()
	log := newTrafficLog()
	ends, err := openReporter(log, c.h.tracker.Load(), &c.h.lost, c.h.log)
	if err != nil {
		t.Fatal(err)
	}
	defer ends.close()
	raw, err := ends.events.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	lost := c.h.lostEnds()
	tuple := packet.Tuple{Local: netip.AddrPortFrom(clientAddr(family4), 5000), Remote: netip.AddrPortFrom(serverAddr(family4), 1), Protocol: packet.UDP}
	for port := range uint16(200) {
		tuple.Remote = netip.AddrPortFrom(serverAddr(family4), 1000+port)
		if err := c.h.remember(tuple, packet.Outbound, m.DropAlways, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.other.forgetMarks(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- ends.run(ctx) }()
	// From when the reader has emptied the buffer on there is room again.
	after := packet.Tuple{Local: tuple.Local, Remote: netip.AddrPortFrom(serverAddr(family4), 999), Protocol: packet.UDP}
	for reported, deadline := false, time.Now().Add(20*time.Second); !reported && time.Now().Before(deadline); {
		if err := c.h.remember(after, packet.Outbound, m.DropAlways, 0); err != nil {
			t.Fatal(err)
		}
		if err := c.other.forgetMarks(); err != nil {
			t.Fatal(err)
		}
		for wait := time.After(20 * time.Millisecond); wait != nil && !reported; {
			select {
			case e := <-log.ends:
				reported = e.Tuple == after
			case <-wait:
				wait = nil
			}
		}
		if time.Until(deadline) <= 0 && !reported {
			t.Error("got no report after the loss; want them to go on")
		}
	}
	if c.h.lostEnds() == lost {
		t.Error("got no loss counted; want one")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("got %v; want nil", err)
	}
}
