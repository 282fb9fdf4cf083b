package nfq

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	nfqueue "github.com/florianl/go-nfqueue/v2"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/pkg/packet"
)

func TestIntegrationRulesetNFT(t *testing.T)    { isolated(t, VariantNFT, testVerdicts) }
func TestIntegrationRulesetLegacy(t *testing.T) { isolated(t, VariantLegacy, testVerdicts) }

// outcome is what the one who starts a conversation sees.
type outcome string

const (
	answered outcome = "answered"
	refused  outcome = "refused at once"
	silence  outcome = "silence"
)

// patience is how long an answer may take on a very busy machine; shortly is how long silence is listened to.
const (
	patience = 5 * time.Second
	shortly  = 80 * time.Millisecond
)

func classify(err error) outcome {
	var timeout net.Error
	switch {
	case err == nil:
		return answered
	case errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded):
		return silence
	case errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EACCES):
		return refused
	}
	return outcome(err.Error())
}

// waitFor is how long to wait for an outcome.
func waitFor(want outcome) time.Duration {
	if want == silence {
		return shortly
	}
	return patience
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// talk dials and exchanges a few bytes with an echo server. port is the client's, if it got that far.
func talk(dial dialFunc, network string, to netip.AddrPort, wait time.Duration) (got outcome, port uint16) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	c, err := dial(ctx, network, to.String())
	if err != nil {
		return classify(err), 0
	}
	defer c.Close()
	return exchange(c, wait), netip.MustParseAddrPort(c.LocalAddr().String()).Port()
}

// exchange sends a few bytes and waits for them.
func exchange(c net.Conn, wait time.Duration) outcome {
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		return classify(err)
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		return classify(err)
	}
	_, err := c.Read(make([]byte, 16))
	return classify(err)
}

func pingOutcome(out string, err error) outcome {
	switch {
	case err == nil:
		return answered
	case strings.Contains(out, "rohibited") || strings.Contains(out, "nreachable"):
		return refused
	}
	return silence
}

// echoServers serves TCP and UDP on port 7 of this host; the peer has its own.
func (r *rig) echoServers() {
	r.t.Helper()
	r.peer.TCPEcho(r.t, "[::]:7")
	for _, f := range []family{family4, family6} {
		r.peer.UDPEcho(r.t, netip.AddrPortFrom(serverAddr(f), 7).String())
	}
	l, err := net.Listen("tcp", "[::]:7")
	if err != nil {
		r.t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				b := make([]byte, 64)
				for n, err := c.Read(b); err == nil; n, err = c.Read(b) {
					_, _ = c.Write(b[:n]) // the other side may be gone
				}
				c.Close()
			}()
		}
	}()
	r.t.Cleanup(func() { l.Close() })
	for _, addr := range []string{testnet.ClientV4, testnet.ClientV6, "127.0.0.1", "::1"} {
		p, err := net.ListenPacket("udp", net.JoinHostPort(addr, "7"))
		if err != nil {
			r.t.Fatal(err)
		}
		go func() {
			b := make([]byte, 64)
			for n, from, err := p.ReadFrom(b); err == nil; n, from, err = p.ReadFrom(b) {
				_, _ = p.WriteTo(b[:n], from) // a refused answer is part of the tests
			}
		}()
		r.t.Cleanup(func() { p.Close() })
	}
}

// probe starts a conversation in one direction: tcp, udp or ping. protocol and port tell its packets.
func (r *rig) probe(kind string, dir packet.Direction, f family, wait time.Duration) (got outcome, protocol packet.Protocol, port uint16) {
	r.t.Helper()
	seconds := fmt.Sprintf("-W%.2f", wait.Seconds())
	switch kind {
	case "ping":
		protocol = packet.ICMP
		if f == family6 {
			protocol = packet.ICMPv6
		}
		if dir == packet.Outbound {
			return pingOutcome(r.try("ping", "-c1", seconds, serverAddr(f).String())), protocol, 0
		}
		return pingOutcome(r.peer.Try("ping", "-c1", seconds, clientAddr(f).String())), protocol, 0
	case "tcp":
		protocol = packet.TCP
	default:
		protocol = packet.UDP
	}
	if dir == packet.Outbound {
		got, port = talk((&net.Dialer{}).DialContext, kind, netip.AddrPortFrom(serverAddr(f), 7), wait)
	} else {
		got, port = talk(r.peer.Dial, kind, netip.AddrPortFrom(clientAddr(f), 7), wait)
	}
	return got, protocol, port
}

func testVerdicts(r *rig) {
	t, m := r.t, DefaultMarks()
	r.echoServers()
	h := r.start()
	rd := r.read(all(repeat(m.Accept)))
	for _, test := range []struct {
		name      string
		decide    decision
		want      outcome // tcp and udp
		wantPing  outcome
		permanent bool // later packets are not seen
	}{
		{"accept", repeat(m.Accept), answered, answered, false},
		{"block", repeat(m.Block), refused, silence, false},
		{"drop", repeat(m.Drop), silence, silence, false},
		{"accept always", repeat(m.AcceptAlways), answered, answered, true},
		{"accept final", repeat(m.AcceptFinal), answered, answered, true},
		{"block always", repeat(m.BlockAlways), refused, silence, false},
		{"drop always", repeat(m.DropAlways), silence, silence, false},
		{"reroute that is off", repeat(m.Tunnel), silence, silence, false},
		{"kernel drop", decision{nf: nfqueue.NfDrop}, silence, silence, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) {
				for _, kind := range []string{"tcp", "udp", "ping"} {
					for _, dir := range []packet.Direction{packet.Outbound, packet.Inbound} {
						rd.set(all(test.decide))
						rd.count(0, 0)
						want := test.want
						if kind == "ping" {
							want = test.wantPing
						}
						got, protocol, port := r.probe(kind, dir, f, waitFor(want))
						if got != want {
							t.Errorf("%s %s: got %s; want %s", kind, dir, got, want)
						}
						if infos := rd.count(protocol, port); test.permanent && len(infos) != 1 || len(infos) < 1 {
							t.Errorf("%s %s: got %d packets in the queue; want 1 (more if not permanent): %v", kind, dir, len(infos), infos)
						}
						if err := h.forgetAll(); err != nil {
							t.Fatal(err)
						}
					}
				}
			})
		})
	}
	t.Run("loopback", func(t *testing.T) { testLoopback(t, rd) })
	t.Run("established then blocked", func(t *testing.T) { testUpdateBlock(t, r, h, rd) })
}

// testLoopback checks that both directions of loopback are judged.
func testLoopback(t *testing.T, rd *reader) {
	m := DefaultMarks()
	dial := (&net.Dialer{}).DialContext
	for _, addr := range []string{"127.0.0.1", "::1"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(addr), 7)
		for _, kind := range []string{"tcp", "udp"} {
			for _, test := range []struct {
				name    string
				out, in uint32
				want    outcome
			}{
				{"accepted", m.Accept, m.Accept, answered},
				{"refused on the way in", m.Accept, m.Block, refused},
				{"dropped on the way in", m.Accept, m.Drop, silence},
				{"refused on the way out", m.Block, m.Accept, refused},
				{"in for good", m.Accept, m.AcceptAlways, answered},
			} {
				rd.set(func(queue uint16, _ packet.Info) decision {
					if q := DefaultQueues(); queue == q.In4 || queue == q.In6 {
						return repeat(test.in)
					}
					return repeat(test.out)
				})
				if got, _ := talk(dial, kind, to, waitFor(test.want)); got != test.want {
					t.Errorf("%s %s %s: got %s; want %s", kind, addr, test.name, got, test.want)
				}
			}
		}
	}
	rd.set(all(repeat(m.Accept)))
}

func testUpdateBlock(t *testing.T, r *rig, h *host, rd *reader) {
	m := DefaultMarks()
	rd.set(all(repeat(m.AcceptAlways)))
	eachFamily(t, func(t *testing.T, f family) {
		to := netip.AddrPortFrom(serverAddr(f), 7)
		c, err := net.Dial("tcp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := exchange(c, patience); got != answered {
			t.Fatalf("got %s; want the connection to work", got)
		}
		tuple := packet.Tuple{Local: c.LocalAddr().(*net.TCPAddr).AddrPort(), Remote: to, Protocol: packet.TCP}
		rd.count(0, 0)
		for _, step := range []struct {
			mark   uint32
			want   outcome
			queued bool
		}{
			{m.DropAlways, silence, false},
			{m.AcceptAlways, answered, false},
			{m.Accept, answered, true}, // not permanent: asked again
		} {
			if err := h.update(tuple, step.mark); err != nil {
				t.Fatal(err)
			}
			if got := exchange(c, waitFor(step.want)); got != step.want {
				t.Errorf("after update to %d: got %s; want %s", step.mark, got, step.want)
			}
			if infos := rd.count(packet.TCP, tuple.Local.Port()); (len(infos) > 0) != step.queued {
				t.Errorf("after update to %d: got %d packets in the queue; want some: %v: %v", step.mark, len(infos), step.queued, infos)
			}
		}
		if err := h.update(tuple, m.BlockAlways); err != nil {
			t.Fatal(err)
		}
		if err := cut(tuple); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("got %v after cut; want ECONNABORTED", err)
		}
	})
}
