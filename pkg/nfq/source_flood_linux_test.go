package nfq_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testnet/testflow"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Ports of a flood say what its handler does.
const (
	portAllowed   = 7001
	portForbidden = 7002
	// From portUnknown on, each of unknownPorts is a connection that the handler
	// is given.
	portUnknown  = 8000
	unknownPorts = 6000
)

// floodHandler knows what is allowed and forbidden, and never decides about the
// rest. Now and then it stalls, as a machine does that swaps.
type floodHandler struct {
	lookups atomic.Uint64
	kept    chan packet.Packet // the first packets, which are held for longer than the flood
}

const (
	stallEvery = 20000
	stallFor   = 30 * time.Millisecond
)

func (h *floodHandler) Lookup(i *packet.Info) (verdict.Action, uint8, bool) {
	if h.lookups.Add(1)%stallEvery == 0 {
		time.Sleep(stallFor)
	}
	switch i.Remote.Port() {
	case portAllowed:
		return verdict.ActionAccept, 0, true
	case portForbidden:
		return verdict.ActionDrop, 0, true
	}
	return 0, 0, false
}

func (h *floodHandler) Handle(p packet.Packet) {
	select {
	case h.kept <- p:
	default:
	}
}

// kernelQueue is a line of nfnetlink_queue.
type kernelQueue struct {
	portID, waiting, dropped, userDropped, sequence uint64
}

func readQueue(t *testing.T, number uint16) kernelQueue {
	t.Helper()
	b, err := os.ReadFile("/proc/self/net/netfilter/nfnetlink_queue")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var got uint16
		var q kernelQueue
		var mode, copyRange uint64
		_, err := fmt.Sscan(line, &got, &q.portID, &q.waiting, &mode, &copyRange, &q.dropped, &q.userDropped, &q.sequence)
		if err == nil && got == number {
			return q
		}
	}
	t.Fatalf("queue %d is closed:\n%s", number, b)
	return kernelQueue{}
}

// silence makes the peer's system ignore floods: its ICMP errors would be queued.
// Its sniffers see the packets.
func silence(t *testing.T, n *testflow.Net) {
	t.Helper()
	n.Peer.Run(t, "iptables-nft", "-t", "raw", "-A", "PREROUTING", "-p", "udp", "--dport", "7000:15000", "-j", "DROP")
}

// flood sends packets of all three kinds, at this rate together, and returns how
// many.
func flood(t *testing.T, rate int, long time.Duration) uint64 {
	t.Helper()
	to := func(port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(testnet.ServerV4), port)
	}
	var sent atomic.Uint64
	var senders sync.WaitGroup
	for _, b := range []testnet.Blast{
		{To: to(portAllowed), Rate: rate * 4 / 10, For: long},
		{To: to(portForbidden), Rate: rate * 4 / 10, For: long},
		{To: to(portUnknown), Ports: unknownPorts, Rate: rate * 2 / 10, For: long},
	} {
		senders.Go(func() {
			r, err := testnet.BlastHere(t.Context(), t, b)
			if err != nil {
				t.Error(err)
			}
			sent.Add(r.Sent + r.Refused)
		})
	}
	senders.Wait()
	return sent.Load()
}

// heap samples the memory in use until stop is called, which returns the most.
func heap() (stop func() uint64) {
	var most uint64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			most = max(most, inUse())
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() uint64 {
		close(done)
		<-ended
		return most
	}
}

func inUse() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// TestIntegrationFlood: packets come faster than they can be decided. The queue
// must not close, nothing forbidden may leave, what is lost must be counted, and
// memory must not grow.
func TestIntegrationFlood(t *testing.T) {
	n := testflow.Isolate(t)
	if n == nil {
		return
	}
	long := 10 * time.Second
	if testing.Short() {
		long = 2 * time.Second
	}
	cfg := withRules(t)
	cfg.ReceiveBuffer = 1 << 20 // a stall overflows it
	cfg.Timeout = time.Second
	silence(t, n)
	source := newSource(t, cfg)
	h := &floodHandler{kept: make(chan packet.Packet, 100)}
	run(t, source, h)
	leaked := n.Peer.Sniff(t, "eth0", testnet.Filter{Proto: 17, DstPort: portForbidden})
	unknown := n.Peer.Sniff(t, "eth0", testnet.Filter{Proto: 17, DstPort: portUnknown})
	passed := n.Peer.Sniff(t, "eth0", testnet.Filter{Proto: 17, DstPort: portAllowed})
	before, memory := readQueue(t, 17040), inUse()
	most := heap()
	sent := flood(t, 100_000, long)
	waitUntil(t, "the queue is empty", func() bool { return readQueue(t, 17040).waiting == 0 })
	grown := int64(most()) - int64(memory)
	after, st := readQueue(t, 17040), source.Stats()

	t.Logf("%d packets in %v: %+v, memory +%d KiB", sent, long, st, grown>>10)
	if after.portID != before.portID {
		t.Errorf("got netlink port %d after %d; want the same queue", after.portID, before.portID)
	}
	if leaked.Count() != 0 || unknown.Count() != 0 {
		t.Errorf("got %d forbidden and %d undecided packets at the peer; want none", leaked.Count(), unknown.Count())
	}
	if passed.Count() == 0 {
		t.Error("got no allowed packet at the peer; want some")
	}
	if st.KernelDrops != after.dropped || st.UserDrops != after.userDropped || st.KernelDrops+st.UserDrops == 0 {
		t.Errorf("got drops %d and %d; want those of the kernel, %d and %d, and some", st.KernelDrops, st.UserDrops, after.dropped, after.userDropped)
	}
	if got := st.Packets + st.KernelDrops + st.UserDrops; got != sent {
		t.Errorf("got %d packets and drops; want %d, as sent", got, sent)
	}
	if st.Verdicts != st.Packets || st.UnknownIDs+st.NetlinkErrors+st.BadMessages != 0 {
		t.Errorf("got %+v; want as many verdicts as packets and no errors", st)
	}
	if st.Overflows == 0 || st.Timeouts == 0 {
		t.Errorf("got %d overflows, %d timeouts; want some of both", st.Overflows, st.Timeouts)
	}
	if grown > 32<<20 {
		t.Errorf("got %d MiB more memory in use; want less than 32", grown>>20)
	}
	for len(h.kept) > 0 {
		if err := (<-h.kept).Accept(); !errors.Is(err, packet.ErrAlreadyDecided) {
			t.Errorf("got %v for a packet of the flood; want ErrAlreadyDecided", err)
			break
		}
	}
	testStillOpen(t, n, h)
}

// testStillOpen sends a packet that has nothing to do with the flood.
func testStillOpen(t *testing.T, n *testflow.Net, h *floodHandler) {
	t.Helper()
	f := n.Flow(t, intercepttest.FlowKind{Version: 4, Direction: packet.Outbound})
	if err := f.Send(); err != nil {
		t.Fatal(err)
	}
	select {
	case p := <-h.kept:
		if p.Info().Tuple != f.Tuple() {
			t.Errorf("got %v; want %v", p.Info().Tuple, f.Tuple())
		}
		if err := p.Accept(); err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the handler got no packet after the flood")
	}
	if got := f.Fate(patience); got != intercepttest.Passed {
		t.Errorf("got a packet that was %v after the flood; want passed", got)
	}
}

func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %v: %s", patience, what)
		}
	}
}

// chaosHandler decides by Lookup, at once, later, twice from two goroutines, or
// never.
type chaosHandler struct {
	t    *testing.T
	wait sync.WaitGroup
	idle chan struct{} // ends the late ones
	wins atomic.Uint64 // verdict methods that took effect
}

func (h *chaosHandler) Lookup(i *packet.Info) (verdict.Action, uint8, bool) {
	return anyAction(), 0, i.Remote.Port() == portAllowed || i.Remote.Port() == portForbidden
}

// anyAction is one that leaves no entry in conntrack, so that packets go on coming.
func anyAction() verdict.Action {
	return []verdict.Action{verdict.ActionAccept, verdict.ActionDrop, verdict.ActionBlock}[rand.N(3)]
}

func (h *chaosHandler) Handle(p packet.Packet) {
	switch p.Info().Remote.Port() % 4 {
	case 0:
		h.decide(p)
	case 1:
		for range 2 {
			h.wait.Go(func() { h.decide(p) })
		}
	case 2:
		h.wait.Go(func() {
			select {
			case <-time.After(rand.N(40 * time.Millisecond)): // around the timeout
			case <-h.idle:
			}
			h.decide(p)
		})
	case 3: // for the timeout, and the end of Run
	}
}

func (h *chaosHandler) decide(p packet.Packet) {
	err := packet.Apply(p, anyAction(), 0)
	switch {
	case err == nil:
		h.wins.Add(1)
	case !errors.Is(err, packet.ErrAlreadyDecided):
		h.t.Errorf("got %v; want nil or ErrAlreadyDecided", err)
	}
}

// TestIntegrationExactlyOneVerdict asks the real kernel: it answers ENOENT to a
// second verdict, and knows how many packets still wait. Run ends in the middle of
// it, again and again.
func TestIntegrationExactlyOneVerdict(t *testing.T) {
	n := testflow.Isolate(t)
	if n == nil {
		return
	}
	testutil.NoLeaks(t)
	silence(t, n)
	cfg := withRules(t)
	cfg.Timeout = 20 * time.Millisecond
	cfg.MaxPending = 50
	source := newSource(t, cfg)
	for round := range 5 {
		h := &chaosHandler{t: t, idle: make(chan struct{})}
		stop := run(t, source, h)
		sent := make(chan uint64, 1)
		go func() { sent <- flood(t, 60_000, 700*time.Millisecond) }()
		if round == 0 {
			// Once to the end, to see that nothing is left.
			total := <-sent
			waitUntil(t, "all packets have verdicts", func() bool {
				st := source.Stats()
				return st.Waiting == 0 && readQueue(t, 17040).waiting == 0 && st.Packets+st.KernelDrops+st.UserDrops == total
			})
			sent <- total
		} else {
			first := source.Stats().Packets
			waitUntil(t, "packets come", func() bool { return source.Stats().Packets > first+5000 })
		}
		began := time.Now()
		stop()
		took := time.Since(began)
		close(h.idle)
		h.wait.Wait()
		<-sent
		st := source.Stats()
		t.Logf("round %d: Run ended in %v: %+v", round, took, st)
		if st.Verdicts != st.Packets || st.Waiting != 0 || st.UnknownIDs+st.NetlinkErrors+st.BadMessages != 0 {
			t.Errorf("round %d: got %+v; want as many verdicts as packets and no errors", round, st)
		}
	}
	if st := source.Stats(); st.Lookups == 0 || st.Handed == 0 || st.Timeouts == 0 || st.Shutdown == 0 || st.Overflows == 0 {
		t.Errorf("got %+v; want packets on every path", st)
	}
}

// TestIntegrationStopWhileHandlerStalls: the end of Run waits for a handler that
// breaks the rule of not blocking, and then ends.
func TestIntegrationStopWhileHandlerStalls(t *testing.T) {
	n := testflow.Isolate(t)
	if n == nil {
		return
	}
	testutil.NoLeaks(t)
	entered, release := make(chan struct{}, 100), make(chan struct{})
	source := newSource(t, withRules(t))
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- source.Run(ctx, stalling{entered, release}, func() { close(ready) })
	}()
	<-ready
	f := n.Flow(t, intercepttest.FlowKind{Version: 4, Direction: packet.Outbound})
	if err := f.Send(); err != nil {
		t.Fatal(err)
	}
	<-entered
	cancel()
	select {
	case err := <-ended:
		t.Fatalf("got %v while the handler had a packet; want Run to wait", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("Run did not end")
	}
	if got := f.Fate(dropTime); got != intercepttest.Passed {
		t.Errorf("got a packet that was %v; want the verdict that was on its way, passed", got)
	}
}

type stalling struct{ entered, release chan struct{} }

func (s stalling) Lookup(*packet.Info) (verdict.Action, uint8, bool) {
	s.entered <- struct{}{}
	<-s.release
	return verdict.ActionAccept, 0, true
}

func (stalling) Handle(packet.Packet) {}
