package nfq

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// kernel is the other side of a queue: as strict as the real one, and it knows
// who got which verdict.
type kernel struct {
	t *testing.T

	mu       sync.Mutex // guards what follows
	waiting  map[uint32]bool
	verdicts map[uint32]verdictMessage
	sends    int
	err      error // answers every send
}

type verdictMessage struct {
	nf, mark uint32
	batch    bool
}

func newKernel(t *testing.T) *kernel {
	return &kernel{t: t, waiting: map[uint32]bool{}, verdicts: map[uint32]verdictMessage{}}
}

// queue makes packet id wait.
func (k *kernel) queue(id uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.waiting[id] = true
}

// send implements sender.
func (k *kernel) send(b []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return k.err
	}
	k.sends++
	for len(b) > 0 {
		size := binary.NativeEndian.Uint32(b)
		typ := binary.NativeEndian.Uint16(b[4:]) & 0xff
		v := verdictMessage{nf: binary.BigEndian.Uint32(b[24:]), batch: typ == msgVerdictBatch}
		id := binary.BigEndian.Uint32(b[28:])
		if size > 32 {
			v.mark = binary.BigEndian.Uint32(b[36:])
		}
		k.decideLocked(id, v)
		b = b[size:]
	}
	return nil
}

func (k *kernel) decideLocked(id uint32, v verdictMessage) {
	if v.batch {
		for w := range k.waiting {
			if int32(w-id) <= 0 {
				delete(k.waiting, w)
				k.verdicts[w] = v
			}
		}
		return
	}
	if !k.waiting[id] {
		k.t.Errorf("got a verdict for packet %d, which does not wait (had %+v)", id, k.verdicts[id])
		return
	}
	delete(k.waiting, id)
	k.verdicts[id] = v
}

func (k *kernel) of(id uint32) (verdictMessage, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v, ok := k.verdicts[id]
	return v, ok
}

// handler is a Handler of two functions.
type handler struct {
	lookup func(*packet.Info) (verdict.Action, uint8, bool)
	handle func(packet.Packet)
}

func (h handler) Lookup(i *packet.Info) (verdict.Action, uint8, bool) {
	if h.lookup == nil {
		return 0, 0, false
	}
	return h.lookup(i)
}

func (h handler) Handle(p packet.Packet) { h.handle(p) }

// testSource is a Source on any system, with defaults.
func testSource(t testing.TB, cfg Config) *Source {
	t.Helper()
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return &Source{cfg: cfg, planner: newPlanner(cfg.Host.Marks, cfg.Style)}
}

func testQueue(t testing.TB, cfg Config, h handler, out sender) (*Source, *queue) {
	t.Helper()
	s := testSource(t, cfg)
	q := s.newQueue(17040, h, nil, out)
	q.fail = func(err error) { t.Errorf("queue failed: %v", err) }
	return s, q
}

// udp4 is an IPv4 UDP packet from port.
func udp4(port uint16) []byte {
	b := []byte{
		0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
		0, 0, 0, 53, 0, 9, 0, 0, 'x',
	}
	binary.BigEndian.PutUint16(b[20:], port)
	return b
}

func packetMessage(id uint32, payload []byte) []byte {
	return queued{id: id, hook: hookLocalOut, payload: payload}.message()
}

// TestExactlyOneVerdict attacks the promise: packets of all kinds, a handler that
// decides at once, late, often or never, a timeout and the end of Run, all at the
// same time. The kernel complains about a second verdict; every packet must have
// one in the end.
func TestExactlyOneVerdict(t *testing.T) {
	const packets = 20000
	k := newKernel(t)
	var wait sync.WaitGroup
	decide := func(p packet.Packet) {
		for range 2 {
			err := packet.Apply(p, verdict.Action(rand.N(verdict.NumActions)), 0)
			if err != nil && !errors.Is(err, packet.ErrAlreadyDecided) {
				t.Errorf("got %v; want nil or ErrAlreadyDecided", err)
			}
		}
	}
	h := handler{
		lookup: func(i *packet.Info) (verdict.Action, uint8, bool) {
			return verdict.Action(rand.N(verdict.NumActions)), 0, i.Local.Port()%4 == 0
		},
		handle: func(p packet.Packet) {
			switch p.Info().Local.Port() % 4 {
			case 1:
				decide(p)
			case 2:
				for range 2 {
					wait.Go(func() {
						time.Sleep(rand.N(2 * time.Millisecond))
						decide(p)
					})
				}
			case 3: // for the timeout
			}
		},
	}
	s, q := testQueue(t, Config{MaxPending: 500}, h, k)
	stop, swept := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(swept)
		for {
			select {
			case <-stop:
				return
			case <-time.After(500 * time.Microsecond):
				if err := q.expire(time.Now().Add(-time.Millisecond)); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for id := uint32(1); id <= packets; id++ {
		k.queue(id)
		b := packetMessage(id, udp4(uint16(id)))
		switch rand.N(20) {
		case 0:
			b = packetMessage(id, []byte("no IP packet"))
		case 1:
			b = b[:len(b)-4]
		case 2:
			b = packetMessage(id, nil)
		}
		q.receive(b, time.Now())
		if id%burstSlots == 0 {
			if err := q.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for id := uint32(packets + 1); id <= packets+10; id++ {
		k.queue(id) // nobody reads these
	}
	if err := q.flush(); err != nil {
		t.Fatal(err)
	}
	close(stop)
	<-swept
	if err := q.finish(); err != nil { // while handlers are still at it
		t.Fatal(err)
	}
	wait.Wait()
	if len(k.waiting) != 0 {
		t.Errorf("got %d packets without a verdict; want none", len(k.waiting))
	}
	for id := uint32(packets + 1); id <= packets+10; id++ {
		if v, ok := k.of(id); !ok || !v.batch || v.nf != nfDrop {
			t.Errorf("got %+v, %v for unread packet %d; want a drop by batch", v, ok, id)
		}
	}
	st := s.Stats()
	if st.Packets != packets || st.Verdicts != packets || st.Handed == 0 || st.Timeouts == 0 || st.Undecodable == 0 || st.BadMessages == 0 {
		t.Errorf("got %+v; want %d packets and verdicts of all kinds", st, packets)
	}
	if n := q.pending.waiting(); n != 0 {
		t.Errorf("got %d packets that still wait; want 0", n)
	}
}

// TestLookupAllocatesNothing covers parse, decode, lookup, plan and verdict.
func TestLookupAllocatesNothing(t *testing.T) {
	h := handler{lookup: func(*packet.Info) (verdict.Action, uint8, bool) { return verdict.ActionAccept, 0, true }}
	_, q := testQueue(t, Config{}, h, discard{})
	b := packetMessage(1, udp4(1))
	now := time.Now()
	allocs := testing.AllocsPerRun(1000, func() {
		for range burstSlots {
			q.receive(b, now)
		}
		if err := q.flush(); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("got %v allocations a burst; want 0", allocs)
	}
}

// TestHandAllocatesOnce is about the other path: one packet is one object.
func TestHandAllocatesOnce(t *testing.T) {
	h := handler{handle: func(p packet.Packet) {
		if err := p.Accept(); err != nil {
			t.Error(err)
		}
	}}
	_, q := testQueue(t, Config{}, h, discard{})
	b := packetMessage(1, udp4(1))
	now := time.Now()
	if allocs := testing.AllocsPerRun(1000, func() { q.receive(b, now) }); allocs != 1 {
		t.Errorf("got %v allocations a packet; want 1", allocs)
	}
}

// discard is a kernel that takes everything.
type discard struct{}

func (discard) send([]byte) error { return nil }

func TestFallback(t *testing.T) {
	for _, test := range []struct {
		name    string
		mode    Mode
		mark    uint32
		payload []byte
		cut     int
		want    verdictMessage
	}{
		{"enforce, no IP packet", Enforce, 0, []byte("nonsense"), 0, verdictMessage{nf: nfRepeat, mark: 1702}},
		{"enforce, no payload", Enforce, 0, nil, 0, verdictMessage{nf: nfRepeat, mark: 1702}},
		{"enforce, cut", Enforce, 0, udp4(1), 4, verdictMessage{nf: nfDrop}},
		{"observe, no IP packet", Observe, 0, []byte("nonsense"), 0, verdictMessage{nf: nfRepeat, mark: 1700}},
		{"observe, foreign mark", Observe, wgMark, []byte("nonsense"), 0, verdictMessage{nf: nfRepeat, mark: wgMark | 1<<31}},
		{"observe, cut", Observe, 0, udp4(1), 4, verdictMessage{nf: nfAccept}},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := newKernel(t)
			k.queue(5)
			_, q := testQueue(t, Config{Host: HostConfig{Mode: test.mode}}, handler{}, k)
			b := queued{id: 5, hook: hookLocalOut, mark: test.mark, payload: test.payload}.message()
			q.receive(b[:len(b)-test.cut], time.Now())
			if err := q.flush(); err != nil {
				t.Fatal(err)
			}
			if got, ok := k.of(5); !ok || got != test.want {
				t.Errorf("got %+v, %v; want %+v", got, ok, test.want)
			}
		})
	}
}

func TestBurstIsOneSend(t *testing.T) {
	k := newKernel(t)
	h := handler{lookup: func(*packet.Info) (verdict.Action, uint8, bool) { return verdict.ActionAccept, 0, true }}
	_, q := testQueue(t, Config{}, h, k)
	var datagram []byte
	for id := range uint32(10) {
		k.queue(id)
		datagram = append(datagram, packetMessage(id, udp4(1))...)
		for len(datagram)%4 != 0 {
			datagram = append(datagram, 0)
		}
	}
	q.receive(datagram, time.Now())
	if err := errors.Join(q.flush(), q.flush()); err != nil {
		t.Fatal(err)
	}
	if k.sends != 1 || len(k.verdicts) != 10 {
		t.Errorf("got %d verdicts in %d sends; want 10 in 1", len(k.verdicts), k.sends)
	}
}

func TestHeldPacket(t *testing.T) {
	big := append(udp4(1), make([]byte, 4000)...)
	binary.BigEndian.PutUint16(big[2:], uint16(len(big)))
	for name, payload := range map[string][]byte{"small": udp4(1), "big": big} {
		t.Run(name, func(t *testing.T) {
			var got packet.Packet
			_, q := testQueue(t, Config{}, handler{handle: func(p packet.Packet) { got = p }}, discard{})
			b := queued{id: 1, hook: hookLocalOut, mark: 3, payload: payload, attrs: appendAttr(nil, attrUID, be32(1000)...)}.message()
			seen := time.Now()
			q.receive(b, seen)
			clear(b) // the reader's buffer is overwritten
			q.info = packet.Info{}
			p, err := got.Payload()
			if err != nil || len(p) != len(payload) || p[0] != 0x45 {
				t.Errorf("got %d bytes of payload, %v; want %d", len(p), err, len(payload))
			}
			i := got.Info()
			if i.Mark != 3 || i.UID != 1000 || !i.HasUID || i.Remote != netip.MustParseAddrPort("10.0.0.2:53") || !i.Seen.Equal(seen) {
				t.Errorf("got %+v; want what the kernel told", i)
			}
		})
	}
}

func TestBigSegmentLength(t *testing.T) {
	// TCP with a total length of 0, as queued above 64 KiB.
	b := []byte{
		0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
		0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0,
	}
	var got int
	h := handler{lookup: func(i *packet.Info) (verdict.Action, uint8, bool) {
		got = i.Length
		return verdict.ActionAccept, 0, true
	}}
	_, q := testQueue(t, Config{}, h, discard{})
	q.receive(queued{id: 1, hook: hookLocalOut, payload: b, attrs: appendAttr(nil, attrCapLen, be32(100000)...)}.message(), time.Now())
	if got != 100000 {
		t.Errorf("got length %d; want 100000", got)
	}
}

func TestPendingBounds(t *testing.T) {
	w := &pending{maxCount: 3, maxBytes: 1 << 20}
	var all []*held
	for range 4 {
		all = append(all, &held{})
	}
	for i, p := range all {
		if got := w.add(p); got != (i < 3) {
			t.Errorf("add %d: got %v", i, got)
		}
	}
	if !w.claim(all[1]) || w.claim(all[1]) || w.claim(all[3]) {
		t.Error("claim: want true once for a packet that waits")
	}
	if !w.add(all[3]) {
		t.Error("got no room after a claim; want some")
	}
	if p := w.expired(time.Time{}.Add(1)); p != all[0] {
		t.Errorf("got %p; want the oldest, %p", p, all[0])
	}
	if first := w.close(); first != all[2] || first.next != all[3] || first.next.next != nil {
		t.Error("close: want the two that are left, in order")
	}
	if w.add(all[0]) || w.claim(all[2]) || w.waiting() != 0 || w.bytes != 0 {
		t.Error("after close: want nobody to wait, to be added or to be claimed")
	}
	fat := &pending{maxCount: 3, maxBytes: minHeld + 1000}
	if fat.add(&held{payload: make([]byte, 2000)}) {
		t.Error("got room for more bytes than allowed")
	}
}

func TestKernelErrors(t *testing.T) {
	s, q := testQueue(t, Config{}, handler{}, discard{})
	for _, errno := range []int32{0, -2, -1, -22} {
		b := append(appendNoop(nil), 0, 0, 0, 0)
		binary.NativeEndian.PutUint16(b[4:], nlmsgError)
		binary.NativeEndian.PutUint32(b[16:], uint32(errno))
		q.receive(sized(b), time.Now())
	}
	if err := q.flush(); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.UnknownIDs != 1 || st.NetlinkErrors != 2 || st.Packets != 0 {
		t.Errorf("got %+v; want 1 unknown id and 2 other errors", st)
	}
}

// BenchmarkLookup is the user-space cost of a packet of a known connection.
func BenchmarkLookup(b *testing.B) {
	h := handler{lookup: func(*packet.Info) (verdict.Action, uint8, bool) { return verdict.ActionAccept, 0, true }}
	_, q := testQueue(b, Config{}, h, discard{})
	m := packetMessage(1, udp4(1))
	now := time.Now()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		q.receive(m, now)
		if i%burstSlots == 0 {
			if err := q.flush(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// FuzzReceive feeds a queue with what a kernel might send in its worst hour: no
// input may make it panic, and every packet that can be named has one verdict in
// the end, whatever else is said of it.
func FuzzReceive(f *testing.F) {
	f.Add(queued{id: 7, hook: 3, mark: 5, payload: udp4(1)}.message())
	f.Add(join(packetMessage(1, udp4(1)), packetMessage(1, udp4(2))))
	f.Add(queued{id: 1, hook: hookLocalOut, payload: udp4(3), attrs: appendAttr(nil, 999, be32(7)...)}.message())
	f.Fuzz(func(t *testing.T, b []byte) {
		k := newKernel(t)
		h := handler{
			lookup: func(i *packet.Info) (verdict.Action, uint8, bool) {
				return verdict.ActionBlock, 0, i.Local.Port()%2 == 0
			},
			handle: func(p packet.Packet) {
				if p.Info().Local.Port()%3 == 0 {
					if err := p.PermanentAccept(); err != nil {
						t.Error(err)
					}
				}
			},
		}
		_, q := testQueue(t, Config{MaxPending: 4}, h, k)
		// The kernel numbers its packets; a message that names a packet twice
		// comes from no kernel, so each message is its own datagram here.
		for len(b) > 0 {
			var m message
			kind, rest := parse(b, &m)
			if kind == messagePacket || kind == messageCut {
				k.queue(m.id)
			}
			q.receive(b[:len(b)-len(rest)], time.Now())
			if err := q.flush(); err != nil {
				t.Fatal(err)
			}
			if _, decided := k.of(m.id); !decided && kind == messageCut {
				t.Fatalf("got no verdict for packet %d, whose message is cut", m.id)
			}
			if err := q.expire(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			b = rest
		}
		if err := q.finish(); err != nil {
			t.Fatal(err)
		}
		if len(k.waiting) != 0 {
			t.Errorf("got %d packets without a verdict; want none", len(k.waiting))
		}
	})
}
