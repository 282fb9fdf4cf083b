package nfq

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
)

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
