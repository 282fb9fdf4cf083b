package e2e_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// bothWays are probes of all protocols and families between client and server, to addresses that nobody else uses.
func bothWays(r *rig) []verdictCase {
	var cases []verdictCase
	for _, c := range verdictCases(r) {
		if c.verdict == "block" && !strings.HasPrefix(c.name, "loopback") {
			cases = append(cases, c)
		}
	}
	return cases
}

// wantAll runs the probes and wants them all to see the same.
func wantAll(t *testing.T, cases []verdictCase, want outcome) {
	t.Helper()
	for i := range cases {
		cases[i].probe.patience = want.patience()
	}
	for i, s := range runAll(cases) {
		if s.outcome != want {
			t.Errorf("%s: got %s after %v; want %s\n%s", cases[i].name, s.outcome, s.after, want, s.output)
		}
	}
}

// flood is a stream of packets of new connections to addresses that are forbidden.
type flood struct {
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	tried    [2]uint64
	over     [2]bool // it ended by itself, before what it should have met
	sniffers [2]*testnet.Sniffer
}

// floodForbidden starts a flood that ends with the test at the latest.
func floodForbidden(t *testing.T, r *rig) *flood {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &flood{cancel: cancel}
	for i, to := range []string{"10.77.0.4", "fd77::4"} {
		a := netip.MustParseAddr(to)
		f.sniffers[i] = r.server.Sniff(t, "eth0", testnet.Filter{
			Proto: syscall.IPPROTO_UDP, Dst: netip.PrefixFrom(a, a.BitLen()), Direction: testnet.Incoming,
		})
		f.wg.Go(func() {
			blast := testnet.Blast{To: netip.AddrPortFrom(a, 10000), Ports: 1000, Rate: 2000, For: time.Minute}
			result, err := r.client.Blast(ctx, blast)
			if err != nil && ctx.Err() == nil {
				t.Errorf("flood: %v", err)
			}
			f.tried[i], f.over[i] = result.Sent+result.Refused, ctx.Err() == nil
		})
	}
	t.Cleanup(f.end)
	return f
}

func (f *flood) end() {
	f.cancel()
	f.wg.Wait()
}

// none ends the flood and wants that nothing of it arrived.
func (f *flood) none(t *testing.T) {
	t.Helper()
	f.end()
	for i, s := range f.sniffers {
		if got := s.Count(); got != 0 || f.tried[i] < 500 {
			t.Errorf("of %d forbidden packets %d arrived; want none of 500 or more", f.tried[i], got)
		}
		if f.over[i] {
			t.Error("the flood ended before the test did")
		}
	}
}

const forbidFourth = `
default: {in: allow, out: allow}
global:
  - {id: forbidden, direction: out, remote: [10.77.0.4, "fd77::4"], action: drop}
`

// After kill -9 in mode enforce what was accepted for good goes on and nothing else passes; a restart takes over.
func TestIntegrationKillEnforce(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		addVerdictAddresses(t, r)
		cases := bothWays(r)
		serveVerdicts(t, r, cases)
		r.primeTables(t)
		before := r.client.Snapshot(t)
		r.start(t, settings{rules: forbidFourth})
		running := []*download{
			r.download(t, r.client, "curl", testnet.ServerV4), r.download(t, r.client, "curl", testnet.ServerV6),
			r.download(t, r.server, "curl", testnet.ClientV4), r.download(t, r.server, "curl", testnet.ClientV6),
		}
		waitGrow(t, r, running)
		flood := floodForbidden(t, r)
		leaks := sniffRefused(t, r)
		r.kill(t)
		wantAll(t, cases, silent)
		leaks.none(t)
		waitGrow(t, r, running)
		r.launch(t)
		wantAll(t, cases, answered)
		waitGrow(t, r, running)
		flood.none(t)
		r.stop(t)
		if diff := testnet.Diff(before, r.client.Snapshot(t)); diff != "" {
			t.Errorf("refd left or took something:\n%s", diff)
		}
	})
}

// A connection goes on under the next refd. One that was not accepted for good waits meanwhile.
func TestIntegrationKillRestart(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		for _, in := range []string{"allow", "block"} {
			for _, permanent := range []string{"false", "true"} {
				t.Run(fmt.Sprintf("in %s permanent %s", in, permanent), func(t *testing.T) {
					testKillRestart(t, r, in, permanent)
				})
			}
		}
	})
}

func testKillRestart(t *testing.T, r *rig, in, permanent string) {
	t.Helper()
	r.start(t, settings{verdicts: permanent, rules: fmt.Sprintf("default: {in: %s, out: allow}\n", in)})
	running := []*download{r.download(t, r.client, "curl", testnet.ServerV4), r.download(t, r.client, "curl", testnet.ServerV6)}
	waitGrow(t, r, running)
	r.kill(t)
	if permanent == "true" {
		waitGrow(t, r, running)
	} else {
		waitStall(t, r, running)
	}
	r.launch(t)
	waitGrow(t, r, running)
	for _, d := range running {
		d.Kill()
	}
}

// A connection that is older than the first start goes on where the rules allow it, whoever sends first from then on, and under
// the next refd, too.
func TestIntegrationOlder(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		for _, c := range []struct {
			rules string
			by    *testnet.Host
			from  []string
		}{
			{"in: allow, out: allow", r.client, []string{testnet.ServerV4, testnet.ServerV6}},
			{"in: block, out: allow", r.client, []string{testnet.ServerV4, testnet.ServerV6}},
			{"in: allow, out: block", r.server, []string{testnet.ClientV4, testnet.ClientV6}},
		} {
			t.Run(c.rules, func(t *testing.T) {
				var running []*download
				for _, from := range c.from {
					running = append(running, r.download(t, c.by, "curl", from))
				}
				waitGrow(t, r, running)
				r.start(t, settings{rules: fmt.Sprintf("default: {%s}\n", c.rules)})
				waitGrow(t, r, running)
				r.kill(t)
				r.launch(t)
				waitGrow(t, r, running)
				for _, d := range running {
					d.Kill()
				}
			})
		}
	})
}

// A pause is no reason to lose a connection either.
func TestIntegrationOlderThanPause(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		r.start(t, settings{rules: "default: {in: block, out: allow}\n"})
		running := []*download{r.download(t, r.client, "curl", testnet.ServerV4), r.download(t, r.client, "curl", testnet.ServerV6)}
		waitGrow(t, r, running)
		r.cli(t, "pause", "10m")
		waitGrow(t, r, running)
		r.cli(t, "resume")
		waitGrow(t, r, running)
	})
}

// After kill -9 in mode observe everything passes.
func TestIntegrationKillObserve(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		addVerdictAddresses(t, r)
		cases := bothWays(r)
		serveVerdicts(t, r, cases)
		r.start(t, settings{mode: "observe", rules: "default: {in: block, out: block}\n"})
		wantAll(t, cases, answered)
		r.kill(t)
		wantAll(t, cases, answered)
		r.launch(t)
		wantAll(t, cases, answered)
	})
}

// refd cleanup after kill -9 leaves the host as it was, whatever the mode.
func TestIntegrationCleanup(t *testing.T) {
	testutil.NoLeaks(t)
	cycles := 10 // of each variant
	if testing.Short() {
		cycles = 2
	}
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		r.client.Run(t, r.tool(netip.IPv4Unspecified(), ""), "-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "DROP")
		r.client.Run(t, r.tool(netip.IPv6Unspecified(), ""), "-t", "mangle", "-A", "OUTPUT", "-j", "MARK", "--set-mark", "1")
		r.primeTables(t)
		before := r.client.Snapshot(t)
		for i := range cycles {
			r.configure(t, settings{mode: []string{"enforce", "observe"}[i%2], onExit: []string{"closed", "open"}[i/2%2]})
			r.launch(t)
			r.client.Run(t, "curl", "-gsS", "-m5", "http://["+testnet.ServerV6+"]:8080/")
			r.client.Run(t, "curl", "-gsS", "-m5", "http://"+testnet.ServerV4+":8080/")
			r.kill(t)
			r.cli(t, "cleanup")
			if diff := testnet.Diff(before, r.client.Snapshot(t)); diff != "" {
				t.Fatalf("after cleanup %d:\n%s", i+1, diff)
			}
			if entries := r.client.Run(t, "conntrack", "-L"); strings.Contains(entries, "mark=17") {
				t.Fatalf("connections still have our marks:\n%s", entries)
			}
		}
	})
}
