package nfq

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

func TestIntegrationMarksNFT(t *testing.T)    { isolated(t, VariantNFT, testMarks) }
func TestIntegrationMarksLegacy(t *testing.T) { isolated(t, VariantLegacy, testMarks) }

// Ports of the peer; each has an action.
const (
	oncePort = 7 + iota
	alwaysPort
	finalPort
	nameserverPort
	tunnelPort
	splitPort
)

// markPolicy counts what it decides by the peer's port.
type markPolicy struct {
	*trafficLog
	mu   sync.Mutex // guards seen
	seen map[uint16]int
}

func (m *markPolicy) Lookup(i *packet.Info) (verdict.Action, uint8, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[i.Remote.Port()]++
	actions := map[uint16]verdict.Action{
		alwaysPort: verdict.ActionPermanentAccept, finalPort: verdict.ActionPermanentAcceptFinal,
		nameserverPort: verdict.ActionRerouteToNameserver, tunnelPort: verdict.ActionRerouteToTunnel, splitPort: verdict.ActionRerouteToSplitTun,
	}
	if a, ok := actions[i.Remote.Port()]; ok && i.Direction == packet.Outbound {
		return a, 0, true
	}
	return verdict.ActionAccept, 0, true
}

func (m *markPolicy) Handle(p packet.Packet) { _ = p.Drop() } // not called

// count returns how many packets were decided since the last call.
func (m *markPolicy) count(port uint16) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.seen[port]
	delete(m.seen, port)
	return n
}

// exchanges exchanges until no packet is decided any more and returns how often: a label is set right after a verdict, and an
// answer may overtake that.
func (m *markPolicy) exchanges(t *testing.T, c net.Conn, port uint16) int {
	t.Helper()
	for n := 1; n <= 10; n++ {
		m.count(port)
		mustExchange(t, c)
		if m.count(port) == 0 {
			return n
		}
	}
	t.Fatal("got packets queued; want none any more")
	return 0
}

// dialMarked dials UDP with SO_MARK.
func dialMarked(t *testing.T, f family, port uint16, mark int) net.Conn {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) })
		if ctlErr != nil {
			return ctlErr
		}
		return err
	}}
	c, err := d.DialContext(t.Context(), "udp", netip.AddrPortFrom(serverAddr(f), port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// passed is how many packets a foreign rule has counted; the text is a part of the rule.
func (r *rig) passed(t *testing.T, f family, rule string) int {
	t.Helper()
	out := r.run("sh", "-c", r.tool(f, "-save")+" -c 2>/dev/null") // its warnings would stand in the middle of lines
	for line := range strings.Lines(out) {
		if m := regexp.MustCompile(`^\[(\d+):`).FindStringSubmatch(line); m != nil && strings.Contains(line, rule) {
			n, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no rule with %q in\n%s", rule, out)
	return 0
}

func testMarks(r *rig) {
	t := r.t
	for port := oncePort; port <= splitPort; port++ {
		for _, f := range []family{family4, family6} {
			r.peer.UDPEcho(t, netip.AddrPortFrom(serverAddr(f), uint16(port)).String())
		}
		r.peer.TCPEcho(t, fmt.Sprintf("[::]:%d", port))
	}
	for _, f := range []family{family4, family6} {
		r.rules(f, foreignRules(f))
	}
	// Connections are tracked already, without room for labels.
	var older [numFamilies]net.Conn
	for _, f := range []family{family4, family6} {
		older[f] = dialMarked(t, f, alwaysPort, 0x6d6f6c65)
		mustExchange(t, older[f])
	}
	r.cfg.Redirects = DefaultRedirects()
	m := &markPolicy{trafficLog: newTrafficLog(), seen: map[uint16]int{}}
	h, _ := r.sourceOf(t, m)
	t.Run("foreign marks", func(t *testing.T) { testForeignMarks(t, r, h, m) })
	t.Run("foreign connection mark", func(t *testing.T) { testForeignConnmark(t, r, h, m) })
	t.Run("older connections", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, f family) {
			m.exchanges(t, older[f], alwaysPort) // no room for the label: the entry goes, and the next one gets it
		})
	})
	t.Run("reports", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, f family) {
			c := dialMarked(t, f, alwaysPort, 0)
			mustExchange(t, c)
			other, err := openTracker(DefaultMarks())
			if err != nil {
				t.Fatal(err)
			}
			defer other.close()
			entry, err := other.find(udpTuple(c))
			if err != nil {
				t.Fatal(err)
			}
			if err := other.delete(&entry); err != nil {
				t.Fatal(err)
			}
			if got, want := m.next(t), udpTuple(c); got != want {
				t.Errorf("got the end of %v; want %v", got, want)
			}
		})
	})
	t.Run("accept final", func(t *testing.T) { testAcceptFinal(t, r) })
	t.Run("redirects", func(t *testing.T) { testRedirects(t, r) })
}

// testForeignMarks checks that packets keep other software's marks, and that a verdict for good holds without a mark of ours. The
// second mark uses the bits that tell the chains what was decided.
func testForeignMarks(t *testing.T, r *rig, h *host, m *markPolicy) {
	eachFamily(t, func(t *testing.T, f family) {
		for _, mark := range []int{0xca6c, 0x6d6f6c65} {
			for _, port := range []uint16{oncePort, alwaysPort} {
				// The rule sees each packet twice: as it is, and no other.
				rule := fmt.Sprintf("POSTROUTING -p udp -m udp --dport %d -m mark --mark %#x", port, mark)
				r.sh(t, fmt.Sprintf("%s -w -t mangle -A %s", r.tool(f, ""), rule))
				c := dialMarked(t, f, port, mark)
				m.count(port)
				mustExchange(t, c)
				if n := m.count(port); n < 1 {
					t.Errorf("mark %#x: got %d packets queued; want the first", mark, n)
				}
				sent, always := 2, port == alwaysPort
				if always {
					sent = 1 + m.exchanges(t, c, port)
				} else if mustExchange(t, c); m.count(port) != 2 {
					t.Errorf("mark %#x: want both packets queued", mark)
				}
				if n := r.passed(t, f, rule); n != sent {
					t.Errorf("mark %#x: got %d packets with it on the way out; want %d", mark, n, sent)
				}
				entry, err := h.tracker.Load().find(udpTuple(c))
				if err != nil || entry.labelled() != always || h.cfg.Marks.ours(entry.mark) {
					t.Errorf("mark %#x, port %d: got %+v, %v; want a label if it is for good, and no connection mark of ours", mark, port, entry, err)
				}
			}
		}
	})
}

// testForeignConnmark is the line of WEIR-V for connections whose mark another program holds.
func testForeignConnmark(t *testing.T, r *rig, h *host, m *markPolicy) {
	eachFamily(t, func(t *testing.T, f family) {
		rule := fmt.Sprintf("OUTPUT -p udp -m udp --dport %d -j CONNMARK --set-mark 0x51", alwaysPort)
		r.sh(t, r.tool(f, "")+" -w -t mangle -A "+rule)
		c := r.udp(t, packet.Outbound, f)
		c.Close()
		c = dialMarked(t, f, alwaysPort, 0)
		mustExchange(t, c)
		m.count(alwaysPort)
		mustExchange(t, c)
		if n := m.count(alwaysPort); n != 0 {
			t.Errorf("got %d packets queued; want none: a chain sets this label", n)
		}
		entry, err := h.tracker.Load().find(udpTuple(c))
		if err != nil || !entry.labelled() || entry.mark != 0x51 {
			t.Errorf("got %+v, %v; want a label, and the foreign mark untouched", entry, err)
		}
		r.sh(t, r.tool(f, "")+" -w -t mangle -D "+rule)
	})
}

// testAcceptFinal lets others drop what comes after us.
func testAcceptFinal(t *testing.T, r *rig) {
	eachFamily(t, func(t *testing.T, f family) {
		ports := fmt.Sprintf("OUTPUT -p udp -m multiport --dports %d,%d -j DROP", alwaysPort, finalPort)
		for _, table := range []string{"filter", "mangle"} {
			r.sh(t, fmt.Sprintf("%s -w -t %s -A %s", r.tool(f, ""), table, ports))
			if got, _ := talk((&net.Dialer{}).DialContext, "udp", netip.AddrPortFrom(serverAddr(f), finalPort), patience); got != answered {
				t.Errorf("%s: got %s for accept final; want it to overrule the foreign DROP", table, got)
			}
			if got, _ := talk((&net.Dialer{}).DialContext, "udp", netip.AddrPortFrom(serverAddr(f), alwaysPort), shortly); got == answered {
				t.Errorf("%s: got an answer for accept always; want the foreign DROP to hold", table)
			}
			r.sh(t, fmt.Sprintf("%s -w -t %s -D %s", r.tool(f, ""), table, ports))
		}
	})
}

// testRedirects checks that rerouted connections end at our servers, over TCP and UDP.
func testRedirects(t *testing.T, r *rig) {
	for _, test := range []struct{ to, port uint16 }{{53, nameserverPort}, {717, tunnelPort}, {719, splitPort}} {
		for _, f := range []family{family4, family6} {
			host := "127.0.0.17"
			if f == family6 {
				host = "::1"
			}
			address := net.JoinHostPort(host, strconv.Itoa(int(test.to)))
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			p, err := net.ListenPacket("udp", address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { p.Close() })
			go serveName(l, p, address)
			for _, network := range []string{"tcp", "udp"} {
				if got := ask(t, network, netip.AddrPortFrom(serverAddr(f), test.port)); got != address {
					t.Errorf("%s to port %d: got an answer from %q; want %q", network, test.port, got, address)
				}
			}
		}
	}
}

// serveName answers one connection and one packet with name.
func serveName(l net.Listener, p net.PacketConn, name string) {
	if c, err := l.Accept(); err == nil {
		_, _ = c.Write([]byte(name)) // the one who asks notices
		c.Close()
	}
	if _, from, err := p.ReadFrom(make([]byte, 16)); err == nil {
		_, _ = p.WriteTo([]byte(name), from)
	}
}

func ask(t *testing.T, network string, to netip.AddrPort) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, network, to.String())
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err.Error()
	}
	if _, err := c.Write([]byte("who?")); err != nil {
		return err.Error()
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil {
		return err.Error()
	}
	return string(b[:n])
}

func TestIntegrationOptionsNFT(t *testing.T)    { isolated(t, VariantNFT, testOptions) }
func TestIntegrationOptionsLegacy(t *testing.T) { isolated(t, VariantLegacy, testOptions) }

// testOptions runs with other names and numbers than the default.
func testOptions(r *rig) {
	t := r.t
	r.echoServers()
	r.cfg.ChainPrefix, r.cfg.BackstopTable = "Other_1", "other"
	r.cfg.Queues = Queues{Out4: 1, In4: 2, Out6: 3, In6: 4}
	m := shifted(DefaultMarks(), 0x1000)
	r.cfg.Marks = m
	h, stop := r.sourceOf(t, childPolicy{})
	flood := r.flood(t)
	eachFamily(t, func(t *testing.T, f family) {
		for _, kind := range []string{"tcp", "udp", "ping"} {
			for _, dir := range []packet.Direction{packet.Outbound, packet.Inbound} {
				if got, _, _ := r.probe(kind, dir, f, patience); got != answered {
					t.Errorf("%s %s: got %s; want what is allowed to pass", kind, dir, got)
				}
			}
		}
		text := r.run(r.tool(f, "-save"))
		for _, other := range []string{"WEIR-", "--queue-num 17", "mark 17", "mark 0x6a"} {
			if strings.Contains(text, other) {
				t.Errorf("got %q in the rules; want only numbers and names of the configuration:\n%s", other, text)
			}
		}
	})
	flood()
	r.peer.UDPEcho(t, netip.AddrPortFrom(serverAddr(family4), permanentPort).String())
	c := dialMarked(t, family4, permanentPort, 0)
	mustExchange(t, c)
	if entry, err := h.tracker.Load().find(udpTuple(c)); err != nil || entry.mark != m.AcceptAlways {
		t.Errorf("got %+v, %v; want connection mark %d", entry, err, m.AcceptAlways)
	}
	stop()
	if text := r.run(r.tool(family4, "-save")); strings.Contains(text, "Other_1") {
		t.Errorf("got rules left behind:\n%s", text)
	}
	t.Run("IPv4 only", func(t *testing.T) { testIPv4Only(t, r) })
	t.Run("routed split tunnel", func(t *testing.T) { testRouted(t, r) })
	t.Run("guard of split routes", func(t *testing.T) { testGuard(t, r) })
}

// testIPv4Only checks that the other family is left alone, by the backstop too.
func testIPv4Only(t *testing.T, r *rig) {
	const port = 9
	r.peer.TCPEcho(t, fmt.Sprintf("[::]:%d", port))
	r.cfg.Families = IPv4Only
	_, stop := r.sourceOf(t, portPolicy{})
	defer stop()
	if got, _ := talk((&net.Dialer{}).DialContext, "tcp", netip.AddrPortFrom(serverAddr(family6), port), patience); got != answered {
		t.Errorf("IPv6: got %s; want it unfiltered", got)
	}
	if got, _ := talk((&net.Dialer{}).DialContext, "tcp", netip.AddrPortFrom(serverAddr(family4), port), shortly); got != silence {
		t.Errorf("IPv4: got %s; want it dropped", got)
	}
	r.cfg.Families = BothFamilies
}

// testRouted checks that packets of a routed connection keep its route's mark, for `ip rule` to see, and replies come in.
func testRouted(t *testing.T, r *rig) {
	r.cfg.Redirects = Redirects{RouteSplitTun: true}
	m := &markPolicy{trafficLog: newTrafficLog(), seen: map[uint16]int{}}
	h, stop := r.sourceOf(t, m)
	defer stop()
	if err := h.allowRoutes(map[uint8]string{0: "eth0"}); err != nil {
		t.Fatal(err)
	}
	eachFamily(t, func(t *testing.T, f family) {
		r.peer.UDPEcho(t, netip.AddrPortFrom(serverAddr(f), splitPort).String())
		rules := map[string]string{}
		for hook, where := range map[string]string{"OUTPUT": "--dport", "INPUT": "--sport"} {
			rules[hook] = fmt.Sprintf("%s -p udp -m udp %s %d -m mark --mark %#x", hook, where, splitPort, r.cfg.Marks.SplitTun)
			r.sh(t, r.tool(f, "")+" -w -A "+rules[hook])
		}
		// a VPN's kill switch behind the routing
		killSwitch := fmt.Sprintf("POSTROUTING -p udp -m udp --dport %d -j DROP", splitPort)
		r.sh(t, r.tool(f, "")+" -w -t mangle -A "+killSwitch)
		c := dialMarked(t, f, splitPort, 0)
		mustExchange(t, c)
		mustExchange(t, c)
		if n := m.count(splitPort); n != 1 {
			t.Errorf("got %d packets queued; want the first", n)
		}
		for hook, rule := range rules {
			if n := r.passed(t, f, rule); n != 2 {
				t.Errorf("%s: got %d packets with the mark; want 2", hook, n)
			}
		}
		if n := r.passed(t, f, killSwitch); n != 0 {
			t.Errorf("got %d packets dropped by a rule behind the routing; want none", n)
		}
	})
}
