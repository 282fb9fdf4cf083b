package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// probes are one of each protocol and family, from the client or to it.
func (r *rig) probes(d packet.Direction) []verdictCase {
	var cases []verdictCase
	for _, server := range both() {
		for _, protocol := range []string{"tcp", "udp", "echo"} {
			c := verdictCase{
				name:  fmt.Sprintf("%s %s %s", d, protocol, server),
				probe: probe{host: r.client, protocol: protocol, from: clientOf(server), to: server},
			}
			if d == packet.Inbound {
				c.probe.host, c.probe.from, c.probe.to = r.server, c.probe.to, c.probe.from
			}
			cases = append(cases, c)
		}
	}
	return cases
}

// Denials that no rule asked for drop inbound connections, so that a scan gets no answer, and block outbound ones. Answers to
// what was allowed come in, neighbours are found and DHCP passes all the same.
func TestIntegrationDefaults(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		r.start(t, settings{rules: "default: {in: block, out: block}\n"})
		r.wantDenials(t)
		r.configure(t, settings{rules: "default: {in: block, out: allow}\n"})
		r.reload(t, "command")
		wantAll(t, r.probes(packet.Outbound), answered)
		wantAll(t, r.probes(packet.Inbound), silent)
	})
}

// wantDenials wants inbound probes dropped and outbound ones blocked. It returns how many there were.
func (r *rig) wantDenials(t *testing.T) int {
	t.Helper()
	cases := append(r.probes(packet.Outbound), r.probes(packet.Inbound)...)
	for i := range cases {
		c := &cases[i]
		c.verdict = "drop"
		if c.probe.host == r.client {
			c.verdict = "block"
		}
		c.probe.patience = c.expected().patience()
	}
	for i, s := range runAll(cases) {
		t.Run(cases[i].name, func(t *testing.T) { cases[i].check(t, s) })
	}
	return len(cases)
}

// A question is a denial by default at once while there is nobody to ask.
func TestIntegrationAsk(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t, testutil.VariantNFT)
	serveBoth(t, r)
	r.start(t, settings{rules: "default: {in: ask, out: ask}\n"})
	probes := r.wantDenials(t)
	list := r.conns(t)
	for _, s := range list {
		if s.Decision.Reason.Code != "ask-timeout" {
			t.Errorf("%v: got %+v; want ask-timeout", s.Tuple, s.Decision)
		}
	}
	if len(list) < probes {
		t.Errorf("%d connections; want %d or more", len(list), probes)
	}
}

// The addresses that blocked names are answered with are refused at once, whatever the rules say.
func TestIntegrationSinkhole(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t, testutil.VariantNFT)
	r.start(t, settings{rules: allowAll})
	for _, address := range []string{"0.0.0.17", "::17"} {
		a := netip.MustParseAddr(address)
		r.wantCurl(t, "curl", a, refused)
		if s := r.conn(t, a, webPort); s.Decision.Reason.Code != "sinkhole" {
			t.Errorf("%s: got %+v; want sinkhole", a, s.Decision)
		}
	}
}

// An answer to a multicast query comes in where nothing else does: it is from an address that was never sent to.
func TestIntegrationMulticastAnswer(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		r.start(t, settings{rules: "default: {in: block, out: allow}\n"})
		r.client.Run(t, "ip", "route", "add", "224.0.0.0/4", "dev", "eth0")
		for _, c := range []struct{ group, client, server string }{
			{"224.0.0.251:5353", testnet.ClientV4, testnet.ServerV4},
			{fmt.Sprintf("[ff02::fb%%%d]:5353", r.client.Index(t, "eth0")), testnet.ClientV6, testnet.ServerV6},
		} {
			if got := answerAfter(t, r, "", c.client, c.server); got {
				t.Errorf("%s: an unasked datagram came in", c.group)
			}
			if got := answerAfter(t, r, c.group, c.client, c.server); !got {
				t.Errorf("%s: the answer did not come in", c.group)
			}
		}
	})
}

// answerAfter sends a query from the client, and an answer from the server to where it came from; it says whether it came.
func answerAfter(t *testing.T, r *rig, group, client, server string) bool {
	t.Helper()
	asking, err := r.client.ListenPacket(t.Context(), "udp", net.JoinHostPort(client, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer asking.Close() //nolint:errcheck // nothing to lose
	answering, err := r.server.ListenPacket(t.Context(), "udp", net.JoinHostPort(server, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer answering.Close() //nolint:errcheck // nothing to lose
	patience := silent.patience()
	if group != "" {
		patience = answered.patience()
		seen := r.server.Sniff(t, "eth0", testnet.Filter{DstPort: 5353, Direction: testnet.Incoming})
		to := netip.MustParseAddrPort(group)
		err := r.client.Do(func() error {
			_, err := asking.WriteTo([]byte("query"), net.UDPAddrFromAddrPort(to))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		r.eventually(t, startLimit, "the query arrives", func() bool { return seen.Count() > 0 })
	}
	if _, err := answering.WriteTo([]byte("answer"), asking.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if err := asking.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 16)
	n, _, err := asking.ReadFrom(answer)
	return err == nil && strings.HasPrefix(string(answer[:n]), "answer")
}

// A SYN+ACK that nobody asked for is no answer: a scan with them learns nothing, and whoever sends one and then connects from the
// same port does not come in.
func TestIntegrationForgedAnswer(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		var seen []*testnet.Sniffer
		for _, port := range []uint16{webPort, closedPort} {
			f := testnet.Filter{Proto: unix.IPPROTO_TCP, SrcPort: port, Direction: testnet.Outgoing}
			seen = append(seen, r.client.Sniff(t, "eth0", f))
		}
		r.scan(t, 40000)
		r.eventually(t, startLimit, "without refd a scan gets answers", func() bool {
			return seen[0].Count() >= 2 && seen[1].Count() >= 2
		})
		r.start(t, settings{rules: "default: {in: block, out: allow}\n"})
		before := [2]uint64{seen[0].Count(), seen[1].Count()}
		r.scan(t, 41000)
		r.wantForgedRefused(t)
		for i, port := range []uint16{webPort, closedPort} {
			if n := seen[i].Count() - before[i]; n != 0 {
				t.Errorf("port %d: %d answers to a scan; want none", port, n)
			}
		}
		for _, s := range r.conns(t, "--direction", "in") {
			if s.Tuple.Protocol == packet.TCP && s.Verdict().Allows() {
				t.Errorf("%v: got %+v; want it refused", s.Tuple, s.Decision)
			}
		}
		wantAll(t, r.probes(packet.Outbound), answered)
	})
}

// A datagram with which the client answers what came in before refd started does not make it a conversation of its own.
func TestIntegrationOlderQuestion(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		r.iptables(t, "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW") // has connections tracked
		var asked []*question
		for _, server := range both() {
			q := r.ask(t, server)
			defer q.close()
			asked = append(asked, q)
		}
		r.start(t, settings{rules: "default: {in: block, out: allow}\n"})
		for _, q := range asked {
			q.answer(t)
			r.eventually(t, startLimit, "the answer was judged", func() bool {
				list := r.conns(t, "--remote", q.from.String(), "--port", fmt.Sprint(q.port))
				if len(list) == 0 || list[0].Verdict() == verdict.Undecided {
					return false
				}
				if s := list[0]; s.Direction != packet.Inbound || s.Verdict() != verdict.Drop {
					t.Errorf("%v: got %v, %+v; want it inbound and dropped", s.Tuple, s.Direction, s.Decision)
				}
				return true
			})
		}
	})
}

// question is a datagram from the server that has reached the client.
type question struct {
	at   net.PacketConn // the client's
	from netip.Addr
	port uint16
	peer net.Addr
	end  func()
}

func (r *rig) ask(t *testing.T, server netip.Addr) *question {
	t.Helper()
	at, err := r.client.ListenPacket(t.Context(), "udp", hostPort(clientOf(server), 0))
	if err != nil {
		t.Fatal(err)
	}
	from, err := r.server.ListenPacket(t.Context(), "udp", hostPort(server, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := from.WriteTo([]byte("question"), at.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if err := at.SetReadDeadline(time.Now().Add(answered.patience())); err != nil {
		t.Fatal(err)
	}
	_, peer, err := at.ReadFrom(make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	q := &question{at: at, from: server, peer: peer}
	q.port = netip.MustParseAddrPort(at.LocalAddr().String()).Port()
	q.end = func() { from.Close() } //nolint:errcheck,gosec // nothing to lose
	return q
}

func (q *question) answer(t *testing.T) {
	t.Helper()
	if _, err := q.at.WriteTo([]byte("answer"), q.peer); err != nil {
		t.Fatal(err)
	}
}

func (q *question) close() {
	q.at.Close() //nolint:errcheck,gosec // nothing to lose
	q.end()
}

// closedPort has no server.
const closedPort = 8081

// scan sends one SYN+ACK in each family to an open and a closed port of the client.
func (r *rig) scan(t *testing.T, from uint16) {
	t.Helper()
	for _, server := range both() {
		for _, to := range []uint16{webPort, closedPort} {
			r.forge(t, netip.AddrPortFrom(server, from), netip.AddrPortFrom(clientOf(server), to))
		}
	}
}

// wantForgedRefused sends SYN+ACKs from the server, and connects from their ports before the firewall could take the connection
// for another one.
func (r *rig) wantForgedRefused(t *testing.T) {
	t.Helper()
	type attempt struct{ from, to netip.AddrPort }
	var all []attempt
	for _, server := range both() {
		for port := range uint16(3) {
			all = append(all, attempt{netip.AddrPortFrom(server, 42000+port), netip.AddrPortFrom(clientOf(server), webPort)})
		}
	}
	for _, a := range all {
		r.forge(t, a.from, a.to)
	}
	time.Sleep(30 * time.Millisecond) // the attack: after the SYN+ACKs were judged, and while they are new
	ctx, cancel := context.WithTimeout(t.Context(), silent.patience())
	defer cancel()
	var attempts sync.WaitGroup
	for _, a := range all {
		attempts.Go(func() {
			c, err := r.server.DialFrom(ctx, "tcp", net.TCPAddrFromAddrPort(a.from), a.to.String())
			if err == nil {
				c.Close() //nolint:errcheck,gosec // nothing to lose
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("from %v to %v: got %v; want no answer", a.from, a.to, err)
			}
		})
	}
	attempts.Wait()
}

// forge sends a SYN+ACK from the server, whose kernel knows of no connection.
func (r *rig) forge(t *testing.T, from, to netip.AddrPort) {
	t.Helper()
	network := "ip4:tcp"
	var ip gopacket.NetworkLayer = &layers.IPv4{SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice(), Protocol: layers.IPProtocolTCP}
	if from.Addr().Is6() {
		network = "ip6:tcp"
		ip = &layers.IPv6{SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice(), NextHeader: layers.IPProtocolTCP}
	}
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(from.Port()), DstPort: layers.TCPPort(to.Port()), Seq: 1, Ack: 1, SYN: true, ACK: true, Window: 1000,
	}
	segment := gopacket.NewSerializeBuffer()
	err := errors.Join(tcp.SetNetworkLayerForChecksum(ip),
		tcp.SerializeTo(segment, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}))
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.server.ListenPacket(t.Context(), network, from.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // nothing to lose
	if _, err := c.WriteTo(segment.Bytes(), &net.IPAddr{IP: to.Addr().AsSlice()}); err != nil {
		t.Fatal(err)
	}
}
