package e2e_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// ethDown takes eth0 down; the kernel forgets its routes and its IPv6 addresses.
func (r *splitRig) ethDown(t *testing.T) {
	t.Helper()
	r.client.Run(t, "ip", "link", "set", "eth0", "down")
}

// ethUp brings eth0 back, with what a DHCP client or a router would configure.
func (r *splitRig) ethUp(t *testing.T) {
	t.Helper()
	r.client.Run(t, "ip", "link", "set", "eth0", "up")
	r.client.Run(t, "ip", "-6", "address", "replace", testnet.ISPClientV6+"/64", "dev", "eth0", "nodad")
	r.gateway(t, "-4", testnet.ISPGatewayV4)
	r.gateway(t, "-6", testnet.ISPGatewayV6)
}

func (r *splitRig) gateway(t *testing.T, family, via string) {
	t.Helper()
	r.client.Run(t, "ip", family, "route", "replace", "default", "via", via, "dev", "eth0", "metric", fmt.Sprint(testnet.ISPMetric))
}

// An interface that cannot be used fails the connection, at once and with the reason; nothing goes another way, and it works
// again when the interface does.
func TestIntegrationSplitInterfaceGone(t *testing.T) {
	testutil.NoLeaks(t)
	for _, engine := range []string{"kroute", "proxy"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			r := newSplitRig(t, testutil.VariantNFT)
			r.start(t, settings{rules: r.split(engine)})
			v4, v6 := forChosen.talks()["tcp v4"], forChosen.talks()["tcp v6"]
			r.try(forChosen, r.app("chosen"), v4...).by(t, "eth0")
			for _, tt := range []struct {
				name, why string
				spoil     func()
				fails     [][]string
				works     [][]string
			}{
				{"down", "down", func() { r.ethDown(t) }, [][]string{v4, v6}, nil},
				{"without IPv6", "IPv6", func() {
					r.client.Run(t, "ip", "-6", "address", "flush", "dev", "eth0", "scope", "global")
				}, [][]string{v6}, [][]string{v4}},
				{"without a gateway", "default route", func() {
					r.client.Run(t, "ip", "-4", "route", "del", "default", "via", testnet.ISPGatewayV4, "dev", "eth0")
				}, [][]string{v4}, [][]string{v6}},
				{"renamed", "no such interface", func() {
					r.client.Run(t, "ip", "link", "set", "eth0", "down")
					r.client.Run(t, "ip", "link", "set", "eth0", "name", "eth7")
					r.client.Run(t, "ip", "link", "set", "eth7", "up")
				}, [][]string{v4, v6}, nil},
			} {
				t.Run(tt.name, func(t *testing.T) {
					tt.spoil()
					r.wantFailing(t, tt.why, tt.fails...)
					for _, args := range tt.works {
						r.try(forChosen, r.app("chosen"), args...).by(t, "eth0")
					}
					if tt.name == "renamed" {
						r.client.Run(t, "ip", "link", "set", "eth7", "down")
						r.client.Run(t, "ip", "link", "set", "eth7", "name", "eth0")
					}
					r.ethUp(t)
					r.eventually(t, startLimit, "works again", func() bool {
						a, b := r.try(forChosen, r.app("chosen"), v4...), r.try(forChosen, r.app("chosen"), v6...)
						return a.err == nil && b.err == nil && a.left.vpn == 0 && b.left.vpn == 0
					})
				})
			}
		})
	}
}

// wantFailing wants attempts of the chosen app to fail at once, for the reason, and without a packet. What refd is told by the
// kernel comes after some milliseconds: until then attempts get nowhere.
func (r *splitRig) wantFailing(t *testing.T, why string, attempts ...[]string) {
	t.Helper()
	for _, args := range attempts {
		r.eventually(t, startLimit, "fails because "+why, func() bool {
			start := time.Now()
			got := r.try(forChosen, r.app("chosen"), args...)
			if got.left.vpn != 0 {
				t.Fatalf("got %v, %d packets by vpn0; want 0\n%s", got.err, got.left.vpn, got.out)
			}
			if got.err == nil {
				return false // it left by eth0 before anybody knew
			}
			took := time.Since(start)
			to := netip.MustParseAddrPort(args[1])
			c := r.conn(t, to.Addr(), to.Port(), "--app", r.app("chosen"))
			if !strings.Contains(c.Decision.Reason.Text, why) || took > 2*time.Second {
				return false
			}
			t.Logf("%s: %q after %v", args[1], c.Decision.Reason.Text, took)
			return true
		})
	}
}

// opener is a program that opens connections all the time.
type opener struct {
	p *testnet.Process
}

// progress returns how many connections worked so far.
func (s opener) progress() (worked, failed int) {
	lines := strings.Split(strings.TrimSpace(s.p.Output()), "\n")
	for _, l := range slices.Backward(lines) {
		var at int64
		if n, _ := fmt.Sscan(l, &at, &worked, &failed); n == 3 {
			return worked, failed
		}
	}
	return 0, 0
}

// Whatever happens to the interface and to refd, no packet of the chosen app leaves by the VPN and none of others by eth0; soon
// after the interface is back, so are connections.
func TestIntegrationSplitChurn(t *testing.T) {
	testutil.NoLeaks(t)
	for _, engine := range []string{"kroute", "proxy"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			r := newSplitRig(t, testutil.VariantNFT)
			r.start(t, settings{rules: r.split(engine), onExit: "closed"})
			testChurn(t, r)
			r.stop(t)
			r.cli(t, "cleanup")
		})
	}
}

func testChurn(t *testing.T, r *splitRig) {
	t.Helper()
	// the others' server is another one, so that captures tell them apart
	wrong := map[string]*testnet.Sniffer{}
	for i, chosen := range forChosen.servers()[:2] {
		other := forOthers.servers()[i]
		out := testnet.Filter{Dst: netip.PrefixFrom(chosen, chosen.BitLen()), Direction: testnet.Outgoing}
		wrong["the chosen app's by vpn0, "+chosen.String()] = r.client.Sniff(t, "vpn0", out)
		out.Dst = netip.PrefixFrom(other, other.BitLen())
		wrong["others' by eth0, "+other.String()] = r.client.Sniff(t, "eth0", out)
	}
	var chosen, others []opener
	for i, a := range slices.Concat(forChosen.servers()[:2], forOthers.servers()[:2]) {
		name, rate := "chosen", "100"
		if i >= 2 {
			name, rate = "other", "20"
		}
		s := opener{r.client.Start(t, r.app(name), "many", rate, hostPort(a, splitTCPPort))}
		if name == "chosen" {
			chosen = append(chosen, s)
		} else {
			others = append(others, s)
		}
	}
	again := r.recovery(t, chosen)
	recovered := func(what string) time.Duration {
		t.Helper()
		took := again(what)
		r.wantNoneWrong(t, what, wrong)
		return took
	}
	recovered("at first")
	var took []time.Duration
	for i := range 100 {
		r.ethDown(t)
		time.Sleep(time.Duration(i%5) * 10 * time.Millisecond) // churn of different lengths, nothing waits for it
		r.ethUp(t)
		took = append(took, recovered("flap"))
	}
	flaps := quantiles(took)
	took = nil
	for i := range 20 {
		addr, old := "192.168.50.3/24", testnet.ISPClientV4+"/24"
		if i%2 == 1 {
			addr, old = old, addr
		}
		r.client.Run(t, "ip", "address", "del", old, "dev", "eth0")
		r.client.Run(t, "ip", "address", "add", addr, "dev", "eth0")
		r.gateway(t, "-4", testnet.ISPGatewayV4)
		took = append(took, recovered("address"))
	}
	addresses := quantiles(took)
	took = nil
	r.up.ISP.Run(t, "ip", "address", "add", "192.168.50.9/24", "dev", "cl")
	for i := range 10 {
		r.gateway(t, "-4", []string{"192.168.50.9", testnet.ISPGatewayV4}[i%2])
		took = append(took, recovered("gateway"))
	}
	gateways := quantiles(took)
	took = nil
	for range 20 {
		r.kill(t)
		r.launch(t)
		took = append(took, recovered("restart"))
	}
	t.Logf("recovery after flaps %s, addresses %s, gateways %s, restarts of refd %s", flaps, addresses, gateways, quantiles(took))
	for _, s := range slices.Concat(chosen, others) {
		worked, failed := s.progress()
		t.Logf("%d connections worked, %d failed", worked, failed)
		if worked < 100 {
			t.Errorf("only %d connections worked: nothing was tested", worked)
		}
		s.p.Kill()
	}
}

// wantNoneWrong wants that nothing was captured that should not have left there. What it says of a packet goes by the port of the
// connection.
func (r *splitRig) wantNoneWrong(t *testing.T, after string, wrong map[string]*testnet.Sniffer) {
	t.Helper()
	for name, s := range wrong {
		n := s.Count()
		if n == 0 {
			continue
		}
		seen := s.Packets()
		t.Errorf("after %s: %s: got %d packets; want none, the first of them:\n%x", after, name, n, seen[:min(len(seen), 5)])
		if b := seen[0]; b[0]>>4 == 4 {
			port := binary.BigEndian.Uint16(b[(b[0]&15)*4:])
			for _, c := range r.conns(t) {
				if c.Tuple.Local.Port() == port {
					t.Logf("refd knows %+v, process %+v", c, c.Process)
				}
			}
			out, _ := r.client.Try("sh", "-c", fmt.Sprintf("conntrack -L 2>&1 | grep %d; ss -tanpie | grep -A1 :%[1]d; nft list ruleset; ip rule; ip route show table 1719", port))
			t.Logf("the kernel knows of port %d:\n%s", port, out)
		}
		t.FailNow()
	}
}

// recovery returns a function that waits until all streams get somewhere again, and returns how long that took.
func (r *splitRig) recovery(t *testing.T, streams []opener) func(what string) time.Duration {
	return func(what string) time.Duration {
		t.Helper()
		start := time.Now()
		before := make([]int, len(streams))
		for i, s := range streams {
			before[i], _ = s.progress()
		}
		r.eventually(t, startLimit, "recovers from "+what, func() bool {
			for i, s := range streams {
				if n, _ := s.progress(); n <= before[i] {
					if time.Since(start) > startLimit {
						t.Logf("no more connections of %d of %d; refd, the client and the router behind eth0 know:\n%s%s\n%s\n%s", i, len(streams),
							r.cli(t, "conns", "--limit", "40"), r.cli(t, "status", "--json"), routing(r.client), routing(r.up.ISP))
					}
					return false
				}
			}
			return true
		})
		return time.Since(start)
	}
}

// routing is what a host knows about its ways, what it hears of its neighbours in two seconds, and what its packet filter let pass.
func routing(h *testnet.Host) string {
	out, _ := h.Try("sh", "-c", "ip address show; "+
		"for f in -4 -6; do ip $f rule; ip $f route show table all; ip $f neigh; done; "+
		"timeout 2 tcpdump -nvi any -c 40 icmp6 2>&1; ip -6 neigh; "+
		"for t in mangle nat filter; do ip6tables-nft -t $t -nvL; done; grep -v ' 0$' /proc/net/snmp6")
	return out
}

func quantiles(d []time.Duration) string {
	slices.Sort(d)
	return fmt.Sprintf("p50 %v p99 %v", d[len(d)/2].Round(time.Millisecond), d[(len(d)*99)/100].Round(time.Millisecond))
}
