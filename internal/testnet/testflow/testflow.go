// Package testflow sends real UDP packets through the packet backends of Linux, between two network namespaces, and tells what
// became of each: the traffic for intercepttest.Conformance.
package testflow

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
)

// Net is the network namespace of this process, and a peer. They are joined by
// eth0 with the addresses of testnet.
type Net struct {
	Peer *testnet.Host
}

// Isolate runs the calling test again in a process inside a fresh namespace,
// with a peer. It returns nil in the process that is not isolated: the test has
// run then.
func Isolate(t *testing.T) *Net {
	t.Helper()
	testutil.RequireNFQUEUE(t)
	testutil.RequireIPTables(t, testutil.VariantNFT)
	if !testnet.Isolate(t) {
		return nil
	}
	testnet.RequireOwnNamespace(t)
	n := &Net{Peer: testnet.New(t).Host("peer")}
	// No neighbour may be looked for while a test drops everything, so both
	// sides know each other.
	for _, key := range []string{"accept_dad", "router_solicitations"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/"+key, []byte("0"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The kernel answers one host with no more than six ICMP errors at once and one a second after that. A suite refuses more.
	for _, key := range []string{"ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"} {
		if err := os.WriteFile("/proc/sys/net/"+key, []byte("0"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	Command(t, "ip", "link", "add", "eth0", "address", "02:00:00:00:00:01", "type", "veth",
		"peer", "name", "eth0", "address", "02:00:00:00:00:02", "netns", n.Peer.Netns())
	for _, end := range []struct {
		run                         func(name string, args ...string)
		own4, own6, his4, his6, mac string
	}{
		{func(name string, args ...string) { Command(t, name, args...) },
			testnet.ClientV4, testnet.ClientV6, testnet.ServerV4, testnet.ServerV6, "02:00:00:00:00:02"},
		{func(name string, args ...string) { n.Peer.Run(t, name, args...) },
			testnet.ServerV4, testnet.ServerV6, testnet.ClientV4, testnet.ClientV6, "02:00:00:00:00:01"},
	} {
		end.run("ip", "address", "add", end.own4+"/24", "dev", "eth0")
		end.run("ip", "address", "add", end.own6+"/64", "dev", "eth0", "nodad")
		end.run("ip", "link", "set", "eth0", "up")
		end.run("ip", "neighbour", "add", end.his4, "lladdr", end.mac, "dev", "eth0", "nud", "permanent")
		end.run("ip", "neighbour", "add", end.his6, "lladdr", end.mac, "dev", "eth0", "nud", "permanent")
	}
	return n
}

// Command runs a program in the namespace of this process and returns what it
// printed.
func Command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// flow is a UDP connection between this namespace and the peer.
type flow struct {
	tuple  packet.Tuple
	client *net.UDPConn // sends
	server net.PacketConn
	// elsewhere are sockets that rerouted packets arrive at.
	elsewhere []net.PacketConn
	sent      int
	fate      intercepttest.Fate // of the packet that was sent last, once it is known: Lost until then
}

// Flow returns a flow of a kind. What arrives at one of elsewhere was rerouted.
func (n *Net) Flow(t *testing.T, kind intercepttest.FlowKind, elsewhere ...net.PacketConn) intercepttest.Flow {
	t.Helper()
	ours, peer := testnet.ClientV4, testnet.ServerV4
	if kind.Version == 6 {
		ours, peer = testnet.ClientV6, testnet.ServerV6
	}
	f := &flow{elsewhere: elsewhere}
	var err error
	if kind.Direction == packet.Outbound {
		f.server, err = n.Peer.ListenPacket(t.Context(), "udp", net.JoinHostPort(peer, "0"))
	} else {
		f.server, err = net.ListenPacket("udp", net.JoinHostPort(ours, "0"))
	}
	if err != nil {
		t.Fatal(err)
	}
	var c net.Conn
	if kind.Direction == packet.Outbound {
		c, err = net.Dial("udp", f.server.LocalAddr().String())
	} else {
		c, err = n.Peer.Dial(t.Context(), "udp", f.server.LocalAddr().String())
	}
	if err != nil {
		t.Fatal(err)
	}
	f.client = c.(*net.UDPConn) //nolint:errcheck,forcetypeassert // that is what udp is
	t.Cleanup(func() {
		if err := errors.Join(f.client.Close(), f.server.Close()); err != nil {
			t.Error(err)
		}
	})
	src, dst := addrPort(f.client.LocalAddr()), addrPort(f.server.LocalAddr())
	f.tuple = packet.Tuple{Local: src, Remote: dst, Protocol: packet.UDP}
	if kind.Direction == packet.Inbound {
		f.tuple = f.tuple.Reverse()
	}
	return f
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.UDPAddr).AddrPort() //nolint:errcheck,forcetypeassert // that is what udp is
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Tuple implements intercepttest.Flow.
func (f *flow) Tuple() packet.Tuple { return f.tuple }

func (f *flow) token() string { return fmt.Sprintf("%v #%d", f.tuple, f.sent) }

// Send implements intercepttest.Flow.
func (f *flow) Send() error {
	f.sent++
	f.fate = intercepttest.Lost
	_, err := f.client.Write([]byte(f.token()))
	switch {
	case refusal(err):
		f.fate = intercepttest.Refused
		return nil
	case errors.Is(err, syscall.EPERM): // a rule dropped it
		return nil
	}
	return err
}

// refusal reports whether err is what a blocked sender sees.
func refusal(err error) bool {
	return errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EACCES)
}

// Fate implements intercepttest.Flow.
func (f *flow) Fate(within time.Duration) intercepttest.Fate {
	for end := time.Now().Add(within); f.fate == intercepttest.Lost && time.Now().Before(end); {
		f.look()
	}
	return f.fate
}

// look waits a moment at each place where the last packet, or news of it, may arrive.
func (f *flow) look() {
	switch {
	case refusal(f.clientError()):
		f.fate = intercepttest.Refused
	case f.arrived(f.server):
		f.fate = intercepttest.Passed
	default:
		for _, c := range f.elsewhere {
			if f.arrived(c) {
				f.fate = intercepttest.Rerouted
			}
		}
	}
}

// clientError returns what the sender was told about an earlier packet.
func (f *flow) clientError() error {
	_, err := f.read(f.client)
	return err
}

// arrived reports whether the last packet is at c.
func (f *flow) arrived(c net.PacketConn) bool {
	got, err := f.read(c)
	return err == nil && got == f.token()
}

// read waits a moment for a packet.
func (f *flow) read(c net.PacketConn) (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		return "", fmt.Errorf("testflow: %w", err)
	}
	b := make([]byte, 256)
	n, _, err := c.ReadFrom(b)
	if err != nil {
		return "", fmt.Errorf("testflow: %w", err)
	}
	return string(b[:n]), nil
}

// FeedQueue loads the rules of somebody who has a queue of his own: all UDP packets to and from this namespace go to it,
// unless they carry one of the marks 1536 to 2047, which are those of package nfq.
func FeedQueue(t testing.TB, queue uint16) {
	t.Helper()
	for _, program := range []string{"iptables-nft", "ip6tables-nft"} {
		for _, chain := range []string{"INPUT", "OUTPUT"} {
			Command(t, program, "-t", "mangle", "-A", chain, "-p", "udp", "-m", "mark", "!", "--mark", "0x600/0xfffffe00",
				"-j", "NFQUEUE", "--queue-num", strconv.Itoa(int(queue)))
		}
	}
}
