// Not seen to pass yet: go test -tags unproven -run "Traffic|AnotherApp" ./internal/e2e, as root.
//
//go:build unproven

package e2e_test

import (
	"encoding/json"
	"fmt"
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
	// trafficBytes is what each run sends.
	trafficBytes = 6 << 20
	// udpTimeout is conntrack's, in seconds.
	udpTimeout = 2
)

// Figures of connections against those of iperf3 and of the interface, by both engines of the split tunnel and beside them, and the
// ends of connections.
func TestIntegrationTraffic(t *testing.T) {
	for _, method := range methods {
		for _, engine := range []string{"kroute", "proxy"} {
			t.Run(engine+" "+method, func(t *testing.T) {
				t.Parallel()
				testutil.RequireTool(t, "iperf3")
				r := newSplitRig(t, testutil.VariantNFT)
				iperf := strings.TrimSpace(r.client.Run(t, "sh", "-c", "command -v iperf3"))
				copyProgram(t, iperf, r.app("chosen-iperf3"))
				copyProgram(t, iperf, r.app("other-iperf3"))
				r.client.Run(t, "sysctl", "-qw", fmt.Sprintf("net.netfilter.nf_conntrack_udp_timeout=%d", udpTimeout),
					fmt.Sprintf("net.netfilter.nf_conntrack_udp_timeout_stream=%d", udpTimeout))
				r.server.Start(t, iperf, "-s", "--forceflush", "-p", fmt.Sprint(trafficPort)).WaitOutput(t, "listening", startLimit)
				acct := r.client.Sysctl(t, "net.netfilter.nf_conntrack_acct")
				r.start(t, settings{rules: r.split(engine), owners: method})
				r.waitMethod(t, method)
				for i, family := range []string{"v4", "v6"} {
					for _, protocol := range []packet.Protocol{packet.TCP, packet.UDP} {
						t.Run(protocol.String()+" "+family, func(t *testing.T) { r.transfer(t, "chosen-iperf3", "eth0", protocol, forChosen.servers()[i]) })
					}
				}
				t.Run("not split", func(t *testing.T) { r.transfer(t, "other-iperf3", "vpn0", packet.TCP, forOthers.servers()[0]) })
				r.stop(t)
				if now := r.client.Sysctl(t, "net.netfilter.nf_conntrack_acct"); now != acct {
					t.Errorf("nf_conntrack_acct is %s after refd; want %s as before", now, acct)
				}
			})
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

// sent is what iperf3 tells.
type sent struct {
	End struct {
		SumSent struct{ Bytes, Packets float64 } `json:"sum_sent"`
		Sum     struct{ Bytes, Packets float64 } `json:"sum"`
	} `json:"end"`
}

// counters are an interface's.
type counters struct{ bytes, packets float64 }

func (r *rig) transmitted(t *testing.T, iface string) counters {
	t.Helper()
	var links []struct {
		Stats struct {
			TX struct{ Bytes, Packets float64 } `json:"tx"`
		} `json:"stats64"`
	}
	if err := json.Unmarshal([]byte(r.client.Run(t, "ip", "-s", "-j", "link", "show", "dev", iface)), &links); err != nil || len(links) != 1 {
		t.Fatalf("figures of %s: %v", iface, err)
	}
	return counters{links[0].Stats.TX.Bytes, links[0].Stats.TX.Packets}
}

// transfer sends by iperf3 and compares. Segmentation is left to the interface, as everywhere: headers are counted once for what is
// handed to it, which is up to 64 KiB.
func (r *splitRig) transfer(t *testing.T, app, iface string, protocol packet.Protocol, server netip.Addr) {
	t.Helper()
	args := []string{"-J", "-c", server.String(), "-p", fmt.Sprint(trafficPort), "-n", fmt.Sprint(trafficBytes)}
	if protocol == packet.UDP {
		args = append(args, "-u", "-b", "80M", "-l", "1200")
	}
	before := r.transmitted(t, iface)
	var told sent
	out := r.client.Run(t, r.app(app), args...)
	exit := time.Now()
	if err := json.Unmarshal([]byte(out), &told); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	after := r.transmitted(t, iface)
	const ethernet = 14
	wire := after.bytes - before.bytes - ethernet*(after.packets-before.packets)
	want := told.End.SumSent.Bytes
	if protocol == packet.UDP {
		const v4, v6 = 20 + 8, 40 + 8
		headers := float64(v4)
		if server.Is6() {
			headers = v6
		}
		want = told.End.Sum.Bytes + headers*told.End.Sum.Packets
	}
	var c conn.Snapshot
	ended := r.eventually(t, time.Minute, "the connection ends", func() bool {
		c = r.busiest(t, server, protocol)
		return !c.Live()
	})
	t.Logf("%s: refd %d, iperf3 %.0f with headers, %s %.0f; ended %v after the program, seen %v after", app, c.SentBytes, want, iface, wire,
		c.Ended.Sub(exit).Round(time.Millisecond), ended.Round(time.Millisecond))
	near(t, "iperf3", float64(c.SentBytes), want)
	near(t, iface, float64(r.sentTo(t, server)), wire)
	late := c.Ended.Sub(exit)
	if protocol == packet.UDP {
		late -= udpTimeout * time.Second
	}
	if limit := 5 * time.Second; late > limit { // a second, on a machine that is not busy
		t.Errorf("ended %v late; want a second", late)
	}
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if diff := (got - want) / want; diff < -0.01 || diff > 0.01 {
		t.Errorf("refd counted %.0f bytes, %s %.0f: %.2f %% apart; want 1 at most", got, what, want, 100*diff)
	}
}

// busiest returns the connection that sent most.
func (r *rig) busiest(t *testing.T, server netip.Addr, protocol packet.Protocol) (c conn.Snapshot) {
	t.Helper()
	for _, s := range r.conns(t, "--remote", server.String(), "--port", fmt.Sprint(trafficPort)) {
		if s.Tuple.Protocol == protocol && (s.SentBytes > c.SentBytes || c.ID == 0) {
			c = s
		}
	}
	if c.ID == 0 {
		t.Fatal("refd lists no such connection")
	}
	return c
}

// sentTo adds up the connections of the last run, which are the newest.
func (r *rig) sentTo(t *testing.T, server netip.Addr) (sum uint64) {
	t.Helper()
	var newest time.Time
	for _, s := range r.conns(t, "--remote", server.String(), "--port", fmt.Sprint(trafficPort)) {
		if newest.IsZero() {
			newest = s.Started
		}
		if newest.Sub(s.Started) < 30*time.Second && s.ID > r.counted {
			sum += s.SentBytes
			r.last = max(r.last, s.ID)
		}
	}
	r.counted = r.last
	return sum
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
			r.start(t, settings{rules: fmt.Sprintf(`
attribution: {method: %s}
default: {out: allow}
apps: [{id: late, match: [{identity: "path:%s"}], rules: [{id: never, action: block}]}]`, method, late)})
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
