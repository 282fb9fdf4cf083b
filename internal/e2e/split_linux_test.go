package e2e_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/verdict"
)

const (
	splitTCPPort = 7001
	splitUDPPort = 7005
	splitPeers   = 64 // UDP ports from splitUDPPort on
)

// splitRig is a client with refd and two uplinks. Of a program with two names, "chosen" leaves by eth0 and "other" does not.
type splitRig struct {
	*rig
	up      *testnet.Uplinks
	sniffed [numGroups]sniffed
}

func newSplitRig(t *testing.T, variant testutil.Variant) *splitRig {
	t.Helper()
	testutil.RequireIPTables(t, variant)
	testutil.RequireNFQUEUE(t)
	testutil.RequireTool(t, "ping", "nft", "conntrack")
	lab := testnet.New(t)
	up := lab.Uplinks()
	r := &splitRig{up: up, rig: &rig{lab: lab, variant: variant, dir: lab.Dir(), client: up.Client, server: up.Server}}
	r.binary = lab.Program(t, "github.com/weirfw/weir/cmd/refd")
	talk := lab.Program(t, "./testdata/prog/talk")
	for _, name := range []string{"chosen", "other"} {
		copyProgram(t, talk, r.app(name))
		copyProgram(t, "/bin/ping", r.app(name+"-ping"))
	}
	r.server.TCPEcho(t, fmt.Sprintf("[::]:%d", splitTCPPort))
	for _, g := range []group{forChosen, forOthers, forOff} {
		for i, a := range g.servers() {
			if g != forChosen {
				addAddress(t, r.server, "lo", netip.PrefixFrom(a, a.BitLen()).String())
			}
			for peer := range uint16(splitPeers) {
				r.server.UDPEcho(t, hostPort(a, splitUDPPort+peer))
			}
			if i < 2 {
				r.sniffed[g].add(t, r.client, a)
			}
		}
	}
	return r
}

// group are servers that have counters of their own: the last packets of a connection come after its program has ended.
type group int

const (
	forChosen group = iota
	forOthers
	forOff // while the split tunnel is off
	numGroups
)

// servers returns two addresses of each family: v4, v6, v4, v6.
func (g group) servers() []netip.Addr {
	list := [][]string{
		forChosen: {testnet.UplinkServerV4, testnet.UplinkServerV6, testnet.UplinkOtherServerV4, testnet.UplinkOtherServerV6},
		forOthers: {"203.0.113.20", "2001:db8:5::20", "203.0.113.21", "2001:db8:5::21"},
		forOff:    {"203.0.113.40", "2001:db8:5::40", "203.0.113.41", "2001:db8:5::41"},
	}[g]
	var addrs []netip.Addr
	for _, a := range list {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs
}

// sniffed counts what leaves the client for a group of servers.
type sniffed struct{ vpn, isp []*testnet.Sniffer }

// add counts what leaves for the 16 addresses around a.
func (s *sniffed) add(t *testing.T, client *testnet.Host, a netip.Addr) {
	t.Helper()
	around := netip.PrefixFrom(a, a.BitLen()-4).Masked()
	f := testnet.Filter{Dst: around, Direction: testnet.Outgoing}
	s.vpn = append(s.vpn, client.Sniff(t, "vpn0", f))
	s.isp = append(s.isp, client.Sniff(t, "eth0", f))
}

func (s *sniffed) counts() (c counts) {
	for i := range s.vpn {
		c.vpn += s.vpn[i].Count()
		c.isp += s.isp[i].Count()
	}
	return c
}

// copyProgram copies a program, so that it has a path of its own.
func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (r *splitRig) app(name string) string { return filepath.Join(r.dir, name) }

// split is the configuration for an engine; more is YAML that goes into the app's split section, a line each.
func (r *splitRig) split(engine string, more ...string) string {
	return fmt.Sprintf(`
default: {in: block, out: allow}
split_tunnel: {engine: %s}
apps:
  - id: chosen
    match: [{path: "%s*"}]
    split:
      use: true
      interface: eth0
      %s
`, engine, r.app("chosen"), strings.Join(more, "\n      "))
}

// counts are packets that left, by uplink.
type counts struct{ vpn, isp uint64 }

// tried is one program run to its end, with what it made leave.
type tried struct {
	out  string
	err  error
	left counts
}

// try runs a program that talks to a group of servers, and counts what leaves for those.
func (r *splitRig) try(g group, name string, args ...string) tried {
	before := r.sniffed[g].counts()
	out, err := r.client.Try(name, args...)
	after := r.sniffed[g].counts()
	return tried{out: out, err: err, left: counts{after.vpn - before.vpn, after.isp - before.isp}}
}

// by wants the program to have worked, with packets on one uplink only.
func (r tried) by(t *testing.T, uplink string) {
	t.Helper()
	right, wrong := r.left.isp, r.left.vpn
	if uplink == "vpn0" {
		right, wrong = wrong, right
	}
	if r.err != nil || right == 0 || wrong != 0 {
		t.Errorf("got %v, %d packets by %s, %d by the other; want success and some, 0\n%s", r.err, right, uplink, wrong, r.out)
	}
}

// talks are what a program does in all protocols that both engines carry: name and arguments.
func (g group) talks() map[string][]string {
	m := map[string][]string{}
	servers := g.servers()
	for i, a := range servers[:2] {
		name := []string{"v4", "v6"}[i]
		m["tcp "+name] = []string{"tcp", hostPort(a, splitTCPPort)}
		m["udp "+name] = []string{"udp", hostPort(a, splitUDPPort)}
		m["udp unconnected "+name] = []string{"udpto", hostPort(a, splitUDPPort), hostPort(servers[i+2], splitUDPPort)}
		many := []string{"udpto"}
		for peer := range uint16(splitPeers) {
			many = append(many, hostPort(a, splitUDPPort+peer))
		}
		m["udp to 64 peers "+name] = many
	}
	return m
}

// The chosen app leaves by eth0, with eth0's address, and gets its answers; others leave by the VPN; not one packet goes the
// other way. Without the split tunnel the same app leaves by the VPN: the captures see it.
func TestIntegrationSplitTunnel(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariantOf(t, func(t *testing.T, r *splitRig) {
		before := r.client.Snapshot(t)
		for _, engine := range []string{"kroute", "proxy"} {
			t.Run(engine, func(t *testing.T) {
				r.start(t, settings{rules: r.split(engine), owners: "auto"})
				testSplit(t, r, engine)
				r.stop(t)
				if diff := testnet.Diff(before, r.client.Snapshot(t)); diff != "" {
					t.Errorf("refd left or took something:\n%s", diff)
				}
			})
		}
	})
}

func testSplit(t *testing.T, r *splitRig, engine string) {
	t.Helper()
	for name, args := range forChosen.talks() {
		t.Run("chosen "+name, func(t *testing.T) { r.try(forChosen, r.app("chosen"), args...).by(t, "eth0") })
	}
	for name, args := range forOthers.talks() {
		t.Run("other "+name, func(t *testing.T) { r.try(forOthers, r.app("other"), args...).by(t, "vpn0") })
	}
	if engine == "kroute" {
		for i := range 2 {
			t.Run(fmt.Sprintf("ping %d", i), func(t *testing.T) {
				ping := func(g group, name string) tried {
					return r.try(g, r.app(name), "-n", "-c2", "-i0.2", "-W4", g.servers()[i].String())
				}
				ping(forChosen, "chosen-ping").by(t, "eth0")
				ping(forOthers, "other-ping").by(t, "vpn0")
			})
		}
	}
	s := r.conn(t, forChosen.servers()[0], splitTCPPort, "--app", r.app("chosen"))
	want := conn.SplitTunContext{Interface: "eth0", Source: netip.MustParseAddr(testnet.ISPClientV4), Engine: engine}
	if s.Decision.Verdict != verdict.RerouteToSplitTun || s.SplitTun == nil || *s.SplitTun != want {
		t.Errorf("refd conns: got %v, %+v; want split by %+v", s.Decision, s.SplitTun, want)
	}
	if out := r.cli(t, "explain", r.app("chosen"), hostPort(forChosen.servers()[0], splitTCPPort)); !strings.Contains(out, "leaves by eth0") {
		t.Errorf("refd explain does not say that it leaves by eth0:\n%s", out)
	}
	r.cli(t, "split", "off")
	for name, args := range forOff.talks() {
		t.Run("off, chosen "+name, func(t *testing.T) { r.try(forOff, r.app("chosen"), args...).by(t, "vpn0") })
	}
	r.cli(t, "split", "on")
	r.try(forChosen, r.app("chosen"), forChosen.talks()["tcp v4"]...).by(t, "eth0")
	if out := r.cli(t, "split"); !strings.Contains(out, "eth0") || !strings.Contains(out, engine) {
		t.Errorf("refd split says nothing about eth0 and %s:\n%s", engine, out)
	}
}

// Around a real VPN, with the kill switch that wg-quick writes: the chosen app by the best physical interface, the others through
// it, with both engines, whichever rules wg-quick uses, before and after refd starts again.
func TestIntegrationSplitWireGuard(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, base *rig) {
		w := newTunnel(t, base)
		w.up(t, base.server)
		r := &splitRig{rig: base}
		talk := r.lab.Program(t, "./testdata/prog/talk")
		copyProgram(t, talk, r.app("chosen"))
		copyProgram(t, talk, r.app("other"))
		r.server.TCPEcho(t, fmt.Sprintf("[::]:%d", splitTCPPort))
		for g, addrs := range aroundTunnel() {
			for _, a := range addrs {
				addAddress(t, r.server, "lo", netip.PrefixFrom(a, a.BitLen()).String())
				r.server.UDPEcho(t, hostPort(a, splitUDPPort))
				f := testnet.Filter{Dst: netip.PrefixFrom(a, a.BitLen()), Direction: testnet.Incoming}
				s := &r.sniffed[g]
				s.isp = append(s.isp, r.server.Sniff(t, "eth0", f))
				s.vpn = append(s.vpn, r.server.Sniff(t, serverTunnel, f))
			}
		}
		for _, c := range []struct{ rules, engine string }{{"nft", "kroute"}, {"nft", "proxy"}, {"iptables", "kroute"}, {"iptables", "proxy"}} {
			if c.rules == "iptables" && w.env == nil {
				w.withoutNFT(t)
			}
			t.Run(c.rules+" "+c.engine, func(t *testing.T) {
				config := strings.Replace(r.split(c.engine), "interface: eth0", `interface: ""`, 1)
				r.start(t, settings{rules: config})
				w.checkUp(t, w.up(t, r.client), c.rules)
				testAroundTunnel(t, r)
				w.wantExceptions(t, c.engine == "proxy")
				r.stop(t)
				w.wantExceptions(t, false)
				r.launch(t)
				testAroundTunnel(t, r)
				testKillSwitchControl(t, r, w, c.engine)
			})
		}
	})
}

// testKillSwitchControl wants only the kernel engine to work where a kill switch has no exception.
func testKillSwitchControl(t *testing.T, r *splitRig, w *tunnel, engine string) {
	t.Helper()
	to := hostPort(aroundTunnel()[forChosen][0], splitTCPPort)
	works := func() bool {
		got := r.try(forChosen, r.app("chosen"), "tcp", to)
		if got.left.vpn != 0 {
			t.Errorf("%d packets went through the tunnel; want 0", got.left.vpn)
		}
		return got.err == nil
	}
	w.withControl(t, func() {
		if works() != (engine == "kroute") {
			t.Error("want only the kernel engine to work with a kill switch that has no exception")
		}
	})
	r.eventually(t, startLimit, "works again without it", works)
}

// aroundTunnel are servers that can be reached through the tunnel and around it.
func aroundTunnel() map[group][]netip.Addr {
	return map[group][]netip.Addr{
		forChosen: tunnelAddresses.behind,
		forOthers: {netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::3")},
	}
}

func testAroundTunnel(t *testing.T, r *splitRig) {
	t.Helper()
	talks := func(a netip.Addr) [][]string {
		return [][]string{{"tcp", hostPort(a, splitTCPPort)}, {"udp", hostPort(a, splitUDPPort)}, {"udpto", hostPort(a, splitUDPPort)}}
	}
	servers := aroundTunnel()
	for i := range servers[forChosen] {
		for _, args := range talks(servers[forChosen][i]) {
			r.eventually(t, startLimit, "the chosen app gets around the tunnel", func() bool {
				got := r.try(forChosen, r.app("chosen"), args...)
				if got.left.vpn != 0 {
					t.Errorf("%v: %d packets went through the tunnel; want 0", args, got.left.vpn)
				}
				return got.err == nil
			})
			r.try(forChosen, r.app("chosen"), args...).by(t, "eth0")
		}
		for _, args := range talks(servers[forOthers][i]) {
			r.try(forOthers, r.app("other"), args...).by(t, "vpn0")
		}
	}
}
