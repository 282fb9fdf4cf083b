package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// permanentRules refuse what goes to ports and addresses of their own.
const permanentRules = `
default: {in: allow, out: allow}
global:
  - {id: out-drop, direction: out, protocols: [tcp, udp], remote_ports: "8083", action: drop}
  - {id: out-block, direction: out, protocols: [udp], remote_ports: "8084", action: block}
  - {id: ping-drop, direction: out, remote: [10.77.0.4, "fd77::4"], action: drop}
`

// exchange is a real program's communication that takes many packets.
type exchange struct {
	name   string
	remote func(server netip.Addr) netip.Addr
	port   uint16
	run    func(t *testing.T, r *rig, remote netip.Addr)
	// many is how many packets are queued at least if no verdict is for good; for good it is one, the first.
	many uint64
}

func sameAddr(a netip.Addr) netip.Addr { return a }

// fourth is the address of the same network that pings are dropped for.
func fourth(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.MustParseAddr("10.77.0.4")
	}
	return netip.MustParseAddr("fd77::4")
}

const iperfPort = 5201

var exchanges = []exchange{
	{name: "tcp accepted", remote: sameAddr, port: iperfPort, many: 20, run: func(t *testing.T, r *rig, a netip.Addr) {
		r.iperf(t, a, "-n", "2M")
	}},
	{name: "udp accepted", remote: sameAddr, port: iperfPort, many: 50, run: func(t *testing.T, r *rig, a netip.Addr) {
		r.iperf(t, a, "-u", "-b", "10M", "-l", "1000", "-n", "50K")
	}},
	// A second attempt of the same socket comes after a second.
	{name: "tcp dropped", remote: sameAddr, port: 8083, many: 2, run: func(t *testing.T, r *rig, a netip.Addr) {
		out, err := r.client.Try("curl", "-gsS", "-m1.5", fmt.Sprintf("http://%s/", netip.AddrPortFrom(a, 8083)))
		if err == nil {
			t.Errorf("curl got an answer: %s", out)
		}
	}},
}

// beats are packets of one connection, one every beatPause, whatever becomes of them.
var beats = []struct {
	name   string
	remote func(server netip.Addr) netip.Addr
	port   uint16 // 0 is ping
}{
	{name: "echo accepted", remote: sameAddr},
	{name: "echo dropped", remote: fourth},
	{name: "udp accepted", remote: sameAddr, port: echoPort},
	{name: "udp dropped", remote: sameAddr, port: 8083},
	{name: "udp blocked", remote: sameAddr, port: 8084},
}

const beatPause = 20 * time.Millisecond

// iperf runs iperf3 against a server that serves once.
func (r *rig) iperf(t *testing.T, server netip.Addr, args ...string) {
	t.Helper()
	s := r.server.Start(t, "iperf3", "-s", "-1", "-B", server.String(), "--forceflush")
	s.WaitOutput(t, "Server listening", startLimit)
	r.client.Run(t, "iperf3", append([]string{"-c", server.String()}, args...)...)
	if err := s.Wait(); err != nil {
		t.Errorf("iperf3 -s: %v\n%s", err, s.Output())
	}
}

// beat sends until the returned function is called.
func (r *rig) beat(t *testing.T, to netip.Addr, port uint16) (end func()) {
	t.Helper()
	if port == 0 {
		return r.client.Start(t, "ping", "-n", "-i", fmt.Sprint(beatPause.Seconds()), to.String()).Kill
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		blast := testnet.Blast{To: netip.AddrPortFrom(to, port), Rate: int(time.Second / beatPause), For: time.Minute}
		if _, err := r.client.Blast(ctx, blast); err != nil && ctx.Err() == nil {
			t.Errorf("send to %s port %d: %v", to, port, err)
		}
	}()
	end = func() { cancel(); <-done }
	t.Cleanup(end)
	return end
}

// After a permanent verdict user space sees no more of a connection, whatever the verdict was.
func TestIntegrationPermanent(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		for _, a := range []string{"10.77.0.4/24", "fd77::4/64"} {
			addAddress(t, r.server, "eth0", a)
		}
		serveBoth(t, r)
		for _, permanent := range []string{"true", "false"} {
			t.Run("permanent "+permanent, func(t *testing.T) {
				r.start(t, settings{verdicts: permanent, rules: permanentRules})
				eachFamily(t, func(t *testing.T, server netip.Addr) {
					for _, x := range exchanges {
						t.Run(x.name, func(t *testing.T) { x.check(t, r, server, permanent == "true") })
					}
					for _, b := range beats {
						t.Run(b.name, func(t *testing.T) { checkBeat(t, r, b.remote(server), b.port, permanent == "true") })
					}
				})
			})
		}
	})
}

func (x *exchange) check(t *testing.T, r *rig, server netip.Addr, permanent bool) {
	t.Helper()
	remote := x.remote(server)
	before := r.source(t).Packets
	x.run(t, r, remote)
	queued := r.source(t).Packets - before
	s := r.conn(t, remote, x.port, "--direction", "out")
	t.Logf("%d packets queued, %d of %v: %s", queued, s.Packets, s.Tuple, s.Decision.Verdict)
	// iperf3 has a control connection, and a path MTU or neighbour message may come by.
	const others = 4
	switch {
	case permanent && s.Packets != 1:
		t.Errorf("user space saw %d packets of %v; want the first", s.Packets, s.Tuple)
	case permanent && queued > 1+others:
		t.Errorf("%d packets were queued; want 1", queued)
	case !permanent && queued < x.many:
		t.Errorf("%d packets were queued; want %d or more", queued, x.many)
	}
}

// checkBeat wants no packet to be queued after the decision was there if it was one for good, and else all.
func checkBeat(t *testing.T, r *rig, remote netip.Addr, port uint16, permanent bool) {
	t.Helper()
	list := func() []conn.Snapshot {
		return r.conns(t, "--remote", remote.String(), "--port", fmt.Sprint(port), "--direction", "out")
	}
	var last conn.ID
	if older := list(); len(older) > 0 {
		last = older[0].ID
	}
	end := r.beat(t, remote, port)
	// More packets may come while the first waits for its decision.
	r.eventually(t, startLimit, "the first packet is decided", func() bool {
		now := list()
		return len(now) > 0 && now[0].ID > last && now[0].Decision.Verdict != verdict.Undecided
	})
	const more = 10
	before := r.source(t)
	time.Sleep(more * beatPause)
	after := r.source(t)
	end()
	queued := after.Packets - before.Packets
	if permanent && queued != 0 {
		t.Errorf("%d packets were queued after the decision; want 0", queued)
	}
	if !permanent && queued < more/2 {
		t.Errorf("%d of %d packets were queued; want all", queued, more)
	}
}

// What must not be decided for good is shown to user space packet by packet in mode observe.
func TestIntegrationObserveSeesAll(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t, testutil.VariantNFT)
	r.start(t, settings{mode: "observe", rules: "default: {in: block, out: block}\n"})
	eachFamily(t, func(t *testing.T, server netip.Addr) {
		// Slow enough for the first to be decided before the second: conntrack drops one of two that wait at a time.
		const pings = 3
		r.client.Run(t, "ping", "-n", fmt.Sprint("-c", pings), "-i0.3", server.String())
		s := r.conn(t, server, 0)
		if s.Packets != 2*pings {
			t.Errorf("user space saw %d packets of %d pings and answers; want all", s.Packets, pings)
		}
		if s.Enforced || !s.Decision.Verdict.Refuses() {
			t.Errorf("got verdict %v, enforced %v; want a refusal that is not enforced", s.Decision.Verdict, s.Enforced)
		}
	})
}

// The outbound side of a loopback connection decides nothing for good, or the inbound side would not be judged.
func TestIntegrationLoopbackIsJudgedTwice(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t, testutil.VariantNFT)
	r.start(t, settings{})
	for _, to := range []string{"127.0.0.1", "::1"} {
		r.client.Run(t, "ping", "-n", "-c1", to)
		want := map[packet.Direction]verdict.Scope{packet.Outbound: verdict.ScopePacket, packet.Inbound: verdict.ScopePermanent}
		got := map[packet.Direction]verdict.Scope{}
		for _, s := range r.conns(t, "--remote", to) {
			got[s.Direction] = s.Decision.Scope
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: got decisions %v; want %v", to, got, want)
		}
	}
}
