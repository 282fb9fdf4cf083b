package e2e_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// side is where the two ends of a probed connection are, and by whom it is judged.
type side struct {
	name string
	// addresses of both families: the judged one's first three letters are replaced by the verdict's number
	inbound  bool
	loopback bool
	from, to [2]string
}

// Verdicts have a number that ends the judged address: 2 allow, 3 block, 4 drop.
var expectations = []struct {
	verdict string
	number  byte
}{{"allow", 2}, {"block", 3}, {"drop", 4}}

// The judged address of a side is written with an N for the verdict's number.
var sides = []side{
	{name: "out", from: [2]string{testnet.ClientV4, testnet.ClientV6}, to: [2]string{"10.77.0.N", "fd77::N"}},
	{name: "in", inbound: true, from: [2]string{"10.77.0.1N", "fd77::1N"}, to: [2]string{testnet.ClientV4, testnet.ClientV6}},
	{name: "loopback out", loopback: true, from: [2]string{"127.77.1.2", "fd79::2"}, to: [2]string{"127.77.0.N", "fd78::N"}},
	{name: "loopback in", loopback: true, inbound: true, from: [2]string{"127.77.1.N", "fd79::N"}, to: [2]string{"127.77.0.2", "fd78::2"}},
}

func numbered(template string, n byte) netip.Addr {
	return netip.MustParseAddr(strings.ReplaceAll(template, "N", fmt.Sprint(n)))
}

// verdictRules block and drop what has a 3 or 4 in its address.
const verdictRules = `
default: {in: allow, out: allow}
global:
  - {id: out-block, direction: out, remote: [10.77.0.3, "fd77::3", 127.77.0.3, "fd78::3"], action: block}
  - {id: out-drop, direction: out, remote: [10.77.0.4, "fd77::4", 127.77.0.4, "fd78::4"], action: drop}
  - {id: in-block, direction: in, remote: [10.77.0.13, "fd77::13", 127.77.1.3, "fd79::3"], action: block}
  - {id: in-drop, direction: in, remote: [10.77.0.14, "fd77::14", 127.77.1.4, "fd79::4"], action: drop}
`

// addVerdictAddresses gives client and server the addresses of sides.
func addVerdictAddresses(t *testing.T, r *rig) {
	t.Helper()
	for _, e := range expectations {
		for _, address := range []string{"10.77.0.N/24", "10.77.0.1N/24", "fd77::N/64", "fd77::1N/64"} {
			addAddress(t, r.server, "eth0", strings.ReplaceAll(address, "N", fmt.Sprint(e.number)))
		}
		for _, address := range []string{"fd78::N/128", "fd79::N/128"} {
			addAddress(t, r.client, "lo", strings.ReplaceAll(address, "N", fmt.Sprint(e.number)))
		}
	}
}

func addAddress(t *testing.T, h *testnet.Host, iface, address string) {
	t.Helper()
	args := []string{"address", "replace", address, "dev", iface}
	if strings.Contains(address, ":") {
		args = append(args, "nodad")
	}
	h.Run(t, "ip", args...)
}

// verdictCase is a probe with what it has to see.
type verdictCase struct {
	name    string
	verdict string
	probe   probe
}

// verdictCases is everything: sides, families, protocols, verdicts.
func verdictCases(r *rig) []verdictCase {
	var cases []verdictCase
	for _, s := range sides {
		host := r.client
		if s.inbound && !s.loopback {
			host = r.server
		}
		for family, ip := range []string{"v4", "v6"} {
			for _, protocol := range []string{"tcp", "udp", "echo"} {
				for _, e := range expectations {
					c := verdictCase{
						name: fmt.Sprintf("%s %s %s %s", s.name, ip, protocol, e.verdict), verdict: e.verdict,
						probe: probe{
							host: host, protocol: protocol,
							from: numbered(s.from[family], e.number), to: numbered(s.to[family], e.number),
						},
					}
					c.probe.patience = c.expected().patience()
					cases = append(cases, c)
				}
			}
		}
	}
	return cases
}

// expected is what the program of a case has to see.
func (c *verdictCase) expected() outcome {
	switch {
	case c.verdict == "allow":
		return answered
	case c.verdict == "block" && c.probe.protocol != "echo":
		return refused
	}
	return silent
}

// patience is how long a probe waits: for an answer long enough on a busy machine, for silence long enough to be sure.
func (o outcome) patience() time.Duration {
	if o == silent {
		return time.Second
	}
	return 10 * time.Second
}

// check compares what was seen with what had to be.
func (c *verdictCase) check(t *testing.T, s sight) {
	t.Helper()
	if s.outcome != c.expected() {
		t.Errorf("got %s after %v; want %s\n%s", s.outcome, s.after, c.expected(), s.output)
	}
	// Far below the timeout of a connection attempt, far above what a busy machine needs.
	const atOnce = 3 * time.Second
	if s.outcome == refused && s.after > atOnce {
		t.Errorf("refused after %v; want at once", s.after)
	}
}

// runAll runs all probes side by side, some at a time.
func runAll(cases []verdictCase) []sight {
	seen := make([]sight, len(cases))
	slots := make(chan struct{}, 24)
	var wg sync.WaitGroup
	for i := range cases {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			seen[i] = cases[i].probe.run()
		})
	}
	wg.Wait()
	return seen
}

// leakCheck counts what reaches the server's network from refused outbound probes.
type leakCheck struct{ sniffers []*testnet.Sniffer }

func sniffRefused(t *testing.T, r *rig) *leakCheck {
	t.Helper()
	var l leakCheck
	for _, n := range []byte{3, 4} {
		for _, template := range []string{"10.77.0.N", "fd77::N"} {
			a := numbered(template, n)
			l.sniffers = append(l.sniffers, r.server.Sniff(t, "eth0", testnet.Filter{
				Dst: netip.PrefixFrom(a, a.BitLen()), Direction: testnet.Incoming,
			}))
		}
	}
	return &l
}

// each calls fn with the number of packets for each refused address, without the neighbour discovery of IPv6.
func (l *leakCheck) each(fn func(count uint64, packets [][]byte)) {
	const headerV6, neighbourSolicit, neighbourAdvert = 40, 135, 136
	for _, s := range l.sniffers {
		count := s.Count()
		for _, p := range s.Packets() {
			if p[0]>>4 == 6 && p[6] == 58 && (p[headerV6] == neighbourSolicit || p[headerV6] == neighbourAdvert) {
				count--
			}
		}
		fn(count, s.Packets())
	}
}

// none wants that nothing came.
func (l *leakCheck) none(t *testing.T) {
	t.Helper()
	l.each(func(count uint64, packets [][]byte) {
		if count != 0 {
			t.Errorf("%d refused packets reached the server; want 0: %x", count, packets)
		}
	})
}

// prohibited are the ICMP answers that the server's blocked probes get.
type prohibited []*testnet.Sniffer

func sniffProhibited(t *testing.T, r *rig) prohibited {
	t.Helper()
	var p prohibited
	for i, address := range []string{"10.77.0.13", "fd77::13"} {
		a := netip.MustParseAddr(address)
		p = append(p, r.server.Sniff(t, "eth0", testnet.Filter{
			Proto: []uint8{syscall.IPPROTO_ICMP, syscall.IPPROTO_ICMPV6}[i], Dst: netip.PrefixFrom(a, a.BitLen()),
			Direction: testnet.Incoming,
		}))
	}
	return p
}

// check wants one answer "administratively prohibited" for TCP and one for UDP, and none for the echo.
func (p prohibited) check(t *testing.T) {
	t.Helper()
	// RFC 1812, 5.2.7.1: type 3, code 13. RFC 4443, 3.1: type 1, code 1.
	want := []struct {
		header     int
		kind, code byte
	}{{20, 3, 13}, {40, 1, 1}}
	for i, w := range want {
		var quoted []byte
		for _, b := range p[i].Packets() {
			kind, code := b[w.header], b[w.header+1]
			if kind == w.kind && code == w.code {
				inner := b[w.header+8:]
				quoted = append(quoted, inner[[]int{9, 6}[i]])
			} else if kind == 0 || kind == 129 {
				t.Errorf("a blocked echo was answered: %x", b)
			}
		}
		slices.Sort(quoted)
		if !slices.Equal(slices.Compact(quoted), []byte{syscall.IPPROTO_TCP, syscall.IPPROTO_UDP}) {
			t.Errorf("answers quote protocols %v; want TCP and UDP", quoted)
		}
	}
}

func TestIntegrationVerdicts(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		addVerdictAddresses(t, r)
		cases := verdictCases(r)
		serveVerdicts(t, r, cases)
		proveProbes(t, r, cases)
		for _, permanent := range []string{"true", "false"} {
			t.Run("permanent "+permanent, func(t *testing.T) {
				leaks, answers := sniffRefused(t, r), sniffProhibited(t, r)
				r.start(t, settings{verdicts: permanent, rules: verdictRules})
				for i, s := range runAll(cases) {
					t.Run(cases[i].name, func(t *testing.T) { cases[i].check(t, s) })
				}
				leaks.none(t)
				answers.check(t)
			})
		}
	})
}

// serveVerdicts starts what the probes talk to.
func serveVerdicts(t *testing.T, r *rig, cases []verdictCase) {
	t.Helper()
	var client, server []netip.Addr
	for _, c := range cases {
		targets := &client
		if strings.HasPrefix(c.name, "out ") {
			targets = &server
		}
		if !slices.Contains(*targets, c.probe.to) {
			*targets = append(*targets, c.probe.to)
		}
	}
	serve(t, r.client, client...)
	serve(t, r.server, server...)
}

// proveProbes shows that without a firewall every probe gets its answer, and that the sniffers see them.
func proveProbes(t *testing.T, r *rig, cases []verdictCase) {
	t.Helper()
	open := make([]verdictCase, len(cases))
	copy(open, cases)
	for i := range open {
		open[i].probe.patience = answered.patience()
	}
	leaks := sniffRefused(t, r)
	for i, s := range runAll(open) {
		if s.outcome != answered {
			t.Fatalf("%s without a firewall: %s after %v; want an answer\n%s", open[i].name, s.outcome, s.after, s.output)
		}
	}
	const protocols = 3
	leaks.each(func(count uint64, _ [][]byte) {
		if count < protocols {
			t.Fatalf("the sniffer saw %d packets of %d probes without a firewall", count, protocols)
		}
	})
}
