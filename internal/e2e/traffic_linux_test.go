package e2e_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// methods are how refd finds out whose connections are, and what they transfer: by eBPF, and without.
var methods = []string{"auto", "inet_diag"}

const (
	trafficPort = 5201
	// udpTimeout is conntrack's, in seconds.
	udpTimeout = 2
	// toldWithin is how long refd may take to tell that a connection has ended.
	toldWithin = time.Second
)

// transferred is one run of iperf3.
type transferred struct {
	app, iface string
	protocol   packet.Protocol
	server     netip.Addr
	reverse    bool // the server sends
}

// Figures of connections against those of iperf3 and of the interface, by both engines of the split tunnel and beside them, and the
// ends of connections.
func TestIntegrationTraffic(t *testing.T) {
	for _, method := range methods {
		for _, engine := range []string{"kroute", "proxy"} {
			t.Run(engine+" "+method, func(t *testing.T) {
				t.Parallel()
				r := newSplitRig(t, testutil.VariantNFT)
				r.serveIperf(t)
				r.client.Run(t, "sysctl", "-qw", fmt.Sprintf("net.netfilter.nf_conntrack_udp_timeout=%d", udpTimeout),
					fmt.Sprintf("net.netfilter.nf_conntrack_udp_timeout_stream=%d", udpTimeout))
				acct := r.client.Sysctl(t, "net.netfilter.nf_conntrack_acct")
				r.start(t, settings{rules: r.split(engine), owners: method})
				r.waitMethod(t, method)
				for i, family := range []string{"v4", "v6"} {
					for _, protocol := range []packet.Protocol{packet.TCP, packet.UDP} {
						run := transferred{app: "chosen-iperf3", iface: "eth0", protocol: protocol, server: forChosen.servers()[i]}
						t.Run(protocol.String()+" "+family, func(t *testing.T) { r.transfer(t, run) })
						if (i == 0) == (protocol == packet.TCP) { // the other two would only be the same again
							run = transferred{app: "other-iperf3", iface: "vpn0", protocol: protocol, server: forOthers.servers()[i], reverse: true}
							t.Run("received, not split, "+protocol.String()+" "+family, func(t *testing.T) { r.transfer(t, run) })
						}
					}
				}
				r.stop(t)
				if now := r.client.Sysctl(t, "net.netfilter.nf_conntrack_acct"); now != acct {
					t.Errorf("nf_conntrack_acct is %s after refd; want %s as before", now, acct)
				}
			})
		}
	}
}

// serveIperf copies iperf3 for two apps and starts its servers. Each has one address: iperf3 answers a first datagram from a connected
// socket, which without would have the address of the uplink instead of that which the client asked.
func (r *splitRig) serveIperf(t *testing.T) {
	t.Helper()
	testutil.RequireTool(t, "iperf3")
	iperf := strings.TrimSpace(r.client.Run(t, "sh", "-c", "command -v iperf3"))
	copyProgram(t, iperf, r.app("chosen-iperf3"))
	copyProgram(t, iperf, r.app("other-iperf3"))
	for _, g := range []group{forChosen, forOthers} {
		for _, a := range g.servers()[:2] {
			p := r.server.Start(t, iperf, "-s", "--forceflush", "-B", a.String(), "-p", fmt.Sprint(trafficPort))
			p.WaitOutput(t, "listening", startLimit)
		}
	}
}

// waitMethod waits until refd attributes in a way: eBPF is attached beside the start.
func (r *rig) waitMethod(t *testing.T, method string) {
	t.Helper()
	if method != "auto" {
		return
	}
	r.eventually(t, startLimit, "eBPF is attached", func() bool {
		s, ok := r.tryStatus()
		if ok && s.Attribution.Refused != "" {
			testutil.Unavailable(t, "needs eBPF: %s", s.Attribution.Refused)
		}
		return ok && s.Attribution.Method == "ebpf"
	})
}

// iperfReport is what iperf3 tells.
type iperfReport struct {
	End struct {
		Sent     iperfSum `json:"sum_sent"`
		Received iperfSum `json:"sum_received"`
		UDP      iperfSum `json:"sum"`
	} `json:"end"`
}

type iperfSum struct{ Bytes, Packets float64 }

// counters are those of one direction of an interface.
type counters struct{ Bytes, Packets float64 }

func (r *rig) counters(t *testing.T, iface string, received bool) counters { //nolint:revive // it chooses one of two
	t.Helper()
	var links []struct {
		Stats struct{ TX, RX counters } `json:"stats64"`
	}
	out := r.client.Run(t, "ip", "-s", "-j", "link", "show", "dev", iface)
	if err := json.Unmarshal([]byte(out), &links); err != nil || len(links) != 1 {
		t.Fatalf("figures of %s: %v\n%s", iface, err, out)
	}
	if received {
		return links[0].Stats.RX
	}
	return links[0].Stats.TX
}

func (x *transferred) args() []string {
	args := []string{"-J", "-c", x.server.String(), "-p", fmt.Sprint(trafficPort)}
	// No faster than everybody can follow who shares two processors with others: iperf3 ends when it has handed over all, and what is in
	// buffers by then, its own or a proxy's, never leaves; nor does a proxy lose datagrams.
	if x.protocol == packet.UDP {
		args = append(args, "-u", "-b", "16M", "-l", "1200", "-n", "2M")
	} else {
		args = append(args, "-b", "32M", "-l", "16K", "-n", "4M")
	}
	if x.reverse {
		args = append(args, "-R")
	}
	return args
}

// headers is the size of those of a datagram.
func (x *transferred) headers() float64 {
	if x.server.Is6() {
		return 40 + 8
	}
	return 20 + 8
}

// bytes is what iperf3 says that was transferred, with headers where it is known how many there were. Segmentation is left to the
// interface, as everywhere: headers of TCP are counted once for what is handed to it, which is up to 64 KiB.
func (x *transferred) bytes(told *iperfReport) float64 {
	switch {
	case x.protocol == packet.UDP:
		return told.End.UDP.Bytes + x.headers()*told.End.UDP.Packets
	case x.reverse:
		return told.End.Received.Bytes
	}
	return told.End.Sent.Bytes
}

// wire is what passed an interface, as refd counts it. A proxy hands over several datagrams at once, which have headers once then.
func (x *transferred) wire(before, after counters, told *iperfReport) float64 {
	const ethernet = 14
	packets := after.Packets - before.Packets
	bytes := after.Bytes - before.Bytes - ethernet*packets
	if x.protocol == packet.UDP {
		bytes += x.headers() * (told.End.UDP.Packets - packets)
	}
	return bytes
}

// side returns the figure of the direction in which the run transfers.
func (x *transferred) side(s *conn.Snapshot) uint64 {
	if x.reverse {
		return s.ReceivedBytes
	}
	return s.SentBytes
}

// transfer runs iperf3 and compares.
func (r *splitRig) transfer(t *testing.T, x transferred) {
	t.Helper()
	known := r.connsSince(t, &x, 0)
	var last conn.ID
	for i := range known {
		last = max(last, known[i].ID)
	}
	before := r.counters(t, x.iface, x.reverse)
	out := r.client.Run(t, r.app(x.app), x.args()...)
	exit := time.Now()
	var told iperfReport
	if err := json.Unmarshal([]byte(out), &told); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c, seen := r.waitEnd(t, &x, last, exit)
	wire := x.wire(before, r.counters(t, x.iface, x.reverse), &told)
	var sum uint64
	for _, s := range r.connsSince(t, &x, last) {
		sum += x.side(&s)
	}
	t.Logf("refd %d, iperf3 %.0f; with iperf3's control connection %d, %s %.0f; ended %v after the program, seen %v after",
		x.side(&c), x.bytes(&told), sum, x.iface, wire, c.Ended.Sub(exit).Round(time.Millisecond), seen.Round(time.Millisecond))
	near(t, "iperf3", float64(x.side(&c)), x.bytes(&told))
	near(t, x.iface, float64(sum), wire)
}

// waitEnd waits until the connection that transferred most has ended, and checks that refd tells it in time. Looking takes as long as
// everything else on a machine that is busy, so that counts as well.
func (r *splitRig) waitEnd(t *testing.T, x *transferred, after conn.ID, exit time.Time) (c conn.Snapshot, seen time.Duration) {
	t.Helper()
	limit := toldWithin
	if x.protocol == packet.UDP {
		limit += udpTimeout * time.Second
	}
	var slowest, late time.Duration
	r.eventually(t, time.Minute, "the connection ends", func() bool {
		begin := time.Now()
		c = conn.Snapshot{}
		for _, s := range r.connsSince(t, x, after) {
			if s.Tuple.Protocol == x.protocol && x.side(&s) >= x.side(&c) {
				c = s
			}
		}
		slowest, seen = max(slowest, time.Since(begin)), time.Since(exit)
		if c.ID == 0 || c.Live() {
			late = begin.Sub(exit) // so late it had not ended
			return false
		}
		return true
	})
	if late > limit+2*slowest {
		t.Errorf("%v after the program the connection had not ended; want %v, and looking takes up to %v", late, limit, slowest)
	}
	if c.Ended.Sub(exit) > limit {
		t.Errorf("the connection ended %v after the program; want %v", c.Ended.Sub(exit), limit)
	}
	return c, seen
}

// connsSince lists the connections of a run, which are those after an earlier one.
func (r *splitRig) connsSince(t *testing.T, x *transferred, after conn.ID) (list []conn.Snapshot) {
	t.Helper()
	for _, s := range r.conns(t, "--remote", x.server.String(), "--port", fmt.Sprint(trafficPort)) {
		if s.ID > after {
			list = append(list, s)
		}
	}
	return list
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if diff := (got - want) / want; !(math.Abs(diff) <= 0.01) { // nothing at all is not near, either
		t.Errorf("refd counted %.0f bytes, %s %.0f: %.2f %% apart; want 1 at most", got, what, want, 100*diff)
	}
}

// A program that goes on in another one, with its connection, is that other app from then on, and so is the connection.
func TestIntegrationBecomesAnotherApp(t *testing.T) {
	for _, method := range methods {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			testutil.RequireTool(t, "python3")
			r := newRig(t, testutil.VariantNFT)
			r.server.TCPEcho(t, "0.0.0.0:7")
			late := r.dir + "/late"
			copyProgram(t, "/bin/sleep", late)
			r.start(t, settings{owners: method, rules: fmt.Sprintf(`
default: {out: allow}
apps: [{id: late, match: [{identity: "path:%s"}], rules: [{id: never, action: block}]}]`, late)})
			r.waitMethod(t, method)
			program := r.client.Start(t, "python3", "-c", `
import os, socket, sys, time
s = socket.create_connection((sys.argv[1], 7)); s.set_inheritable(True)
s.send(b"x"); s.recv(1)
print("connected", flush=True)
while not os.path.exists(sys.argv[3]): time.sleep(.01)
os.execv(sys.argv[2], ["late", "600"])`, testnet.ServerV4, late, r.dir+"/go")
			program.WaitOutput(t, "connected", startLimit)
			server := netip.MustParseAddr(testnet.ServerV4)
			if c := r.conn(t, server, 7); c.Verdict() != verdict.Accept {
				t.Fatalf("got %v; want it accepted at first", c.Verdict())
			}
			r.client.Run(t, "touch", r.dir+"/go")
			r.eventually(t, time.Minute, "the connection is decided anew", func() bool {
				c := r.conn(t, server, 7)
				return c.Verdict() == verdict.Block && c.Process.Path == late && c.Decision.Reason.Rule == "never"
			})
			if method == "auto" {
				if out := r.cli(t, "status"); !strings.Contains(out, "by ebpf; ") {
					t.Errorf("status does not tell the method:\n%s", out)
				}
			}
		})
	}
}
