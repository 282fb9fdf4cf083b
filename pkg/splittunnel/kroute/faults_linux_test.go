package kroute_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/splittunnel"
)

// storm sends marked packets of both families, most of them the first of a connection, until the function that it returns is called.
func (r *rig) storm() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	for _, e := range ends() {
		sending.Go(func() {
			to := netip.AddrPortFrom(netip.MustParseAddr(e.split), 2000)
			result, err := r.Client.Blast(ctx, testnet.Blast{To: to, Ports: 1000, Rate: 1000, For: time.Minute})
			if err != nil && !errors.Is(err, context.Canceled) {
				r.t.Errorf("storm of %v: %v", e.family, err)
			}
			r.t.Logf("storm of %v: %d sent, %d refused", e.family, result.Sent, result.Refused)
		})
	}
	return sync.OnceFunc(func() {
		cancel()
		sending.Wait()
	})
}

// commands runs shell commands on the client.
func (r *rig) commands(lines ...string) {
	r.t.Helper()
	for _, line := range lines {
		r.Client.Run(r.t, "sh", "-ec", line)
	}
}

// The client's addresses and routes, as Uplinks makes them: the kernel drops them when a link goes down or away.
const (
	restoreV6     = "ip -6 address replace fd50::2/64 dev eth0 nodad"
	restoreRoutes = "ip route replace default via 192.168.50.1 dev eth0 metric 1000; ip -6 route replace default via fd50::1 dev eth0 metric 1000"
)

// fault is something that happens to the host. After mend marked packets must find their way again, by eth0.
type fault struct {
	name        string
	harm, mend  func(*rig)
	unreachable bool // after harm
	rounds      int
}

func shell(lines ...string) func(*rig) { return func(r *rig) { r.t.Helper(); r.commands(lines...) } }

func faults() []fault {
	nothing := func(*rig) {}
	return []fault{
		{"tables flushed", shell("ip route flush table 1719; ip -6 route flush table 1719"), nothing, false, 20},
		{"default deleted", shell("ip route del default table 1719 metric 1; ip -6 route del default table 1719 metric 1"), nothing, false, 20},
		{"rules deleted", shell("ip rule del priority 719; ip -6 rule del priority 719"), nothing, false, 20},
		{"guards deleted", shell("ip rule del priority 720 || true; ip -6 rule del priority 720 || true"), nothing, false, 20},
		{"link down", shell("ip link set eth0 down"), shell("ip link set eth0 up", restoreV6, restoreRoutes), true, 10},
		{
			"carrier lost", func(r *rig) { r.ISP.Run(r.t, "ip", "link", "set", "cl", "down") },
			func(r *rig) {
				r.ISP.Run(r.t, "sh", "-c", "ip link set cl up; ip -6 address replace fd50::1/64 dev cl nodad")
			}, true, 1,
		},
		{
			"address changed", shell("ip address del 192.168.50.2/24 dev eth0; ip -6 address del fd50::2/64 dev eth0"),
			shell("ip address add 192.168.50.77/24 dev eth0; ip -6 address add fd50::77/64 dev eth0 nodad", restoreRoutes), true, 1,
		},
		{
			"gateway changed", func(r *rig) {
				r.ISP.Run(r.t, "sh", "-ec", "ip address add 192.168.50.9/24 dev cl; ip address del 192.168.50.1/24 dev cl; ip address add 192.168.50.9/24 dev cl || true; "+
					"ip -6 address del fd50::1/64 dev cl; ip -6 address add fd50::9/64 dev cl nodad")
				r.Client.Run(r.t, "ip", "neighbour", "flush", "dev", "eth0")
			},
			shell("ip route replace default via 192.168.50.9 dev eth0 metric 1000; ip -6 route add default via fd50::9 dev eth0 metric 999; ip -6 route del default via fd50::1 dev eth0"), false, 1,
		},
		{
			"link-local gateway", nothing,
			func(r *rig) {
				r.ISP.Run(r.t, "ip", "-6", "address", "add", "fe80::9/64", "dev", "cl", "nodad")
				r.commands("ip -4 route replace default via inet6 fe80::9 dev eth0 metric 1000; ip -6 route add default via fe80::9 dev eth0 metric 999; ip -6 route del default via fd50::1 dev eth0")
			}, false, 1,
		},
		{"gateway gone", shell("ip route del default dev eth0; ip -6 route del default dev eth0"), shell(restoreRoutes), true, 5},
		{
			"interface deleted", shell("ip link del eth0"),
			func(r *rig) {
				r.lab.Link(r.Client, "eth0", testnet.Prefixes("192.168.50.2/24", "fd50::2/64"), r.ISP, "cl", testnet.Prefixes("192.168.50.1/24", "fd50::1/64"))
				r.commands(restoreRoutes)
			}, true, 5,
		},
	}
}

// TestIntegrationFaults: whatever happens to interface, tables and rules, no marked packet leaves by vpn0, and as soon as there is a
// way by eth0 it is taken again.
func TestIntegrationFaults(t *testing.T) {
	testutil.NoLeaks(t)
	for _, f := range faults() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t)
			e := r.run(r.config(), r.paths("eth0")...)
			e.follow("eth0")
			stop := r.storm()
			defer stop()
			r.works(t, "before")
			for range f.rounds {
				f.harm(r)
				if f.unreachable {
					r.unreachable(e)
				}
				f.mend(r)
				r.works(t, "again")
				eventually(t, "ready again", func() bool { return e.usable("eth0") })
				e.last = r.paths("eth0")
			}
			stop()
			r.noLeak()
		})
	}
}

// works waits for echos of both families, and checks by the time that takes.
func (r *rig) works(t *testing.T, when string) {
	t.Helper()
	for _, end := range ends() {
		took := eventually(t, when+" "+end.family.String(), func() bool { return r.echo("udp", end.split, 50*time.Millisecond) == nil })
		t.Logf("%s %v after %v", when, end.family, took.Round(time.Millisecond))
		if when == "again" && took > 2*time.Second {
			t.Errorf("%v: works again after %v; want less than 1s on a quiet machine", end.family, took)
		}
	}
}

// unreachable checks that connections are refused, with the reason.
func (r *rig) unreachable(e *running) {
	t := r.t
	t.Helper()
	paths := e.last
	for _, p := range paths {
		to := ends()[0].split
		if p.Family == netif.IPv6 {
			to = ends()[1].split
		}
		eventually(t, "refused", func() bool {
			_, err := e.Take(tuple(to), p)
			return errors.Is(err, splittunnel.ErrNotReady)
		})
		_, err := e.Take(tuple(to), p)
		t.Logf("%v: %v", p.Family, err)
		if err := r.echo("udp", to, 50*time.Millisecond); err == nil {
			t.Errorf("%v: there is an answer; want none", p.Family)
		}
	}
}

// TestIntegrationFight: somebody who deletes all the time is answered at a bounded rate, without a leak, and outlived.
func TestIntegrationFight(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t)
	e := r.run(r.config(), r.paths("eth0")...)
	stop := r.storm()
	defer stop()
	const deletions = 20000
	r.commands(`for i in $(seq 5000); do for j in 1 2 3; do echo route flush table 1719; echo rule del priority 719; done; done | ip -force -batch - >/dev/null 2>&1 || true`)
	f := e.figures()
	if f.Repairs == 0 || f.Repairs > deletions/5 {
		t.Errorf("got %d repairs; want some, and far fewer than deletions", f.Repairs)
	}
	t.Logf("%d repairs", f.Repairs)
	r.works(t, "again")
	stop()
	r.noLeak()
}

// TestIntegrationRulesInFront: rules that others put in front of ours, as wg-quick does, stay and change nothing. What keeps packets
// in the moment before ours are in front again is the guard, here one by hand.
func TestIntegrationRulesInFront(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t)
	for _, end := range ends() {
		r.commands(end.iptables + " -t mangle -A POSTROUTING -m mark --mark 1719 ! -o eth0 -j DROP")
	}
	before := r.state()
	e := r.run(r.config(), r.paths("eth0")...)
	stop := r.storm()
	defer stop()
	// first reports whether the first rule behind the local table's is ours, and has a priority.
	first := func(flag, priority string) func() bool {
		return func() bool {
			rules := strings.Split(r.Client.Run(t, "ip", flag, "rule"), "\n")
			return strings.HasPrefix(rules[1], priority) && strings.Contains(rules[1], "lookup 1719")
		}
	}
	for range 5 {
		for _, flag := range []string{"-4", "-6"} {
			r.commands("ip "+flag+" route add default dev vpn0 table 51820", "ip "+flag+" rule add not fwmark 51820 table 51820",
				"ip "+flag+" rule add table main suppress_prefixlength 0")
			eventually(t, "in front", first(flag, ""))
		}
		r.works(t, "again")
		for _, flag := range []string{"-4", "-6"} {
			r.commands("ip "+flag+" rule del not fwmark 51820 table 51820", "ip "+flag+" rule del table main suppress_prefixlength 0",
				"ip "+flag+" route flush table 51820")
			eventually(t, "back", first(flag, "719:"))
		}
		r.works(t, "again")
	}
	// Rules that cannot be about our marks are no reason to move.
	r.commands("ip rule add fwmark 0x200/0xf00 lookup 99 priority 9", "ip rule add lookup local priority 100", "ip rule del priority 0")
	r.works(t, "again")
	if p := e.figures().Problem; p != "" {
		t.Errorf("there is a problem: %s", p)
	}
	r.commands("ip rule add from 192.0.2.0/24 lookup 99 priority 50")
	eventually(t, "said", func() bool { return strings.Contains(e.figures().Problem, "no room") })
	r.works(t, "again")
	r.commands("ip rule del priority 9; ip rule del priority 50; ip rule add lookup local priority 0 protocol kernel; ip rule del priority 100")
	eventually(t, "well", func() bool { return e.figures().Problem == "" })
	stop()
	r.noLeak()
	if err := e.stop(); err != nil {
		t.Fatal(err)
	}
	r.same("rules in front", before)
}

// fakeGuard notes what it is told. The first time it fails.
type fakeGuard struct {
	mu     sync.Mutex // guards what follows
	failed bool
	names  string
}

func (g *fakeGuard) AllowRoutes(names map[uint8]string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.failed {
		g.failed = true
		return errors.New("not now")
	}
	g.names = fmt.Sprint(names)
	return nil
}

func (g *fakeGuard) told() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.names
}

// TestIntegrationGuard: a path is opened when the guard knows it, and not before.
func TestIntegrationGuard(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t)
	var guard fakeGuard
	cfg := r.config()
	cfg.Guard = &guard
	e := r.run(cfg)
	eventually(t, "told at last", func() bool { return guard.told() == "map[]" })
	if err := e.Use(t.Context(), r.paths("eth0")); err != nil {
		t.Fatal(err)
	}
	if got := guard.told(); got != "map[0:eth0]" {
		t.Errorf("the guard was told %s; want map[0:eth0]", got)
	}
	guard.mu.Lock()
	guard.failed = false
	guard.mu.Unlock()
	if err := e.Use(t.Context(), r.paths("eth0", "vpn0")); err == nil || !strings.Contains(err.Error(), "not now") {
		t.Errorf("got error %v; want the guard's", err)
	}
	if !e.usable("eth0") {
		t.Error("eth0 is not usable although the guard knows it")
	}
	eventually(t, "both usable", func() bool { return e.usable("eth0") && e.usable("vpn0") })
	if got := guard.told(); got != "map[0:eth0 1:vpn0]" {
		t.Errorf("the guard was told %s; want both", got)
	}
}

// TestIntegrationForeignRoutes: what somebody else puts into a table of ours stays, and as long as it does the path is refused.
func TestIntegrationForeignRoutes(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t)
	e := r.run(r.config(), r.paths("eth0")...)
	p := r.paths("eth0")[0]
	r.commands("ip route add 198.51.100.0/24 dev eth0 table 1719", "ip rule add fwmark 1719 lookup 99 priority 719", "ip rule add fwmark 1719 lookup 1719 priority 719 protocol static")
	eventually(t, "refused", func() bool { _, err := e.Take(tuple(ends()[0].split), p); return err != nil })
	_, err := e.Take(tuple(ends()[0].split), p)
	if !errors.Is(err, splittunnel.ErrNotReady) || !strings.Contains(err.Error(), "ip route show table 1719") {
		t.Errorf("got error %v; want ErrNotReady with a remedy", err)
	}
	if got := r.Client.Run(t, "ip", "route", "show", "table", "1719"); !strings.Contains(got, "198.51.100.0/24") {
		t.Errorf("the foreign route is gone: %s", got)
	}
	r.commands("ip route del 198.51.100.0/24 dev eth0 table 1719")
	eventually(t, "taken again", func() bool { _, err := e.Take(tuple(ends()[0].split), p); return err == nil })
	if err := e.stop(); err != nil {
		t.Fatal(err)
	}
	got := r.Client.Run(t, "ip", "rule", "show", "priority", "719")
	if strings.Count(got, "\n") != 2 || !strings.Contains(got, "lookup 99") || !strings.Contains(got, "proto static") {
		t.Errorf("got rules\n%swant the two of others", got)
	}
}
